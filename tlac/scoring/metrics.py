"""What a set of predictions amounts to: accuracy with its interval, coverage, per class, by what decided.

Every non-answer counts as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tlac.scoring.confidence import ConfidenceMetrics, measure_confidence
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Predictions
from tlac.types import BoolArray, Outcome, Prediction

# the 97.5 % point of the normal distribution; importing scipy.stats for it would double a warm run's time
Z95 = 1.959963984540054
Counts: TypeAlias = NDArray[np.signedinteger]


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


def measure(rows: Iterable[Prediction], hinted: Collection[int] = ()) -> Metrics:
    """The metrics of predictions, labelled or not; `hinted` are the classes that stage 1 named."""
    predictions = Predictions.of(rows)
    decisions = predictions.decisions
    total = len(predictions)
    outcomes = dict(zip(OUTCOMES, np.bincount(predictions.outcome, minlength=len(OUTCOMES)).tolist(), strict=True))
    # equal pairs of label and decision are counted once
    pairs = predictions.label.astype(np.int64) * max(len(decisions), 1) + predictions.decision
    # where every call failed nothing was measured: no answer, no number, not an accuracy of 0
    is_measured = (predictions.label >= 0) & (outcomes[Outcome.FAILED] < total)
    distinct, counts = np.unique(pairs[is_measured], return_counts=True)
    label, decision = np.divmod(distinct, max(len(decisions), 1))
    predicted = decisions.predicted[decision]
    is_answered = decisions.outcome[decision] == OUTCOMES.index(Outcome.ANSWERED)
    is_correct = predicted == label
    is_unread = np.array([choice is not None for choice in decisions.choice], np.bool_) & (
        decisions.decided_by == DECISIONS.index("similarity")
    )
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
        top5=_share(int(counts[(decisions.top_classes[decision] == label[:, None]).any(axis=1)].sum()), n),
        mean_per_class=_share(math.fsum(recalls), len(recalls)),
        macro_f1=_share(math.fsum(scores), len(scores)),
        by_decision=_by_decision(decisions.decided_by[decision], counts, is_correct, predicted >= 0),
        per_class=per_class,
        confused=_most_confused(label, predicted, counts),
        abstained=outcomes[Outcome.ABSTAINED],
        shortlist=_measure_shortlists(predictions),
        confidence=measure_confidence(predictions),
        unread_choices=int(is_unread[predictions.decision].sum()),
        unhinted=unhinted,
        accuracy_unhinted=_share(int(counts[is_unhinted & is_correct].sum()), unhinted) if unhinted else None,
    )


def _measure_shortlists(predictions: Predictions) -> ShortlistMetrics | None:
    has_list = predictions.shortlist > 0
    n = int(has_list.sum())
    if not n:
        return None
    lists, labels = predictions.shortlist[has_list].tolist(), predictions.label[has_list].tolist()
    labelled = [(label, predictions.shortlists[one]) for label, one in zip(labels, lists, strict=True) if label >= 0]
    return ShortlistMetrics(
        n,
        sum(len(predictions.shortlists[one]) for one in lists) / n,
        int(predictions.stage2_with_image[has_list].sum()),
        _share(sum(label in shortlist for label, shortlist in labelled), len(labelled)),
    )


def _most_confused(label: Counts, predicted: Counts, counts: Counts, most: int = 10) -> tuple[Confusion, ...]:
    """The pairs (label, predicted) that occur most often, then by label and prediction."""
    is_wrong = (predicted >= 0) & (predicted != label)
    size = int(predicted.max(initial=-1)) + 1
    pairs, group = np.unique(label[is_wrong] * size + predicted[is_wrong], return_inverse=True)
    times = np.bincount(group, counts[is_wrong])
    # a stable order: of pairs that occur equally often the lower one comes first
    chosen = np.argsort(-times, kind="stable")[:most]
    found = zip(*divmod(pairs[chosen], max(size, 1)), times[chosen], strict=True)
    return tuple(Confusion(int(own), int(other), int(n)) for own, other, n in found)


def _per_class(label: Counts, predicted: Counts, counts: Counts) -> tuple[ClassMetrics, ...]:
    size = int(max(label.max(initial=-1), predicted.max(initial=-1))) + 1

    def count(classes: Counts, chosen: BoolArray) -> list[int]:
        return [round(n) for n in np.bincount(classes[chosen], counts[chosen], minlength=size).tolist()]

    support = count(label, label >= 0)
    named = count(predicted, predicted >= 0)
    correct = count(label, label == predicted)
    seen = [index for index in range(size) if support[index] or named[index]]
    return tuple(ClassMetrics(index, support[index], named[index], correct[index]) for index in seen)


def _by_decision(
    decided_by: Counts, counts: Counts, is_correct: BoolArray, has_class: BoolArray
) -> dict[str, DecisionMetrics]:
    found = {}
    for code, name in enumerate(DECISIONS):
        is_own = (decided_by == code) & has_class
        if n := int(counts[is_own].sum()):
            found[name] = DecisionMetrics(n, int(counts[is_own & is_correct].sum()) / n)
    return dict(sorted(found.items()))
