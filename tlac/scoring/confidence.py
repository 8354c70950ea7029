"""How sure a prediction is, as a number in [0, 1]; and what such numbers are worth.

Without labels it sums up what speaks for and against the class: it ranks predictions, and is no probability. With
labelled runs it is a logistic curve of the margin, with a level of its own for each way to decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tlac.errors import UsageError
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Decisions, Predictions
from tlac.types import Float64Array, Outcome, Prediction

_BINS = 10
DOUBTFUL_BELOW = 0.5
"""With a lower confidence more speaks against the predicted class than for it."""

# what the way in which a class was decided says for it: the LMM's own words are a class name, it chose from a list, or
# it did neither
_DECIDED_BY = {"exact": 1.0, "choice": 0.0, "similarity": -1.0}
# in cosine, one unit of CLIP's logits: a smaller lead says little even where the other classes lie closer together
_LEAST_SPREAD = 0.01
# a normal prior on the levels, mean 0 and variance 10 on the logit scale: keeps what was always right from being
# called certain
_PRECISION = 0.1
_STEPS = 100
# what decided, by its code: -1 is the last
_WAYS = (*DECISIONS, "")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What labelled runs taught: confidence = sigmoid(level of what decided + margin / temperature + witnesses).

    `level` are log-odds by what decided, `default_level` serves what was never seen. `temperature` is in cosine
    (smaller: the margin says more), None where the margin said nothing. `witnesses` are the weights of what a second
    sample ("second") and the log-probabilities ("logprob") say, where the runs had them. `n` samples of `runs` were
    learnt from.
    What a person's corrections taught is confidence = sigmoid(`default_level` + `evidence` * log-odds without labels).
    """

    level: Mapping[str, float]
    default_level: float
    temperature: float | None
    n: int
    encoder: str = ""
    runs: tuple[str, ...] = ()
    evidence: float | None = None
    witnesses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RiskPoint:
    """Keep the `coverage` share of samples with the highest confidence, at least `threshold`: `risk` of them are
    wrong. All in [0, 1]."""

    coverage: float
    risk: float
    threshold: float


@dataclass(frozen=True, slots=True)
class ConfidenceMetrics:
    """What the confidences are worth on labelled, answered samples.

    `calibration_error` is the expected calibration error over 10 bins of equal width (Naeini et al., AAAI 2015),
    `brier` the mean squared error, `area` the area under the risk-coverage curve (Geifman and El-Yaniv, NeurIPS
    2017), `curve` that curve in at most 100 points. `auroc` is the chance that a wrong prediction has a lower
    confidence than a right one, None where all are right or all are wrong, and in older runs.
    """

    is_calibrated: bool
    n: int
    calibration_error: float
    brier: float
    area: float
    curve: tuple[RiskPoint, ...] = field(repr=False)
    auroc: float | None = None


def confidences(decisions: Decisions, calibration: Calibration | None = None) -> Float64Array:
    """(m,) the confidence of each decision in [0, 1], NaN where it has no class.

    Without a calibration it is sigmoid(sum of evidence), see `_evidence`.
    """
    has_class = (decisions.predicted >= 0) & ~np.isnan(decisions.margin)
    if calibration is not None:
        levels = np.array([calibration.level.get(name, calibration.default_level) for name in _WAYS])
        slope = decisions.margin / calibration.temperature if calibration.temperature else np.zeros(len(decisions))
        log_odds = levels[decisions.decided_by] + slope
        for name, heard in _witnesses(decisions).items():
            log_odds += calibration.witnesses.get(name, 0.0) * heard
        if calibration.evidence is not None:
            log_odds += calibration.evidence * _evidence(decisions)
    else:
        log_odds = _evidence(decisions)
    found = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    # rounded one by one: the same decimals whatever numpy makes of many
    return np.array([round(one, 6) if known else np.nan for one, known in zip(found.tolist(), has_class, strict=True)])


def _evidence(decisions: Decisions) -> Float64Array:
    """(m,) the sum of six pieces of evidence for the predicted class, each in [-1, 1] and 0 where it is silent.

    They have equal weights, which need no labels and rank about as well as fitted ones (Dawes, American Psychologist
    34, 1979): how the class was decided; its lead over the best other class; whether its name stands in the answer, or
    only other classes' do; the other members' votes; what a second sample says for it; how probable the LMM
    held the words that named or chose it.
    """
    levels = np.array([*(_DECIDED_BY[name] for name in DECISIONS), 0.0])
    predicted = decisions.predicted.tolist()
    words = [(1 if own in named else -1) if named else 0 for own, named in zip(predicted, decisions.words, strict=True)]
    votes = [
        # one of the votes for the predicted class is what decided
        2 * (cast.count(own) - 1) / (len(cast) - 1) - 1 if len(cast) > 1 else 0
        for own, cast in zip(predicted, decisions.votes, strict=True)
    ]
    evidence: Float64Array = levels[decisions.decided_by] + lead(decisions) + words + votes
    return evidence + sum(_witnesses(decisions).values())


