"""The numbers behind the charts: accuracy by certainty, risk against coverage, distributions.

Pure functions of predictions and calls; the page and the figures for papers draw the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from tlac.results.calls import SampleCalls
from tlac.scoring.confidence import confidence_of, risk_coverage
from tlac.scoring.metrics import wilson_interval
from tlac.types import Prediction

_MOST_POINTS = 200
_MOST_BINS = 40


# what says how sure a prediction is; only a confidence is a probability
MEASURES = ("score", "margin", "confidence")


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples with values from `low` to `high`: their mean value, and the share of the `n` that is right."""

    low: float
    high: float
    mean: float
    n: int
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Accuracy by the value of one measure."""

    by: str
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class RiskCurve:
    """The share of wrong ones among the `coverage` share of samples that are most certain by the measure `by`.

    `area` is the mean risk along the curve.
    """

    by: str
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    area: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fall between neighbouring `edges` (one more than `counts`)."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    n: int
    median: float
    p95: float


def reliability(predictions: Sequence[Prediction], by: str, bins: int = 10) -> Reliability | None:
    """Accuracy by a measure, in at most about `bins` bins of equal size; None where no sample has a value.

    No bin is made smaller than five samples, but what is left over may be one.
    """
    ranked = sorted(_ranked(predictions, by))
    size = max(5, -(-len(ranked) // bins))
    found: list[Bin] = []
    part: list[tuple[float, bool]] = []
    for _, equal in groupby(ranked, key=lambda pair: pair[0]):
        group = list(equal)
        # a value that many samples share (the 1.0 of exact matches) is a bin of its own
        if part and len(group) >= size:
            found.append(_bin(part))
            part = []
        part += group
        if len(part) >= size:
            found.append(_bin(part))
            part = []
    if part:
        found.append(_bin(part))
    return Reliability(by, tuple(found)) if found else None


def risk_curve(predictions: Sequence[Prediction], by: str) -> RiskCurve | None:
    """The curve over all labelled samples by a measure; None where none has a value.

    Samples without an answer are never covered, so that the curve ends at the run's coverage.
    """
    ranked = _ranked(predictions, by)
    if not ranked:
        return None
    values, hits = np.array(ranked, np.float64).T
    points = risk_coverage(values, hits)
    answered = len(ranked) / sum(prediction.label is not None for prediction in predictions)
    steps = np.diff([0.0, *(point.coverage for point in points)])
    area = float(np.sum(steps * [point.risk for point in points]))
    kept = np.unique(np.linspace(0, len(points) - 1, min(_MOST_POINTS, len(points))).round().astype(int))
    shown = [points[place] for place in kept.tolist()]
    coverage = tuple(round(point.coverage * answered, 6) for point in shown)
    return RiskCurve(by, coverage, tuple(point.risk for point in shown), area)


def _ranked(predictions: Sequence[Prediction], by: str) -> list[tuple[float, bool]]:
    """The measure and whether it is right, of labelled samples with a class."""
    found = []
    for prediction in predictions:
        value = sureness(prediction) if by == "confidence" else getattr(prediction, by)
        if value is not None and prediction.label is not None and prediction.predicted is not None:
            found.append((value, prediction.predicted == prediction.label))
    return found


def sureness(prediction: Prediction) -> float | None:
    """A prediction's confidence in [0, 1]: the calibrated one it has, else the agreement of its witnesses."""
    return prediction.confidence if prediction.confidence is not None else confidence_of(prediction)


def call_histograms(calls: Sequence[SampleCalls]) -> tuple[Histogram, ...]:
    """Latency and cost of the distinct answers, by stage, where they are known and differ."""
    answers = {facts.key: facts for call in calls for facts in call.calls}
    found = []
    for name, unit, word in (("latency_s", "s", "latency"), ("cost_usd", "USD", "cost")):
        for stage, title in (("stage1", "stage 1"), ("stage2", "stage 2")):
            values = [getattr(facts, name) for facts in answers.values() if facts.stage == stage]
            made = _histogram(f"{title}: {word} of a call", unit, values)
            found += [made] if made is not None else []
    return tuple(found)


def _bin(part: Sequence[tuple[float, bool]]) -> Bin:
    right = sum(is_right for _, is_right in part)
    mean = sum(score for score, _ in part) / len(part)
    return Bin(part[0][0], part[-1][0], mean, len(part), right / len(part), wilson_interval(right, len(part)))


def _histogram(title: str, unit: str, values: Iterable[float | None]) -> Histogram | None:
    known = np.array([value for value in values if value is not None], np.float64)
    if len(known) < 2 or known.min() == known.max():
        return None
    # the slowest few calls would squeeze all others into one bar
    top = max(float(np.quantile(known, 0.99)), float(known.min()) * 1.001)
    shown = np.minimum(known, top)
    bins = min(_MOST_BINS, max(5, round(float(np.sqrt(len(known))))))
    counts, edges = np.histogram(shown, bins=bins)
    return Histogram(
        title,
        unit,
        tuple(float(edge) for edge in edges),
        tuple(int(count) for count in counts),
        len(known),
        float(np.median(known)),
        float(np.quantile(known, 0.95)),
    )


_MOST_PAIRS = 200
_MOST_CLASSES = 16


@dataclass(frozen=True, slots=True)
class Pair:
    """`count` samples of class `truth` that were taken for `predicted`, of `n` samples of that class."""

    truth: int
    predicted: int
    count: int
    n: int


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """`cells[row][column]` counts samples of `classes[row]` that were taken for `classes[column]`; `others` and
    `unanswered` count, by row, those taken for other classes and those without an answer.

    `wrong_pairs` counts all distinct pairs, of which `pairs` are the most frequent.
    """

    pairs: tuple[Pair, ...]
    wrong_pairs: int
    classes: tuple[int, ...]
    cells: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]
    unanswered: tuple[int, ...]


def confuse(predictions: Sequence[Prediction]) -> ConfusionMatrix:
    """The confusions among labelled predictions."""
    counts = Counter(
        (prediction.label, prediction.predicted) for prediction in predictions if prediction.label is not None
    )
    support: Counter[int] = Counter()
    for (label, _), count in counts.items():
        support[label] += count
    wrong = [
        Pair(label, predicted, count, support[label])
        for (label, predicted), count in counts.items()
        if predicted is not None and predicted != label
    ]
    wrong.sort(key=lambda pair: (-pair.count, -pair.count / pair.n, pair.truth, pair.predicted))
    classes = _involved(wrong)
    rows = [[counts[row, column] for column in classes] for row in classes]
    unanswered = [counts[row, None] for row in classes]
    others = [support[row] - sum(cells) - none for row, cells, none in zip(classes, rows, unanswered, strict=True)]
    return ConfusionMatrix(
        tuple(wrong[:_MOST_PAIRS]),
        len(wrong),
        classes,
        tuple(tuple(cells) for cells in rows),
        tuple(others),
        tuple(unanswered),
    )


def _involved(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Classes of the most frequent pairs, pair by pair, those that are confused side by side."""
    found: dict[int, None] = {}
    for pair in pairs:
        added = [index for index in (pair.truth, pair.predicted) if index not in found]
        if len(found) + len(added) > _MOST_CLASSES:
            break
        found.update(dict.fromkeys(added))
    return tuple(found)
