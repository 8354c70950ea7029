from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.support.made_runs import confidence_of
from tlac.scoring.confidence import (
    DOUBTFUL_BELOW,
    Calibration,
    RiskPoint,
    abstain,
    auroc,
    calibration_error,
    fit,
    risk_coverage,
)
from tlac.scoring.metrics import measure
from tlac.types import Outcome, Prediction

ONE = Prediction(
    "1.png", None, 3, Outcome.ANSWERED, "a lorry", None, "similarity", 3, 0.8, 0.1, ((3, 0.8), (1, 0.7)), None, None
)
LEARNT = Calibration({"choice": 2.0, "similarity": 0.0}, 0.5, 0.1, 100)


# its lead of 0.1 over the only other class known, as a share of itself and of the least spread
LEAD = 0.1 / 0.11


@pytest.mark.parametrize(
    ("changes", "log_odds"),
    [
        ({}, LEAD - 1),
        ({"words": (3, 4)}, LEAD - 1 + 1),
        ({"words": (1,)}, LEAD - 1 - 1),
        ({"decided_by": "choice"}, LEAD),
        ({"decided_by": "choice", "margin": -0.1, "top5": ((3, 0.8), (1, 0.9))}, -LEAD),
        ({"decided_by": "exact", "words": (3, 4)}, 1 + LEAD + 1),
        ({"votes": (3, 3, 1)}, LEAD - 1 + 0),
        ({"votes": (1, 3, 3, 3)}, LEAD - 1 + 1 / 3),
        ({"votes": (3, None)}, LEAD - 1 - 1),
        ({"second": 1.0}, LEAD - 1 + 1),
        ({"second": -0.25}, LEAD - 1 - 0.25),
        # a probability of one half says nothing
        ({"decided_by": "choice", "logprob": math.log(0.5)}, LEAD),
        ({"decided_by": "choice", "logprob": math.log(0.9)}, LEAD + 0.8),
        ({"decided_by": "choice", "logprob": -1e9}, LEAD - 1),
        # the others lie 0.29 apart
        ({"top5": ((3, 0.8), (1, 0.7), (2, 0.6), (4, 0.41))}, 0.1 / (0.1 + 0.29 + 0.01) - 1),
        ({"top5": ((3, 0.8),), "margin": 0.0}, -1),
    ],
)
def test_confidence_sums_up_what_speaks_for_and_against_the_class(changes: dict, log_odds: float) -> None:
    assert confidence_of(replace(ONE, **changes)) == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-6)


def test_the_lead_counts_alike_whatever_an_encoder_s_scale() -> None:
    wide = replace(ONE, score=80.0, margin=10.0, top5=((3, 80.0), (1, 70.0), (2, 60.0)))
    wider = replace(ONE, score=800.0, margin=100.0, top5=((3, 800.0), (1, 700.0), (2, 600.0)))
    assert confidence_of(wide) == pytest.approx(confidence_of(wider), abs=1e-3)


def test_what_decides_orders_confidences_and_members_that_agree_raise_them() -> None:
    by_name, by_choice, by_similarity = (
        confidence_of(replace(ONE, decided_by=step)) for step in ("exact", "choice", "similarity")
    )
    assert by_name > by_choice > DOUBTFUL_BELOW > by_similarity  # type: ignore[operator]
    agreed, split = confidence_of(replace(ONE, votes=(3, 3))), confidence_of(replace(ONE, votes=(3, 1)))
    assert agreed > by_similarity > split  # type: ignore[operator]


def test_a_calibrated_confidence_is_the_logistic_of_level_and_margin() -> None:
    assert confidence_of(ONE, LEARNT) == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)
    assert confidence_of(replace(ONE, decided_by="choice"), LEARNT) == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-6)
    assert confidence_of(replace(ONE, decided_by="exact"), LEARNT) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=1e-6)
    flat = replace(LEARNT, temperature=None)
    assert confidence_of(ONE, flat) == 0.5


def test_what_has_no_class_has_no_confidence() -> None:
    refused = replace(ONE, outcome=Outcome.REFUSED, predicted=None, margin=None)
    assert confidence_of(refused) is confidence_of(refused, LEARNT) is None
    assert tuple(abstain([refused], 0.9)) == (refused,)


def drawn(count: int, level: float, temperature: float, seed: int = 0) -> list[Prediction]:
    chance = random.Random(seed)
    made = []
    for number in range(count):
        margin = chance.uniform(0, 0.4)
        is_right = chance.random() < 1 / (1 + math.exp(-(level + margin / temperature)))
        made.append(replace(ONE, sample=str(number), margin=margin, predicted=3 if is_right else 1))
    return made


def test_fitting_finds_the_level_and_temperature_that_made_the_labels() -> None:
    found = fit(drawn(20_000, -1.0, 0.1), "letters", ("run",))
    assert found is not None
    assert found.level["similarity"] == pytest.approx(-1.0, abs=0.1)
    assert found.temperature == pytest.approx(0.1, rel=0.05)
    assert (found.n, found.encoder, found.runs) == (20_000, "letters", ("run",))