def _witnesses(decisions: Decisions) -> dict[str, Float64Array]:
    """The evidence that is there where it is asked for: (m,) each, in [-1, 1], and 0 where it is silent."""
    probable: Float64Array = 2 * np.exp(decisions.logprob) - 1
    return {"second": np.nan_to_num(decisions.second), "logprob": np.nan_to_num(probable)}


def lead(decisions: Decisions) -> Float64Array:
    """(m,) the margin as a share of itself and of the spread of the best other classes: encoders differ in how far
    apart they put everything. In (-1, 1), negative where another class is nearer."""
    last = np.maximum((decisions.top_classes >= 0).sum(axis=1) - 1, 0)
    lowest = np.take_along_axis(decisions.top_scores, last[:, None], axis=1)[:, 0]
    spread = np.where(last > 0, np.maximum(decisions.score - decisions.margin - lowest, 0.0), 0.0)
    share: Float64Array = decisions.margin / (np.abs(decisions.margin) + spread + _LEAST_SPREAD)
    return share


def fit(rows: Iterable[Prediction], encoder: str = "", runs: tuple[str, ...] = ()) -> Calibration | None:
    """The calibration that labelled predictions teach: a penalised logistic regression by Newton's method.

    None where there are no labelled answers, or all are right, or all are wrong. Only predictions of one text
    encoder belong together, since margins differ between encoders.
    """
    predictions = Predictions.of(rows)
    known = (predictions.label >= 0) & (predictions.predicted >= 0)
    right = predictions.is_correct[known].astype(np.float64)
    if not len(right) or right.min() == right.max():
        return None
    decisions, rows_known = predictions.decisions, predictions.decision[known]
    codes = decisions.decided_by[rows_known]
    margins = np.nan_to_num(decisions.margin[rows_known])
    scale = float(np.std(margins)) or 1.0
    ways = sorted(set(codes.tolist()), key=_WAYS.__getitem__)
    shares = (codes[:, None] == np.array(ways)).astype(np.float64)
    said = {"margin": margins / scale}
    said |= {name: heard[rows_known] for name, heard in _witnesses(decisions).items() if heard.any()}
    while True:
        weights = _fit_logistic(np.column_stack([shares, *said.values()]), right)
        slopes = dict(zip(said, weights[len(ways) :].tolist(), strict=True))
        # what speaks against its class is noise, not evidence: it is left out, the worst first
        worst = min(slopes, key=slopes.__getitem__, default=None)
        if worst is None or slopes[worst] > 0:
            break
        del said[worst]
    level = {_WAYS[code]: round(float(weight), 6) for code, weight in zip(ways, weights, strict=False)}
    mean, slope = float(right.mean()), slopes.pop("margin", None)
    return Calibration(
        level,
        round(math.log(mean / (1 - mean)), 6),
        round(scale / slope, 6) if slope else None,
        len(right),
        encoder,
        runs,
        witnesses={name: round(weight, 6) for name, weight in slopes.items()},
    )


def fit_corrected(sure: Float64Array, right: Float64Array, source: str) -> Calibration | None:
    """The calibration that (n,) confidences without a calibration, in [0, 1], and (n,) hits teach (Platt scaling).

    It holds where the doubtful alone were looked at: what is right at a given confidence does not hang on which ones
    were chosen by it. None where there are none, or all are right, or all are wrong, or confidence says nothing.
    """
    if not len(right) or right.min() == right.max():
        return None
    bounded = np.clip(sure, 1e-6, 1 - 1e-6)
    log_odds = np.log(bounded / (1 - bounded))
    level, slope = _fit_logistic(np.column_stack([np.ones(len(right)), log_odds]), right).tolist()
    if slope <= 0:
        return None
    return Calibration({}, round(level, 6), None, len(right), runs=(source,), evidence=round(slope, 6))


