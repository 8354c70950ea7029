"""What a set of predictions amounts to: accuracy with its interval, coverage, per class, by rung.

Counts every non-answer as wrong. Does not know runs or files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from tlac.scoring.confidence import ConfidenceMetrics, ConfidenceTally
from tlac.types import Outcome, Prediction

# the 97.5 % point of the normal distribution; importing scipy.stats for it would double a warm run's time
_Z95 = 1.959963984540054
# label, outcome, rung, predicted class, whether the label is among the five best
_Case: TypeAlias = tuple["int | None", str, "str | None", "int | None", bool]


class _Labelled(NamedTuple):
    """What labelled predictions have in common, as far as it is counted."""

    label: int
    outcome: str
    decided_by: str | None
    predicted: int | None
    is_in_top: bool

    @property
    def is_correct(self) -> bool:
        return self.predicted == self.label


@dataclass(frozen=True, slots=True)
class DecisionMetrics:
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
    stage2_with_image: int
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
    by_decision: dict[str, DecisionMetrics]
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


def measure(predictions: Iterable[Prediction]) -> Metrics:
    """The metrics of predictions, labelled or not, each looked at once."""
    cases: Counter[_Case] = Counter()
    shortlists = _Shortlists()
    confidence = ConfidenceTally()
    for prediction in predictions:
        label = prediction.label
        is_in_top = label is not None and any([index == label for index, _ in prediction.top5])
        cases[label, prediction.outcome.value, prediction.decided_by, prediction.predicted, is_in_top] += 1
        if prediction.shortlist:
            shortlists.add(prediction)
        if label is not None:
            confidence.add(prediction)
    return _summarise(cases, shortlists.measure(), confidence.measure())


def _summarise(
    cases: Mapping[_Case, int], shortlist: ShortlistMetrics | None, confidence: ConfidenceMetrics | None
) -> Metrics:
    total = sum(cases.values())
    outcomes: Counter[str] = Counter()
    for (_, outcome, *_), n in cases.items():
        outcomes[outcome] += n
    labelled = [(_Labelled(case[0], *case[1:]), n) for case, n in cases.items() if case[0] is not None]
    n = sum(count for _, count in labelled)
    correct = sum(count for case, count in labelled if case.is_correct)
    answered = sum(count for case, count in labelled if case.outcome == Outcome.ANSWERED.value)
    per_class = _per_class(labelled)
    recalls = [entry.correct / entry.n for entry in per_class if entry.n]
    scores = [2 * entry.correct / (entry.n + entry.predicted) for entry in per_class]
    return Metrics(
        n=total,
        answered=outcomes["answered"],
        refused=outcomes["refused"],
        empty=outcomes["empty"],
        truncated=outcomes["truncated"],
        unparsed=outcomes["unparsed"],
        failed=outcomes["failed"],
        coverage=_share(outcomes["answered"], total),
        accuracy=_share(correct, n),
        accuracy_ci95=wilson_interval(correct, n) if n else None,
        accuracy_answered=_share(correct, answered),
        top5=_share(sum(count for case, count in labelled if case.is_in_top), n),
        mean_per_class=_share(math.fsum(recalls), len(recalls)),
        macro_f1=_share(math.fsum(scores), len(scores)),
        by_decision=_by_decision(labelled),
        per_class=per_class,
        confused=_most_confused(_confusions(labelled)),
        abstained=outcomes["abstained"],
        shortlist=shortlist,
        confidence=confidence,
    )


@dataclass(slots=True)
class _Shortlists:
    """What is counted of samples whose stage 2 was shown a shortlist."""

    n: int = 0
    size: int = 0
    stage2_with_image: int = 0
    labelled: int = 0
    held: int = 0

    def add(self, shown: Prediction) -> None:
        self.n += 1
        self.size += len(shown.shortlist)
        self.stage2_with_image += shown.stage2_with_image
        if shown.label is not None:
            self.labelled += 1
            self.held += shown.label in shown.shortlist

    def measure(self) -> ShortlistMetrics | None:
        if not self.n:
            return None
        return ShortlistMetrics(self.n, self.size / self.n, self.stage2_with_image, _share(self.held, self.labelled))


def _most_confused(wrong: Mapping[tuple[int, int], int], count: int = 10) -> tuple[Confusion, ...]:
    """The `count` pairs (label, predicted) that occur most often, then by label and prediction."""
    found = [Confusion(label, predicted, n) for (label, predicted), n in wrong.items()]
    return tuple(sorted(found, key=lambda pair: (-pair.n, pair.label, pair.predicted))[:count])


def _confusions(labelled: Sequence[tuple[_Labelled, int]]) -> Counter[tuple[int, int]]:
    wrong: Counter[tuple[int, int]] = Counter()
    for case, n in labelled:
        if case.predicted is not None and not case.is_correct:
            wrong[case.label, case.predicted] += n
    return wrong


def _per_class(labelled: Sequence[tuple[_Labelled, int]]) -> tuple[ClassMetrics, ...]:
    support: Counter[int] = Counter()
    predicted: Counter[int] = Counter()
    correct: Counter[int] = Counter()
    for case, n in labelled:
        support[case.label] += n
        if case.predicted is not None:
            predicted[case.predicted] += n
        if case.is_correct:
            correct[case.label] += n
    indices = sorted(support.keys() | predicted.keys())
    return tuple(ClassMetrics(index, support[index], predicted[index], correct[index]) for index in indices)


def _by_decision(labelled: Sequence[tuple[_Labelled, int]]) -> dict[str, DecisionMetrics]:
    decided: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    for case, n in labelled:
        if case.decided_by is not None and case.predicted is not None:
            decided[case.decided_by] += n
            correct[case.decided_by] += n * case.is_correct
    return {decided_by: DecisionMetrics(n, correct[decided_by] / n) for decided_by, n in sorted(decided.items())}