def test_fitted_confidences_are_calibrated_on_other_samples() -> None:
    found = fit(drawn(5_000, -1.0, 0.1))
    unseen = abstain(drawn(5_000, -1.0, 0.1, seed=1), None, found)
    metrics = measure(unseen).confidence
    assert metrics is not None
    assert metrics.is_calibrated
    assert metrics.calibration_error < 0.03


def test_a_margin_that_speaks_against_its_class_is_left_out() -> None:
    found = fit(drawn(5_000, 1.0, -0.2))
    assert found is not None
    assert found.temperature is None


def test_a_calibration_weighs_a_second_sample_and_log_probabilities_where_runs_had_them() -> None:
    chance, made = random.Random(0), []
    for number in range(20_000):
        second, probability = chance.uniform(-1, 1), chance.uniform(0.01, 1)
        is_right = chance.random() < 1 / (1 + math.exp(-(0.5 + 1.5 * second + 3 * (2 * probability - 1))))
        predicted, logprob = 3 if is_right else 1, math.log(probability)
        made.append(replace(ONE, sample=str(number), predicted=predicted, second=second, logprob=logprob))
    found = fit(made)
    assert found is not None
    assert found.witnesses == pytest.approx({"second": 1.5, "logprob": 3.0}, rel=0.05)
    known = confidence_of(replace(ONE, second=1.0, logprob=0.0), found)
    assert known == pytest.approx(1 / (1 + math.exp(-5)), abs=0.005)
    # where a run has neither, they are silent
    assert confidence_of(ONE, found) == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.02)
    against = fit([replace(one, second=-(one.second or 0.0)) for one in made])
    assert against is not None
    assert list(against.witnesses) == ["logprob"]


def test_a_rung_that_was_always_right_is_not_called_certain() -> None:
    predictions = [replace(ONE, decided_by="exact")] * 20 + [replace(ONE, predicted=1)] * 5 + [ONE] * 5
    found = fit(predictions)
    assert found is not None
    assert 0.5 < confidence_of(replace(ONE, decided_by="exact"), found) < 0.999  # type: ignore[operator]


def test_nothing_is_learnt_without_labels_or_from_one_outcome() -> None:
    assert fit([]) is None
    assert fit([replace(ONE, label=None)]) is None
    assert fit([ONE, ONE]) is None


def test_what_is_less_sure_than_wanted_abstains_and_counts_as_no_answer() -> None:
    sure = replace(ONE, sample="2.png", words=(3,))
    doubtful = replace(ONE, sample="3.png", predicted=1, words=())
    kept, given_up = abstain([sure, doubtful], 0.6)
    assert kept == sure
    assert (given_up.outcome, given_up.predicted) == (Outcome.ABSTAINED, None)
    assert given_up.reason == "confidence 0.477 is below 0.6"
    assert measure([sure, doubtful]).top5 == 1.0
    metrics = measure([kept, given_up])
    assert (metrics.abstained, metrics.answered, metrics.accuracy, metrics.accuracy_answered) == (1, 1, 0.5, 1.0)
    assert metrics.top5 == 0.5


def test_the_risk_coverage_curve_takes_equal_confidences_together() -> None:
    sure, right = np.array([0.9, 0.9, 0.5, 0.5]), np.array([1.0, 1.0, 1.0, 0.0])
    assert risk_coverage(sure, right) == (RiskPoint(0.5, 0.0, 0.9), RiskPoint(1.0, 0.25, 0.5))


def test_the_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    sure, right = np.array([0.95, 0.95, 0.15, 0.15]), np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(sure, right, np.ones(4)) == pytest.approx((2 * 0.45 + 2 * 0.15) / 4)
    assert calibration_error(np.ones(1), np.ones(1), np.ones(1)) == 0.0


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    metrics = measure(abstain(drawn(1_000, 0.0, 0.1), None, LEARNT)).confidence
    assert metrics is not None
    assert len(metrics.curve) == 100
    assert metrics.curve[-1].coverage == 1.0
    assert [point.coverage for point in metrics.curve] == sorted(point.coverage for point in metrics.curve)


def test_the_auroc_is_scikit_learn_s() -> None:
    drawn_at = np.random.default_rng(0)
    right = drawn_at.integers(0, 2, 500).astype(np.float64)
    # with many ties
    sure = np.round(np.clip(drawn_at.normal(0.4 + 0.2 * right, 0.2), 0, 1), 1)
    assert auroc(sure, right, np.ones(500)) == pytest.approx(roc_auc_score(right, sure), abs=1e-6)
    assert auroc(np.array([0.1, 0.9]), np.array([1.0, 0.0]), np.ones(2)) == 0.0
    assert auroc(sure[:2], np.ones(2), np.ones(2)) is auroc(sure[:2], np.zeros(2), np.ones(2)) is None
