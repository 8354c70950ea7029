"""How sure a prediction is, as a number in [0, 1]; and what such numbers are worth.

Without labels it is agreement: of what decided, the nearest class name, the words and the other members. With
labelled runs it is a logistic curve of the margin, one level for each rung. Does not know runs or files.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from tlac.errors import InputError, TlacError, UsageError
from tlac.runtime.spooled_list import LazySequence
from tlac.types import Float64Array, Outcome, Prediction

BINS = 10
# a normal prior on the levels, mean 0 and variance 10 on the logit scale: keeps a rung that was always right
# from being called certain
_PRECISION = 0.1
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Calibration:
    """What labelled runs taught: confidence = sigmoid(level of the rung + margin / temperature).

    `level` are log-odds by rung, `default_level` serves a rung that was never seen. `temperature` is in cosine
    (smaller: the margin says more), None where the margin said nothing. `n` samples of `runs` were learnt from.
    """

    level: Mapping[str, float]
    default_level: float
    temperature: float | None
    n: int
    encoder: str = ""
    runs: tuple[str, ...] = ()


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
    2017), `curve` that curve in at most 100 points.
    """

    is_calibrated: bool
    n: int
    calibration_error: float
    brier: float
    area: float
    curve: tuple[RiskPoint, ...] = field(repr=False)


def confidence_of(prediction: Prediction, calibration: Calibration | None = None) -> float | None:
    """A prediction's confidence in [0, 1], None where it has no class."""
    if prediction.predicted is None or prediction.margin is None:
        return None
    if calibration is not None:
        level = calibration.level.get(prediction.decided_by or "", calibration.default_level)
        slope = prediction.margin / calibration.temperature if calibration.temperature else 0.0
        return round(_sigmoid(level + slope), 6)
    return agreement(prediction)


def agreement(prediction: Prediction) -> float:
    """(a + 1) / (w + 2): `a` of `w` witnesses name the predicted class, with Laplace's correction.

    The witnesses: what decided; the nearest class name, where something else decided; the class names that stand
    in the answer, where one does; every other member's vote.
    """
    predicted, agreeing, witnesses = prediction.predicted, 1, 1
    if prediction.decided_by in ("exact", "choice") and prediction.margin is not None:
        witnesses += 1
        agreeing += prediction.margin >= 0
    if prediction.words:
        witnesses += 1
        agreeing += predicted in prediction.words
    if prediction.votes:
        witnesses += len(prediction.votes) - 1
        # one of the votes for the predicted class is what decided
        agreeing += prediction.votes.count(predicted) - 1
    return round((agreeing + 1) / (witnesses + 2), 6)


def fit(predictions: Sequence[Prediction], encoder: str = "", runs: tuple[str, ...] = ()) -> Calibration | None:
    """The calibration that labelled predictions teach: a penalised logistic regression by Newton's method.

    None where there are no labelled answers, or all are right, or all are wrong. Only predictions of one text
    encoder belong together, since margins differ between encoders.
    """
    known = [one for one in predictions if one.label is not None and one.predicted is not None]
    right = np.array([one.predicted == one.label for one in known], np.float64)
    if not known or right.min() == right.max():
        return None
    decisions = sorted({one.decided_by or "" for one in known})
    margins = np.array([one.margin or 0.0 for one in known], np.float64)
    scale = float(np.std(margins)) or 1.0
    shares = np.array([[float((one.decided_by or "") == decided_by) for decided_by in decisions] for one in known])
    inputs = np.column_stack([shares, margins / scale])
    weights = _fit_logistic(inputs, right)
    slope = float(weights[-1])
    # a margin that speaks against its class is noise, not evidence: it is left out
    if slope <= 0:
        weights = _fit_logistic(shares, right)
    level = {decided_by: round(float(weight), 6) for decided_by, weight in zip(decisions, weights, strict=False)}
    mean = float(right.mean())
    return Calibration(
        level,
        round(math.log(mean / (1 - mean)), 6),
        round(scale / slope, 6) if slope > 0 else None,
        len(known),
        encoder,
        runs,
    )


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


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-min(30.0, max(-30.0, value))))


def abstain(
    predictions: Sequence[Prediction], below: float | None, calibration: Calibration | None = None
) -> Sequence[Prediction]:
    """The predictions with their confidence where it is calibrated; those less sure than `below` have abstained.

    What abstains has no class, and counts as a sample without an answer; the rest of it stays to be seen.
    """
    if below is None and calibration is None:
        return predictions
    return LazySequence(
        len(predictions), lambda: (_weigh(prediction, below, calibration) for prediction in predictions)
    )


