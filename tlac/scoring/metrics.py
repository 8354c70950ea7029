"""What a set of predictions amounts to: accuracy with its interval, coverage, per class, by what decided.

Every non-answer counts as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tlac.scoring.confidence import ConfidenceMetrics, count_confidences, join_confidences, measure_confidence
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Int32Array, Predictions
from tlac.types import BoolArray, Float64Array, Int64Array, Outcome, Prediction

# the 97.5 % point of the normal distribution; importing scipy.stats for it would double a warm run's time
Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class DecisionMetrics:
    """The samples that were decided in one way: how many, and their accuracy."""

    n: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class: labelled samples, predictions of it, and right ones."""

    index: int
    n: int
    predicted: int
    correct: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """A class that was taken for another, and how often; both are indices."""

    label: int
    predicted: int
    n: int


@dataclass(frozen=True, slots=True)
class ShortlistMetrics:
    """The samples whose stage 2 was shown a shortlist: how many, its mean length, how many of them also saw the
    image again, and the share of the labelled ones whose true class stood in it, None without labels."""

    n: int
    mean_size: float
    stage2_with_image: int
    holds_label: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Shares lie in [0, 1]; None where they are not defined (no labels, or no sample).

    `accuracy` is right answers over all samples, `accuracy_answered` over the answered ones, `coverage`
    answered over all. `top5` asks whether the label is among the five best, the prediction counting as
    the first. `mean_per_class` is the unweighted mean over the classes that have samples, `macro_f1` over
    the classes that have samples or predictions. `confused` are the pairs confused most often. `abstained`
    counts the predictions that were not sure enough, `unread_choices` the samples whose stage-2 answer named no class,
    so that similarity decided. `accuracy_unhinted` is that of the `unhinted` samples, whose class stage 1 did not name;
    both are None where it named none. A run in which every call failed has no accuracy of any kind.
    """

    n: int
    answered: int
    refused: int
    empty: int
    truncated: int
    unparsed: int
    failed: int
    coverage: float | None
    accuracy: float | None
    accuracy_ci95: tuple[float, float] | None
    accuracy_answered: float | None
    top5: float | None
    mean_per_class: float | None
    macro_f1: float | None
    by_decision: dict[str, DecisionMetrics]
    per_class: tuple[ClassMetrics, ...]
    confused: tuple[Confusion, ...] = ()
    abstained: int = 0
    shortlist: ShortlistMetrics | None = None
    confidence: ConfidenceMetrics | None = None
    unread_choices: int = 0
    unhinted: int | None = None
    accuracy_unhinted: float | None = None


def hinted_classes(classes: Sequence[str], hints: Collection[str]) -> tuple[int, ...]:
    """The indices of the classes whose names stage 1 showed; a name may stand twice."""
    return tuple(index for index, name in enumerate(classes) if name in hints)


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion at 95 % (JASA 22, 1927), for 0 <= correct <= n, n >= 1."""
    share, z2 = correct / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


@dataclass(frozen=True, slots=True)
class Counts:
    """What metrics are made of, as counts: those of parts of a run sum up to those of the whole.

    `table` (k, 6) has a label, a predicted class, an outcome and what decided (-1 for none), then whether there is a
    choice that names no class, and whether the label is among the five best; `n` (k,) are the samples like that.
    Joined, k is bounded by the classes, whatever the samples. `shortlists` (5,) sums up samples with a shortlist, its
    classes, those that saw the image again, labelled ones, and those whose class stood in it.
    `confidences` (3, j) and `is_calibrated` are as `count_confidences` has them.
    """

    table: Int32Array
    n: Int64Array
    shortlists: Int64Array
    confidences: Float64Array
    is_calibrated: bool

    @classmethod
    def of(cls, predictions: Predictions) -> Counts:
        """Count predictions."""
        decisions, size = predictions.decisions, max(len(predictions.decisions), 1)
        # equal pairs of label and decision are counted once
        pairs, n = np.unique(predictions.label.astype(np.int64) * size + predictions.decision, return_counts=True)
        label, decision = np.divmod(pairs, size)
        has_choice = np.array([choice is not None for choice in decisions.choice], np.bool_)
        is_unread = has_choice & (decisions.decided_by == DECISIONS.index("similarity"))
        # what has abstained keeps its candidates, and has named none of them
        is_named = (decisions.predicted[decision] >= 0) & (label >= 0)
        is_in_top = (decisions.top_classes[decision] == label[:, None]).any(axis=1) & is_named
        columns = (
            *(label, decisions.predicted[decision], decisions.outcome[decision], decisions.decided_by[decision]),
            *(is_unread[decision], is_in_top),
        )
        return cls(
            np.stack([column.astype(np.int32) for column in columns], axis=1),
            n,
            _count_shortlists(predictions),
            *count_confidences(predictions),
        )

    @classmethod
    def join(cls, parts: Sequence[Counts]) -> Counts:
        """Sum up the counts of one part or more."""
        rows = np.concatenate([one.table for one in parts])
        sizes = tuple((rows.max(axis=0, initial=-1) + 2).tolist())
        # as one number each, which take a sixth of the room while they are sorted
        codes, place = np.unique(np.ravel_multi_index(tuple(rows.T + 1), sizes), return_inverse=True)
        table = np.stack(np.unravel_index(codes, sizes), axis=1).astype(np.int32) - 1
        n = np.bincount(place, np.concatenate([one.n for one in parts]), len(table)).astype(np.int64)
        shortlists = np.sum([one.shortlists for one in parts], axis=0)
        confidences = join_confidences([one.confidences for one in parts])
        return cls(table, n, shortlists, confidences, all(one.is_calibrated for one in parts if one.confidences.size))


