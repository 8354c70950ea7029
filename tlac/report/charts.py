"""The numbers behind the charts: reliability, risk against coverage, distributions.

Pure functions of predictions and calls; the page and the figures for papers draw the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from tlac.metrics import wilson_interval
from tlac.report.calls import CallFacts, SampleCalls
from tlac.types import Prediction, Stage

_MOST_POINTS = 200
_MOST_BINS = 40


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """Answered samples with scores from `low` to `high`: mean score, and how many of `n` are right."""

    low: float
    high: float
    mean: float
    n: int
    accuracy: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """The share of wrong ones among the `coverage` most certain samples, certain by `by`.

    `area` is the area under the curve up to the last coverage, divided by that coverage: 0 is best.
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


def reliability(predictions: Sequence[Prediction], bins: int = 10) -> tuple[ScoreBin, ...]:
    """Accuracy by score, in at most `bins` bins of about equal size, equal scores together.

    No bin is made smaller than five samples, but what is left over may be one.
    """
    scored = sorted(
        (prediction.score, prediction.predicted == prediction.label)
        for prediction in predictions
        if prediction.score is not None and prediction.label is not None
    )
    size = max(5, -(-len(scored) // bins))
    found: list[ScoreBin] = []
    part: list[tuple[float, bool]] = []
    for _, equal in groupby(scored, key=lambda pair: pair[0]):
        group = list(equal)
        # a score that many samples share (1.0, of exact matches) is a bin of its own
        if part and len(group) >= size:
            found.append(_bin(part))
            part = []
        part += group
        if len(part) >= size:
            found.append(_bin(part))
            part = []
    return (*found, _bin(part)) if part else tuple(found)


def risk_coverage(predictions: Sequence[Prediction], by: str) -> RiskCoverage | None:
    """The curve for `by` "score" or "margin", over all labelled samples; None where none has one.

    Samples without an answer are never covered, so that the curve ends at the run's coverage.
    """
    labelled = [prediction for prediction in predictions if prediction.label is not None]
    read: Callable[[Prediction], float | None] = lambda prediction: getattr(prediction, by)  # noqa: E731
    ranked = sorted(
        (
            (value, prediction.predicted != prediction.label)
            for prediction in labelled
            if (value := read(prediction)) is not None
        ),
        key=lambda pair: -pair[0],
    )
    if not ranked:
        return None
    values = np.array([value for value, _ in ranked])
    wrong = np.cumsum([is_wrong for _, is_wrong in ranked])
    counts = np.arange(1, len(ranked) + 1)
    # samples with one value can't be told apart: the curve has no point between them
    is_last = np.append(values[1:] != values[:-1], True)
    counts, risk = counts[is_last], wrong[is_last] / counts[is_last]
    area = float(np.sum(risk * np.diff(counts, prepend=0)) / counts[-1])
    kept = np.unique(np.linspace(0, len(counts) - 1, min(_MOST_POINTS, len(counts))).round().astype(int))
    return RiskCoverage(
        by,
        tuple(round(float(count) / len(labelled), 6) for count in counts[kept]),
        tuple(round(float(value), 6) for value in risk[kept]),
        area,
    )


def call_histograms(calls: Sequence[SampleCalls]) -> tuple[Histogram, ...]:
    """Latency and cost of the distinct answers, by stage, where they are known and differ."""
    stages: tuple[tuple[Stage, str], ...] = (("stage1", "stage 1"), ("stage2", "stage 2"))
    found = []
    for name, unit in (("latency_s", "s"), ("cost_usd", "USD")):
        for stage, title in stages:
            distinct: dict[str, CallFacts] = {
                facts.key: facts for call in calls if (facts := getattr(call, stage)) is not None
            }
            word = "latency" if unit == "s" else "cost"
            made = _histogram(f"{title}: {word} of a call", unit, (getattr(facts, name) for facts in distinct.values()))
            found += [made] if made is not None else []
    return tuple(found)


def _bin(part: Sequence[tuple[float, bool]]) -> ScoreBin:
    right = sum(is_right for _, is_right in part)
    mean = sum(score for score, _ in part) / len(part)
    return ScoreBin(part[0][0], part[-1][0], mean, len(part), right / len(part), wilson_interval(right, len(part)))


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