def _weigh(prediction: Prediction, below: float | None, calibration: Calibration | None) -> Prediction:
    confidence = confidence_of(prediction, calibration)
    told = prediction if calibration is None else replace(prediction, confidence=confidence)
    if below is None or confidence is None or confidence >= below:
        return told
    reason = f"confidence {confidence:.3f} is below {below:g}"
    return replace(told, outcome=Outcome.ABSTAINED, predicted=None, reason=reason)


class ConfidenceTally:
    """Looks at labelled predictions one by one: their own confidence where all have one, else agreement."""

    def __init__(self) -> None:
        self._own = array("d")
        self._agreement = array("d")
        self._right = bytearray()
        self._is_calibrated = True

    def add(self, prediction: Prediction) -> None:
        """Take one more labelled prediction into account; one without a class says nothing."""
        if prediction.predicted is None:
            return
        if prediction.confidence is None:
            self._is_calibrated = False
        else:
            self._own.append(prediction.confidence)
        sure = confidence_of(prediction)
        self._agreement.append(math.nan if sure is None else sure)
        self._right.append(prediction.predicted == prediction.label)

    def measure(self) -> ConfidenceMetrics | None:
        """What the confidences are worth; None without labelled, answered samples."""
        if not self._right:
            return None
        sure = np.array(self._own if self._is_calibrated else self._agreement, np.float64)
        right = np.array(self._right, np.float64)
        curve = risk_coverage(sure, right)
        return ConfidenceMetrics(
            self._is_calibrated,
            len(right),
            calibration_error(sure, right),
            round(float(np.mean((sure - right) ** 2)), 6),
            round(_area(curve), 6),
            _thin(curve),
        )


def measure_confidence(predictions: Iterable[Prediction]) -> ConfidenceMetrics | None:
    """What the confidences of predictions are worth, see ConfidenceTally."""
    tally = ConfidenceTally()
    for prediction in predictions:
        if prediction.label is not None:
            tally.add(prediction)
    return tally.measure()


def calibration_error(sure: Float64Array, right: Float64Array, bins: int = BINS) -> float:
    """The expected calibration error of (n,) confidences in [0, 1] and (n,) hits: in [0, 1]; n >= 1."""
    places = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(float(np.sum(sure[places == place] - right[places == place]))) for place in range(bins)]
    return round(sum(gaps) / len(sure), 6)


def risk_coverage(sure: Float64Array, right: Float64Array) -> tuple[RiskPoint, ...]:
    """The risk-coverage curve of (n,) confidences and (n,) hits, by rising coverage; equal confidences go together."""
    order = np.argsort(-sure, kind="stable")
    ordered, wrong = sure[order], np.cumsum(1 - right[order])
    ends = np.flatnonzero(np.diff(ordered, append=-1.0))
    return tuple(
        RiskPoint(round((end + 1) / len(sure), 6), round(float(wrong[end]) / (end + 1), 6), float(ordered[end]))
        for end in ends.tolist()
    )


def _area(curve: Sequence[RiskPoint]) -> float:
    area, covered = 0.0, 0.0
    for point in curve:
        area += (point.coverage - covered) * point.risk
        covered = point.coverage
    return area


def _thin(curve: tuple[RiskPoint, ...], count: int = 100) -> tuple[RiskPoint, ...]:
    """At most `count` points of a curve, evenly spread, the last among them."""
    if len(curve) <= count:
        return curve
    return tuple(curve[(place + 1) * len(curve) // count - 1] for place in range(count))


def require_encoder(calibration: Calibration, fingerprint: str) -> None:
    """Raise UsageError for a calibration that was learnt with another text encoder."""
    if calibration.encoder != fingerprint:
        raise UsageError(
            "the calibration was learnt with another text encoder or other weights: "
            "make one from runs of this encoder with `tlac calibrate`"
        )


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON. Raises TlacError where the file can't be written."""
    try:
        path.write_text(json.dumps(asdict(calibration), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise TlacError(f"{path}: can't be written: {error.strerror}") from error


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file. Raises InputError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; `tlac calibrate RUNS` makes one") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a calibration: {error}") from error
    if found.temperature is not None and not found.temperature > 0:
        raise InputError(f"{path}: not a calibration: temperature {found.temperature} is not above 0")
    return found
