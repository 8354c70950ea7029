"""What a set of predictions amounts to: accuracy with its interval, coverage, per class, by rung.

Counts every non-answer as wrong. Does not know runs or files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tlac.confidence import ConfidenceMetrics, measure_confidence
from tlac.types import Outcome, Prediction

# the 97.5 % point of the normal distribution; importing scipy.stats for it would double a warm run's time
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class RungMetrics:
    """The samples that one rung decided: how many, and the share of them that is right."""

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
    looked_again: int
    holds_label: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Shares lie in [0, 1]; None where they are not defined (no labels, or no sample).

    `accuracy` is right answers over all samples, `accuracy_answered` over the answered ones, `coverage`
    answered over all. `top5` asks whether the label is among the five best, the prediction counting as
    the first. `mean_per_class` is the unweighted mean over the classes that have samples, `macro_f1` over
    the classes that have samples or predictions. `confused` are the pairs confused most often. `abstained`
    counts the predictions that were not sure enough.
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
    by_rung: dict[str, RungMetrics]
    per_class: tuple[ClassMetrics, ...]
    confused: tuple[Confusion, ...] = ()
    abstained: int = 0
    shortlist: ShortlistMetrics | None = None
    confidence: ConfidenceMetrics | None = None


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion at 95 % (JASA 22, 1927), for 0 <= correct <= n, n >= 1."""
    share, z2 = correct / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def measure(predictions: Sequence[Prediction]) -> Metrics:
    """The metrics of predictions, labelled or not."""
    counts = Counter(prediction.outcome for prediction in predictions)
    labelled = [prediction for prediction in predictions if prediction.label is not None]
    n = len(labelled)
    correct = sum(prediction.predicted == prediction.label for prediction in labelled)
    answered = sum(prediction.outcome is Outcome.ANSWERED for prediction in labelled)
    in_top = sum(any(index == prediction.label for index, _ in prediction.top5) for prediction in labelled)
    per_class = _per_class(labelled)
    recalls = [entry.correct / entry.n for entry in per_class if entry.n]
    scores = [2 * entry.correct / (entry.n + entry.predicted) for entry in per_class]
    return Metrics(
        n=len(predictions),
        answered=counts[Outcome.ANSWERED],
        refused=counts[Outcome.REFUSED],
        empty=counts[Outcome.EMPTY],
        truncated=counts[Outcome.TRUNCATED],
        unparsed=counts[Outcome.UNPARSED],
        failed=counts[Outcome.FAILED],
        coverage=_share(counts[Outcome.ANSWERED], len(predictions)),
        accuracy=_share(correct, n),
        accuracy_ci95=wilson_interval(correct, n) if n else None,
        accuracy_answered=_share(correct, answered),
        top5=_share(in_top, n),
        mean_per_class=_share(math.fsum(recalls), len(recalls)),
        macro_f1=_share(math.fsum(scores), len(scores)),
        by_rung=_by_rung(labelled),
        per_class=per_class,
        confused=most_confused(labelled),
        abstained=counts[Outcome.ABSTAINED],
        shortlist=_shortlist(predictions),
        confidence=measure_confidence(predictions),
    )


def _shortlist(predictions: Sequence[Prediction]) -> ShortlistMetrics | None:
    shown = [prediction for prediction in predictions if prediction.shortlist]
    if not shown:
        return None
    held = [one.label in one.shortlist for one in shown if one.label is not None]
    size = sum(len(one.shortlist) for one in shown) / len(shown)
    return ShortlistMetrics(len(shown), size, sum(one.looked_again for one in shown), _share(sum(held), len(held)))


def most_confused(predictions: Sequence[Prediction], count: int = 10) -> tuple[Confusion, ...]:
    """The `count` pairs of classes that were confused most often, then by label and prediction."""
    wrong = Counter(
        (prediction.label, prediction.predicted)
        for prediction in predictions
        if prediction.label is not None and prediction.predicted not in (None, prediction.label)
    )
    found = [Confusion(label, predicted, n) for (label, predicted), n in wrong.items() if predicted is not None]
    return tuple(sorted(found, key=lambda pair: (-pair.n, pair.label, pair.predicted))[:count])


def _per_class(labelled: Sequence[Prediction]) -> tuple[ClassMetrics, ...]:
    support = Counter(prediction.label for prediction in labelled)
    predicted = Counter(prediction.predicted for prediction in labelled if prediction.predicted is not None)
    correct = Counter(prediction.label for prediction in labelled if prediction.predicted == prediction.label)
    indices = sorted(index for index in support.keys() | predicted.keys() if index is not None)
    return tuple(ClassMetrics(index, support[index], predicted[index], correct[index]) for index in indices)


def _by_rung(labelled: Sequence[Prediction]) -> dict[str, RungMetrics]:
    found: dict[str, list[bool]] = {}
    for prediction in labelled:
        if prediction.rung is not None and prediction.predicted is not None:
            found.setdefault(prediction.rung, []).append(prediction.predicted == prediction.label)
    return {rung: RungMetrics(len(hits), sum(hits) / len(hits)) for rung, hits in sorted(found.items())}
