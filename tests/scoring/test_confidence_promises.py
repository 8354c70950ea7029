"""What is learnt and measured, against scikit-learn, numpy and literals; bounds and what lies just on them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tlac.scoring.confidence import (
    Calibration,
    abstain,
    calibration_error,
    confidence_of,
    fit,
    fit_corrected,
    measure_confidence,
    risk_coverage,
)
from tlac.types import Outcome, Prediction

ONE = Prediction(
    "1.png", None, 3, Outcome.ANSWERED, "a lorry", None, "similarity", 3, 0.8, 0.1, ((3, 0.8), (1, 0.7)), None, None
)
# variance 10 of a normal prior on each weight: C of scikit-learn, which multiplies the losses
PRIOR = {"C": 10.0, "fit_intercept": False, "tol": 1e-10, "max_iter": 10_000}
WAYS = ("exact", "choice", "similarity")


def drawn(count: int, slope: float = 3.0) -> tuple[list[Prediction], np.ndarray, np.ndarray, np.ndarray]:
    """Predictions, the way of each, their margins and hits."""
    random = np.random.default_rng(7)
    way, margin = random.integers(0, 3, count), random.uniform(-0.1, 0.3, count).round(6)
    right = random.uniform(0, 1, count) < 1 / (1 + np.exp(-(1.5 - way + slope * margin)))
    rows = [
        replace(ONE, sample=str(number), decided_by=WAYS[way[number]], margin=float(margin[number]),
                predicted=3 if right[number] else 1)
        for number in range(count)
    ]  # fmt: skip
    return rows, way, margin, right


@pytest.mark.parametrize("count", [12, 60, 3000])
def test_a_calibration_is_scikit_learns_logistic_regression(count: int) -> None:
    rows, way, margin, right = drawn(count)
    found = fit(rows)
    assert found is not None
    spread = margin.std()
    inputs = np.column_stack([*(way == one for one in range(3)), margin / spread])
    *levels, slope = LogisticRegression(**PRIOR).fit(inputs, right).coef_[0]
    assert [found.level[name] for name in WAYS] == pytest.approx(levels, abs=1e-5)
    assert found.temperature == pytest.approx(spread / slope, rel=1e-5)
    assert found.default_level == pytest.approx(math.log(right.mean() / (1 - right.mean())), abs=1e-6)
    assert found.n == count


def test_where_the_margin_speaks_against_its_class_the_levels_are_learnt_without_it() -> None:
    rows, way, _, right = drawn(300, slope=-20)
    found = fit(rows)
    assert found is not None
    assert found.temperature is None
    inputs = np.column_stack([way == one for one in range(3)])
    levels = LogisticRegression(**PRIOR).fit(inputs, right).coef_[0]
    assert [found.level[name] for name in WAYS] == pytest.approx(levels, abs=1e-5)


def test_equal_margins_and_one_way_teach_the_share_that_is_right() -> None:
    rows = [replace(ONE, sample=str(number), margin=0.0, predicted=3 if number < 750 else 1) for number in range(1000)]
    found = fit(rows)
    assert found is not None
    assert (list(found.level), found.temperature) == (["similarity"], None)
    assert confidence_of(replace(ONE, margin=0.0), found) == pytest.approx(0.75, abs=1e-3)
    assert confidence_of(replace(ONE, decided_by="exact"), found) == pytest.approx(0.75, abs=1e-6)


def test_what_corrections_teach_is_scikit_learns_logistic_regression() -> None:
    random = np.random.default_rng(8)
    sure = random.uniform(0, 1, 400).round(3)
    sure[:4] = 0.0, 1.0, 1.0, 0.0
    right = (random.uniform(0, 1, 400) < 0.2 + 0.6 * sure).astype(np.float64)
    found = fit_corrected(sure, right, "corrections.csv")
    assert found is not None
    # a confidence of nothing or of one is a millionth short of it
    bounded = np.clip(sure, 0.000001, 0.999999)
    inputs = np.column_stack([np.ones(400), np.log(bounded / (1 - bounded))])
    level, evidence = LogisticRegression(**PRIOR).fit(inputs, right).coef_[0]
    assert (found.default_level, found.evidence) == pytest.approx((level, evidence), abs=1e-5)
    assert (found.level, found.temperature, found.n, found.runs) == ({}, None, 400, ("corrections.csv",))


def test_corrections_that_say_nothing_teach_nothing() -> None:
    right, nothing = np.array([1.0, 0.0, 1.0, 0.0]), np.array([])
    assert fit_corrected(nothing, nothing, "c") is None
    assert fit_corrected(np.full(4, 0.5), np.ones(4), "c") is None
    assert fit_corrected(np.full(4, 0.5), np.zeros(4), "c") is None
    assert fit_corrected(np.array([0.1, 0.9, 0.1, 0.9]), right, "c") is None
    assert fit_corrected(np.array([0.9, 0.1, 0.9, 0.1]), right, "c") is not None


def test_corrected_confidence_goes_by_the_evidence_without_labels() -> None:
    corrected = Calibration({}, 0.25, None, 9, evidence=2.0)
    # its lead is a share of itself and of the least spread, and similarity speaks against it
    log_odds = 0.1 / 0.11 - 1
    assert confidence_of(ONE, corrected) == pytest.approx(1 / (1 + math.exp(-(0.25 + 2 * log_odds))), abs=1e-6)


@pytest.mark.parametrize("level", [30, 31, 1e300, float("inf")])
def test_no_level_is_too_high_for_a_confidence(level: float) -> None:
    certain = Calibration({"similarity": level}, 0.0, None, 1)
    assert confidence_of(ONE, certain) == 1.0
    assert confidence_of(ONE, replace(certain, level={"similarity": -level})) == 0.0


def test_confidences_have_six_places() -> None:
    third = confidence_of(ONE, Calibration({"similarity": -math.log(2)}, 0.0, None, 1))
    assert third == 0.333333


def test_just_as_sure_as_wanted_is_sure_enough() -> None:
    half = Calibration({"similarity": 0.0}, 0.0, None, 1)
    ((kept,), (given_up,)) = abstain([ONE], 0.5, half), abstain([ONE], 0.500001, half)
    assert (kept.outcome, kept.predicted, kept.confidence) == (Outcome.ANSWERED, 3, 0.5)
    assert (given_up.outcome, given_up.predicted) == (Outcome.ABSTAINED, None)
    # without a calibration no confidence is kept
    assert abstain([ONE], 0.1)[0].confidence is None
    assert abstain([ONE], None)[0] == ONE


def test_own_confidences_count_where_all_have_one_and_else_none_does() -> None:
    rows = [replace(ONE, confidence=0.75), replace(ONE, sample="2.png", confidence=0.25, predicted=1)]
    found = measure_confidence(rows)
    assert found is not None
    assert (found.is_calibrated, found.n, found.brier, found.calibration_error) == (True, 2, 0.0625, 0.25)
    assert (found.auroc, found.area) == (1.0, 0.25)
    mixed = measure_confidence([rows[0], replace(rows[1], confidence=None)])
    assert mixed is not None
    assert not mixed.is_calibrated


def test_the_area_under_the_curve_is_numpys() -> None:
    random = np.random.default_rng(9)
    sure, right = random.permutation(64) / 64, random.integers(0, 2, 64)
    rows = [
        replace(ONE, sample=str(number), confidence=float(sure[number]), predicted=3 if right[number] else 1)
        for number in range(64)
    ]
    found = measure_confidence(rows)
    assert found is not None
    risks = np.cumsum(1 - right[np.argsort(-sure)]) / np.arange(1, 65)
    assert found.area == pytest.approx(risks.mean(), abs=2e-6)
    assert [point.risk for point in found.curve] == pytest.approx(risks.tolist(), abs=1e-6)
    assert [point.coverage for point in found.curve] == [(number + 1) / 64 for number in range(64)]
    assert [point.threshold for point in found.curve] == sorted(sure.tolist(), reverse=True)


@pytest.mark.parametrize("count", [100, 101, 250])
def test_a_curve_has_a_hundred_points_at_most_evenly_spread(count: int) -> None:
    rows = [replace(ONE, sample=str(number), confidence=1 - number / 1000) for number in range(count)]
    found = measure_confidence(rows)
    assert found is not None
    shares = [point.coverage for point in found.curve]
    assert (len(shares), shares[-1]) == (100, 1.0)
    assert np.diff([0, *shares]).max() <= -(-count // 100) / count + 1e-6


def test_a_confidence_on_the_edge_of_two_bins_is_of_the_upper_one() -> None:
    # in bins of their own they are 0.2 and 0.3 off; together they would be 0.25 off on average, and less if opposite
    assert calibration_error(np.array([0.8, 0.7]), np.array([1.0, 1.0])) == pytest.approx(0.25)
    assert calibration_error(np.array([0.5, 0.49]), np.array([1.0, 0.0])) == pytest.approx((0.5 + 0.49) / 2)
    assert calibration_error(np.array([0.5, 0.51]), np.array([1.0, 0.0])) == pytest.approx((0.51 - 0.5) / 2)
    assert calibration_error(np.array([0.5, 0.49]), np.array([1.0, 0.0]), bins=2) == pytest.approx(0.495)


def test_confidence_of_nothing_is_a_threshold_too() -> None:
    curve = risk_coverage(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert [(point.coverage, point.risk, point.threshold) for point in curve] == [(0.5, 0.0, 1.0), (1.0, 0.5, 0.0)]
