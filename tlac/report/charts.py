"""The numbers behind the charts: accuracy by certainty, risk against coverage, distributions, confusions.

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
from tlac.scoring.metrics import Confusion, wilson_interval
from tlac.types import Prediction

# what says how certain a prediction is; only a confidence is a probability
MEASURES = ("score", "margin", "confidence")
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


def reliability(predictions: Sequence[Prediction], by: str, bins: int = 10) -> tuple[Bin, ...]:
    """Accuracy by a measure, in at most about `bins` bins of equal size; empty where no sample has a value.

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
    return (*found, _bin(part)) if part else tuple(found)


def _bin(part: Sequence[tuple[float, bool]]) -> Bin:
    correct = sum(is_correct for _, is_correct in part)
    mean = sum(value for value, _ in part) / len(part)
    return Bin(part[0][0], part[-1][0], mean, len(part), correct / len(part), wilson_interval(correct, len(part)))


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
    drawn = [points[place] for place in kept.tolist()]
    coverage = tuple(round(point.coverage * answered, 6) for point in drawn)
    return RiskCurve(by, coverage, tuple(point.risk for point in drawn), area)


def _ranked(predictions: Sequence[Prediction], by: str) -> list[tuple[float, bool]]:
    """The measure and whether it is correct, of labelled samples with a class."""
    found = []
    for prediction in predictions:
        value = getattr(prediction, by)
        if value is None and by == "confidence":
            # without a calibration, the agreement of its signals
            value = confidence_of(prediction)
        if value is not None and prediction.label is not None and prediction.predicted is not None:
            found.append((value, prediction.predicted == prediction.label))
    return found


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


def confuse(predictions: Sequence[Prediction]) -> ConfusionMatrix:
    """The confusions among labelled predictions, the most frequent first."""
    counts = Counter(
        (prediction.label, prediction.predicted) for prediction in predictions if prediction.label is not None
    )
    support: Counter[int] = Counter()
    for (label, _), count in counts.items():
        support[label] += count
    wrong = [
        Confusion(label, predicted, count)
        for (label, predicted), count in counts.items()
        if predicted is not None and predicted != label
    ]
    wrong.sort(key=lambda pair: (-pair.n, -pair.n / support[pair.label], pair.label, pair.predicted))
    classes = _involved(wrong)
    rows = [tuple(counts[row, column] for column in classes) for row in classes]
    unanswered = tuple(counts[row, None] for row in classes)
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
