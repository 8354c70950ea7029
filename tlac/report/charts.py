"""The numbers behind the charts: accuracy by certainty, risk against coverage, distributions, confusions.

Pure functions of predictions and calls; the page and the figures for papers draw the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tlac.results.usage import SampleCalls
from tlac.scoring.confidence import confidences, risk_coverage
from tlac.scoring.metrics import Confusion, wilson_interval
from tlac.scoring.predictions import Predictions
from tlac.types import Float64Array

# what says how certain a prediction is; only a confidence is a probability
MEASURES = ("score", "margin", "confidence")
_BINS = 10
_MOST_POINTS = 200
_MOST_BINS = 40
_MOST_PAIRS = 200
_MOST_CLASSES = 16


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples with values from `low` to `high`: their mean value, and the accuracy over the `n` of them."""

    low: float
    high: float
    mean: float
    n: int
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class RiskCurve:
    """The risk-coverage curve of a measure: the error rate among the `coverage` share of most certain samples.

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


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """`cells[row][column]` counts samples of `classes[row]` that were predicted as `classes[column]`; `others` and
    `unanswered` count, by row, those predicted as other classes and those without an answer.

    `wrong_pairs` counts all distinct pairs, of which `pairs` are the most frequent.
    """

    pairs: tuple[Confusion, ...]
    wrong_pairs: int
    classes: tuple[int, ...]
    cells: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]
    unanswered: tuple[int, ...]


def reliability(predictions: Predictions, by: str) -> tuple[Bin, ...]:
    """Accuracy by a measure, in at most about ten bins of equal size; empty where no sample has a value.

    No bin is made smaller than five samples, but what is left over may be one.
    """
    measured, is_correct = _measure(predictions, by)
    values, group, counts = np.unique(measured, return_inverse=True, return_counts=True)
    hits = np.bincount(group, weights=is_correct, minlength=len(values))
    size = max(5, -(-len(measured) // _BINS))
    found: list[list[tuple[float, int, float]]] = [[]]
    for value, n, correct in zip(values.tolist(), counts.tolist(), hits.tolist(), strict=True):
        # a value that many samples share (the 1.0 of exact matches) is a bin of its own
        if found[-1] and (n >= size or sum(count for _, count, _ in found[-1]) >= size):
            found.append([])
        found[-1].append((value, n, correct))
    return tuple(_bin(part) for part in found if part)


def _bin(part: Sequence[tuple[float, int, float]]) -> Bin:
    n, correct = sum(count for _, count, _ in part), round(sum(hits for _, _, hits in part))
    mean = sum(value * count for value, count, _ in part) / n
    return Bin(part[0][0], part[-1][0], mean, n, correct / n, wilson_interval(correct, n))


def risk_curve(predictions: Predictions, by: str) -> RiskCurve | None:
    """The curve over all labelled samples by a measure; None where none has a value.

    Samples without an answer are never covered, so that the curve ends at the run's coverage.
    """
    measured, is_correct = _measure(predictions, by)
    if not len(measured):
        return None
    points = risk_coverage(measured, is_correct)
    answered = len(measured) / int(np.sum(predictions.label >= 0))
    steps = np.diff([0.0, *(point.coverage for point in points)])
    area = float(np.sum(steps * [point.risk for point in points]))
    kept = np.linspace(0, len(points) - 1, min(_MOST_POINTS, len(points))).round().astype(int)
    drawn = [points[place] for place in kept.tolist()]
    coverage = tuple(round(point.coverage * answered, 6) for point in drawn)
    return RiskCurve(by, coverage, tuple(point.risk for point in drawn), area)


def _measure(predictions: Predictions, by: str) -> tuple[Float64Array, Float64Array]:
    """The measure, and 1 where it is correct, of labelled samples with a class."""
    decisions = predictions.decisions
    values: Float64Array = getattr(decisions, by)
    if by == "confidence":
        # without a calibration, what needs no labels
        values = np.where(np.isnan(values), confidences(decisions), values)
    sampled = values[predictions.decision]
    is_known = (predictions.label >= 0) & (predictions.predicted >= 0) & ~np.isnan(sampled)
    return sampled[is_known], predictions.is_correct[is_known].astype(np.float64)


def call_histograms(calls: Sequence[SampleCalls]) -> tuple[Histogram, ...]:
    """Latency and cost of the distinct answers, by stage, where they are known and differ."""
    answers = {facts.key: facts for call in calls for facts in call.calls}
    found = []
    for name, unit, word in (("latency_s", "s", "latency"), ("cost_usd", "USD", "cost")):
        for stage, title in (("stage1", "stage 1"), ("stage2", "stage 2")):
            values = [getattr(facts, name) for facts in answers.values() if facts.stage == stage]
            found.append(_histogram(f"{title}: {word} of a call", unit, values))
    return tuple(made for made in found if made is not None)


def _histogram(title: str, unit: str, values: Iterable[float | None]) -> Histogram | None:
    known = np.array([value for value in values if value is not None], np.float64)
    if len(known) < 2 or known.min() == known.max():
        return None
    # the slowest few calls would squeeze all others into one bar
    top = max(float(np.quantile(known, 0.99)), float(known.min()) * 1.001)
    bins = min(_MOST_BINS, max(5, round(float(np.sqrt(len(known))))))
    counts, edges = np.histogram(np.minimum(known, top), bins=bins)
    return Histogram(
        title,
        unit,
        tuple(edges.tolist()),
        tuple(counts.tolist()),
        len(known),
        float(np.median(known)),
        float(np.quantile(known, 0.95)),
    )


def confuse(predictions: Predictions) -> ConfusionMatrix:
    """The confusions among labelled predictions, the most frequent first."""
    pairs = np.stack([predictions.label, predictions.predicted], axis=1)[predictions.label >= 0]
    distinct, numbers = np.unique(pairs, axis=0, return_counts=True)
    # -1 is no class
    counts = Counter({(row[0], row[1]): n for row, n in zip(distinct.tolist(), numbers.tolist(), strict=True)})
    support: Counter[int] = Counter()
    for (label, _), count in counts.items():
        support[label] += count
    wrong = [Confusion(*pair, count) for pair, count in counts.items() if pair[1] not in (-1, pair[0])]
    wrong.sort(key=lambda pair: (-pair.n, -pair.n / support[pair.label], pair.label, pair.predicted))
    classes = _involved(wrong)
    rows = [tuple(counts[row, column] for column in classes) for row in classes]
    unanswered = tuple(counts[row, -1] for row in classes)
    others = [support[row] - sum(cells) - none for row, cells, none in zip(classes, rows, unanswered, strict=True)]
    return ConfusionMatrix(tuple(wrong[:_MOST_PAIRS]), len(wrong), classes, tuple(rows), tuple(others), unanswered)


def _involved(pairs: Sequence[Confusion]) -> tuple[int, ...]:
    """Classes of the most frequent pairs, pair by pair, those that are confused side by side."""
    found: dict[int, None] = {}
    for pair in pairs:
        added = [index for index in (pair.label, pair.predicted) if index not in found]
        if len(found) + len(added) > _MOST_CLASSES:
            break
        found.update(dict.fromkeys(added))
    return tuple(found)
