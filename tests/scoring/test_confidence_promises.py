"""What is learnt and measured, against scikit-learn, numpy and literals; bounds and what lies just on them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.support.made_runs import confidence_of
from tlac.errors import InputError, TlacError, UsageError
from tlac.results.calibration import read_calibration, write_calibration
from tlac.scoring.confidence import (
    Calibration,
    abstain,
    calibration_error,
    fit,
    fit_corrected,
    require_encoder,
    risk_coverage,
)
from tlac.scoring.metrics import measure
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
                predicted=3 if right[number] else (1, 5)[number % 2])
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
    found = measure(rows).confidence
    assert found is not None
    assert (found.is_calibrated, found.n, found.brier, found.calibration_error) == (True, 2, 0.0625, 0.25)
    assert (found.auroc, found.area) == (1.0, 0.25)
    mixed = measure([rows[0], replace(rows[1], confidence=None)]).confidence
    assert mixed is not None
    assert not mixed.is_calibrated


def test_the_area_under_the_curve_is_numpys() -> None:
    random = np.random.default_rng(9)
    sure, right = random.permutation(64) / 64, random.integers(0, 2, 64)
    rows = [
        replace(ONE, sample=str(number), confidence=float(sure[number]), predicted=3 if right[number] else 1)
        for number in range(64)
    ]
    found = measure(rows).confidence
    assert found is not None
    risks = np.cumsum(1 - right[np.argsort(-sure)]) / np.arange(1, 65)
    assert found.area == pytest.approx(risks.mean(), abs=2e-6)
    assert [point.risk for point in found.curve] == pytest.approx(risks.tolist(), abs=1e-6)
    assert [point.coverage for point in found.curve] == [(number + 1) / 64 for number in range(64)]
    assert [point.threshold for point in found.curve] == sorted(sure.tolist(), reverse=True)


@pytest.mark.parametrize("count", [100, 101, 250])
def test_a_curve_has_a_hundred_points_at_most_evenly_spread(count: int) -> None:
    rows = [replace(ONE, sample=str(number), confidence=1 - number / 1000) for number in range(count)]
    found = measure(rows).confidence
    assert found is not None
    shares = [point.coverage for point in found.curve]
    assert (len(shares), shares[-1]) == (100, 1.0)
    assert np.diff([0, *shares]).max() <= -(-count // 100) / count + 1e-6


def test_a_confidence_on_the_edge_of_two_bins_is_of_the_upper_one() -> None:
    # in bins of their own they are 0.2 and 0.3 off; together they would be 0.25 off on average, and less if opposite
    assert calibration_error(np.array([0.8, 0.7]), np.array([1.0, 1.0]), np.ones(2)) == pytest.approx(0.25)
    assert calibration_error(np.array([0.5, 0.49]), np.array([1.0, 0.0]), np.ones(2)) == pytest.approx((0.5 + 0.49) / 2)
    assert calibration_error(np.array([0.5, 0.51]), np.array([1.0, 0.0]), np.ones(2)) == pytest.approx((0.51 - 0.5) / 2)


def test_confidence_of_nothing_is_a_threshold_too() -> None:
    curve = risk_coverage(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert [(point.coverage, point.risk, point.threshold) for point in curve] == [(0.5, 0.0, 1.0), (1.0, 0.5, 0.0)]


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    learnt = Calibration(
        {"exact": 1.5}, -0.25, 0.1, 7, "letters", ("a", "b"), evidence=2.0, witnesses={"logprob": 0.125}
    )
    write_calibration(tmp_path / "c.json", learnt)
    assert read_calibration(tmp_path / "c.json") == learnt
    text = (tmp_path / "c.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "level": {"exact": 1.5},
        "default_level": -0.25,
        "temperature": 0.1,
        "n": 7,
        "encoder": "letters",
        "runs": ["a", "b"],
        "evidence": 2.0,
        "witnesses": {"logprob": 0.125},
    }
    with pytest.raises(TlacError, match=r"c\.json: can't be written: Not a directory"):
        write_calibration(tmp_path / "c.json" / "c.json", learnt)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, r"can't be read: No such file or directory; `tlac calibrate RUNS` makes one"),
        ("{", "not a calibration: "),
        ("\udcff", "not a calibration: "),
        ('{"level": {}, "default_level": 0, "n": 1}', "not a calibration: .*temperature"),
        (
            '{"level": {}, "default_level": 0, "n": 1, "temperature": 0}',
            r"not a calibration: temperature 0\.0 is not above 0",
        ),
        (
            '{"level": {}, "default_level": 0, "n": 1, "temperature": -1}',
            r"not a calibration: temperature -1\.0 is not above 0",
        ),
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, text: str | None, complaint: str) -> None:
    if text is not None:
        (tmp_path / "c.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"c\.json: {complaint}"):
        read_calibration(tmp_path / "c.json")


def test_a_calibration_serves_the_encoder_that_it_was_learnt_with_and_corrections_serve_all() -> None:
    learnt = Calibration({}, 0.0, 0.1, 1, "letters")
    require_encoder(learnt, "letters")
    with pytest.raises(UsageError, match=r"another text encoder .* `tlac calibrate`"):
        require_encoder(learnt, "numbers")
    require_encoder(replace(learnt, evidence=1.0), "numbers")


def test_what_witnesses_say_is_weighed_as_scikit_learns_logistic_regression_weighs_it() -> None:
    rows, way, margin, right = drawn(2000)
    random = np.random.default_rng(10)
    # a second sample that knows something, and probabilities that do
    second = np.clip(np.where(right, 0.3, -0.3) + random.normal(0, 0.5, 2000), -1, 1).round(3)
    probability = np.clip(np.where(right, 0.7, 0.5) + random.normal(0, 0.2, 2000), 0.01, 1).round(3)
    heard = [
        replace(row, second=float(one), logprob=math.log(other))
        for row, one, other in zip(rows, second, probability, strict=True)
    ]
    found = fit(heard)
    assert found is not None
    spread = margin.std()
    inputs = np.column_stack([*(way == one for one in range(3)), margin / spread, second, 2 * probability - 1])
    *levels, slope, by_second, by_probability = LogisticRegression(**PRIOR).fit(inputs, right).coef_[0]
    assert [found.level[name] for name in WAYS] == pytest.approx(levels, abs=1e-5)
    assert found.temperature == pytest.approx(spread / slope, rel=1e-4)
    assert found.witnesses == pytest.approx({"second": by_second, "logprob": by_probability}, abs=1e-5)
    log_odds = found.level["similarity"] + 0.1 / found.temperature + by_second * 0.5 + by_probability * (2 * 0.25 - 1)
    told = replace(ONE, second=0.5, logprob=math.log(0.25))
    assert confidence_of(told, found) == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-5)


def test_a_witness_that_speaks_against_its_class_is_left_out() -> None:
    rows, *_, right = drawn(500)
    wrong = [replace(row, second=-0.5 if hit else 0.5) for row, hit in zip(rows, right, strict=True)]
    found, without = fit(wrong), fit(rows)
    assert found is not None
    assert without is not None
    assert (found.witnesses, found.level, found.temperature) == ({}, without.level, without.temperature)