def measure(rows: Iterable[Prediction], hinted: Collection[int] = ()) -> Metrics:
    """The metrics of predictions, labelled or not; `hinted` are the classes that stage 1 named."""
    return measure_counts(Counts.of(Predictions.of(rows)), hinted)


def measure_counts(counted: Counts, hinted: Collection[int] = ()) -> Metrics:
    """As `measure`, of predictions that were counted."""
    total = int(counted.n.sum())
    labels, _, codes, _, is_unread, _ = counted.table.T
    tallies = np.bincount(codes, counted.n, minlength=len(OUTCOMES)).astype(np.int64).tolist()
    outcomes = dict(zip(OUTCOMES, tallies, strict=True))
    # where every call failed nothing was measured: no answer, no number, not an accuracy of 0
    is_measured = (labels >= 0) & (outcomes[Outcome.FAILED] < total)
    label, predicted, outcome, decided_by, _, is_in_top = counted.table[is_measured].astype(np.int64).T
    counts = counted.n[is_measured]
    is_answered = outcome == OUTCOMES.index(Outcome.ANSWERED)
    is_correct = predicted == label
    n, correct = int(counts.sum()), int(counts[is_correct].sum())
    is_unhinted = ~np.isin(label, list(hinted))
    unhinted = int(counts[is_unhinted].sum()) if hinted else None
    per_class = _per_class(label, predicted, counts)
    recalls = [entry.correct / entry.n for entry in per_class if entry.n]
    scores = [2 * entry.correct / (entry.n + entry.predicted) for entry in per_class]
    return Metrics(
        n=total,
        answered=outcomes[Outcome.ANSWERED],
        refused=outcomes[Outcome.REFUSED],
        empty=outcomes[Outcome.EMPTY],
        truncated=outcomes[Outcome.TRUNCATED],
        unparsed=outcomes[Outcome.UNPARSED],
        failed=outcomes[Outcome.FAILED],
        coverage=_share(outcomes[Outcome.ANSWERED], total),
        accuracy=_share(correct, n),
        accuracy_ci95=wilson_interval(correct, n) if n else None,
        accuracy_answered=_share(correct, int(counts[is_answered].sum())),
        top5=_share(int(counts[is_in_top > 0].sum()), n),
        mean_per_class=_share(math.fsum(recalls), len(recalls)),
        macro_f1=_share(math.fsum(scores), len(scores)),
        by_decision=_by_decision(decided_by, counts, is_correct, predicted >= 0),
        per_class=per_class,
        confused=_most_confused(label, predicted, counts),
        abstained=outcomes[Outcome.ABSTAINED],
        shortlist=_measure_shortlists(*counted.shortlists.tolist()),
        confidence=measure_confidence(counted.confidences, counted.is_calibrated),
        unread_choices=int(counted.n[is_unread > 0].sum()),
        unhinted=unhinted,
        accuracy_unhinted=_share(int(counts[is_unhinted & is_correct].sum()), unhinted) if unhinted else None,
    )


def _count_shortlists(predictions: Predictions) -> Int64Array:
    has_list = predictions.shortlist > 0
    lists, labels = predictions.shortlist[has_list].tolist(), predictions.label[has_list].tolist()
    labelled = [(label, predictions.shortlists[one]) for label, one in zip(labels, lists, strict=True) if label >= 0]
    size = sum(len(predictions.shortlists[one]) for one in lists)
    again = int(predictions.stage2_with_image[has_list].sum())
    return np.array(
        [len(lists), size, again, len(labelled), sum(label in shown for label, shown in labelled)], np.int64
    )


def _measure_shortlists(n: int, size: int, again: int, labelled: int, holding: int) -> ShortlistMetrics | None:
    return ShortlistMetrics(n, size / n, again, _share(holding, labelled)) if n else None


def _most_confused(
    label: Int64Array, predicted: Int64Array, counts: Int64Array, most: int = 10
) -> tuple[Confusion, ...]:
    """The pairs (label, predicted) that occur most often, then by label and prediction."""
    is_wrong = (predicted >= 0) & (predicted != label)
    size = int(predicted.max(initial=-1)) + 1
    pairs, group = np.unique(label[is_wrong] * size + predicted[is_wrong], return_inverse=True)
    times = np.bincount(group, counts[is_wrong])
    # a stable order: of pairs that occur equally often the lower one comes first
    chosen = np.argsort(-times, kind="stable")[:most]
    found = zip(*divmod(pairs[chosen], max(size, 1)), times[chosen], strict=True)
    return tuple(Confusion(int(own), int(other), int(n)) for own, other, n in found)


def _per_class(label: Int64Array, predicted: Int64Array, counts: Int64Array) -> tuple[ClassMetrics, ...]:
    size = int(max(label.max(initial=-1), predicted.max(initial=-1))) + 1

    def count(classes: Int64Array, chosen: BoolArray) -> list[int]:
        return [round(n) for n in np.bincount(classes[chosen], counts[chosen], minlength=size).tolist()]

    support = count(label, label >= 0)
    named = count(predicted, predicted >= 0)
    correct = count(label, label == predicted)
    seen = [index for index in range(size) if support[index] or named[index]]
    return tuple(ClassMetrics(index, support[index], named[index], correct[index]) for index in seen)


def _by_decision(
    decided_by: Int64Array, counts: Int64Array, is_correct: BoolArray, has_class: BoolArray
) -> dict[str, DecisionMetrics]:
    found = {}
    for code, name in enumerate(DECISIONS):
        is_own = (decided_by == code) & has_class
        if n := int(counts[is_own].sum()):
            found[name] = DecisionMetrics(n, int(counts[is_own & is_correct].sum()) / n)
    return dict(sorted(found.items()))