def _fit_logistic(inputs: Float64Array, right: Float64Array) -> Float64Array:
    weights = np.zeros(inputs.shape[1])
    penalty = np.eye(inputs.shape[1]) * _PRECISION
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (right - expected) - penalty @ weights
        curvature = (inputs * (expected * (1 - expected))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    return weights


def abstain(rows: Iterable[Prediction], below: float | None, calibration: Calibration | None = None) -> Predictions:
    """The predictions with their confidence where it is calibrated; those less sure than `below` have abstained.

    What abstains has no class, and counts as a sample without an answer; the rest of it stays to be seen.
    """
    predictions = Predictions.of(rows)
    decisions = predictions.decisions
    if below is None and calibration is None:
        return predictions
    sure = confidences(decisions, calibration)
    if calibration is not None:
        decisions = replace(decisions, confidence=sure)
    if below is not None:
        is_doubtful = sure < below
        decisions = replace(
            decisions,
            outcome=np.where(is_doubtful, OUTCOMES.index(Outcome.ABSTAINED), decisions.outcome).astype(np.int8),
            predicted=np.where(is_doubtful, -1, decisions.predicted).astype(np.int32),
            reason=[
                f"confidence {one:.3f} is below {below:g}" if doubtful else reason
                for one, doubtful, reason in zip(sure.tolist(), is_doubtful, decisions.reason, strict=True)
            ],
        )
    return replace(predictions, decisions=decisions)


def count_confidences(predictions: Predictions) -> tuple[Float64Array, bool]:
    """(3, k) the confidences in [0, 1] of labelled predictions with a class, 1 where the class is right, and how many.

    They are the predictions' own where all have one, which the second value says, else those without a calibration.
    """
    known = (predictions.label >= 0) & (predictions.predicted >= 0)
    decision = predictions.decision[known]
    own = predictions.decisions.confidence
    is_calibrated = not np.isnan(own[decision]).any()
    sure = (own if is_calibrated else confidences(predictions.decisions))[decision]
    return np.stack([sure, predictions.is_correct[known], np.ones(len(sure))]), is_calibrated


def join_confidences(parts: Sequence[Float64Array]) -> Float64Array:
    """Sum up counts as `count_confidences` gives them, in an order that hangs on what was counted alone."""
    sure, right, n = np.concatenate(parts, axis=1)
    # as one number each, which sort ten times as fast as pairs
    distinct, place = np.unique(sure + 1j * right, return_inverse=True)
    return np.stack([distinct.real, distinct.imag, np.bincount(place, n, len(distinct))])


def measure_confidence(counts: Float64Array, is_calibrated: bool) -> ConfidenceMetrics | None:
    """What confidences as `count_confidences` gives them are worth; None where there are none."""
    sure, right, n = join_confidences([counts])
    if not len(n):
        return None
    total = int(n.sum())
    coverage, risk, threshold = _risk_curve(sure, right, n)
    # a run of distinct answers has a point for each of them
    shown = _spread(len(risk))
    return ConfidenceMetrics(
        is_calibrated,
        total,
        calibration_error(sure, right, n),
        round(float(np.sum(n * (sure - right) ** 2)) / total, 6),
        round(float(np.diff(coverage, prepend=0.0) @ risk), 6),
        _points(coverage[shown], risk[shown], threshold[shown]),
        auroc(sure, right, n),
    )


def calibration_error(sure: Float64Array, right: Float64Array, n: Float64Array) -> float:
    """The expected calibration error in [0, 1] of (k,) confidences in [0, 1] and (k,) hits that stand for `n` (k,)
    samples each; k >= 1."""
    places = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float(np.sum((n * (sure - right))[places == place]))) for place in range(_BINS)]
    return round(sum(gaps) / int(n.sum()), 6)


def auroc(sure: Float64Array, right: Float64Array, n: Float64Array) -> float | None:
    """The area under the ROC curve of (k,) confidences that tell hits from misses, ties counted half; None where (k,)
    `right` are all 1 or all 0. Each stands for `n` (k,) samples."""
    hits, total = float((right * n).sum()), int(n.sum())
    if hits in (0.0, float(total)):
        return None
    _, group = np.unique(sure, return_inverse=True)
    counts = np.bincount(group, n)
    # Mann and Whitney's: the mean rank of equal confidences is that of the middle one
    ranks = np.cumsum(counts) - (counts - 1) / 2
    summed = np.bincount(group, n * right) @ ranks
    return round(float((summed - hits * (hits + 1) / 2) / (hits * (total - hits))), 6)


def risk_coverage(sure: Float64Array, right: Float64Array) -> tuple[RiskPoint, ...]:
    """The risk-coverage curve of (n,) confidences and (n,) hits, by rising coverage; equal confidences go together."""
    return _points(*_risk_curve(sure, right, np.ones(len(sure))))


def _risk_curve(
    sure: Float64Array, right: Float64Array, n: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Coverage, risk and threshold of each of the k points of the curve, (k,) each; `n` as in `auroc`."""
    order = np.argsort(-sure, kind="stable")
    ordered, seen, wrong = sure[order], np.cumsum(n[order]), np.cumsum((n * (1 - right))[order])
    ends = np.flatnonzero(np.diff(ordered, append=-1.0))
    return seen[ends] / n.sum(), wrong[ends] / seen[ends], ordered[ends]


def _points(coverage: Float64Array, risk: Float64Array, threshold: Float64Array) -> tuple[RiskPoint, ...]:
    columns = (coverage.tolist(), risk.tolist(), threshold.tolist())
    return tuple(
        RiskPoint(round(share, 6), round(wrong, 6), least) for share, wrong, least in zip(*columns, strict=True)
    )


def _spread(points: int, most: int = 100) -> NDArray[np.int64]:
    """At most so many places among the points of a curve, evenly spread, the last among them."""
    count = min(points, most)
    return (np.arange(count) + 1) * points // count - 1


def require_encoder(calibration: Calibration, fingerprint: str) -> None:
    """Raise UsageError for a calibration that was learnt with another text encoder, or on another scale.

    One that corrections taught names none: it goes by evidence that does not hang on an encoder's scale.
    """
    if calibration.evidence is None and calibration.encoder != fingerprint:
        raise UsageError(
            "the calibration was learnt with another text encoder or other weights, or where the image took part in "
            "another way: make one from runs like this one with `tlac calibrate`"
        )
