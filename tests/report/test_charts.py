from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.support.reported_runs import prediction, refusal, some_calls, some_predictions
from tlac.report.charts import call_histograms, reliability, risk_curve
from tlac.results.usage import CallFacts, SampleCalls
from tlac.scoring.predictions import Predictions


def test_bins_hold_every_answered_sample_once_and_equal_scores_together() -> None:
    predictions = [
        prediction(number, 0, number % 2, score=1.0 if number < 20 else number / 100) for number in range(40)
    ]
    found = reliability(Predictions.of(predictions), "score")
    assert sum(entry.n for entry in found) == 40
    assert [entry.n for entry in found if entry.high == 1.0] == [20]
    assert all(before.high < after.low for before, after in pairwise(found))
    assert found[-1].accuracy == 0.5
    assert found[-1].ci95[0] < 0.5 < found[-1].ci95[1]


def test_what_has_no_score_or_no_label_has_no_bin() -> None:
    assert reliability(Predictions.of([refusal(0, 0), replace(prediction(1, 0, 0), label=None)]), "score") == ()


def test_the_risk_curve_counts_wrong_ones_among_the_most_certain() -> None:
    # by falling score: right, right, wrong, right; then a refusal, which is never covered
    hits = [prediction(number, 0, 1 if number == 2 else 0) for number in range(4)]
    found = risk_curve(Predictions.of([*hits, refusal(4, 0)]), "score")
    assert found is not None
    assert found.coverage == pytest.approx((0.2, 0.4, 0.6, 0.8))
    assert found.risk == pytest.approx((0, 0, 1 / 3, 1 / 4), abs=1e-6)
    assert found.area == pytest.approx((1 / 3 + 1 / 4) / 4, abs=1e-6)


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    found = risk_curve(
        Predictions.of([prediction(number % 900, 0, 0, score=number / 5000) for number in range(5000)]), "score"
    )
    assert found is not None
    assert len(found.coverage) == 200
    assert (found.coverage[0], found.coverage[-1]) == (0.0002, 1.0)


def test_histograms_count_each_distinct_answer_once() -> None:
    shared = CallFacts("stage2", "k", 3.0, None, 1, 1, False)
    calls = [SampleCalls("a", (shared,)), SampleCalls("b", (shared,)), *some_calls(some_predictions())]
    found = {histogram.title: histogram for histogram in call_histograms(calls)}
    assert set(found) == {"stage 1: latency of a call", "stage 1: cost of a call"}
    latency = found["stage 1: latency of a call"]
    assert (sum(latency.counts), latency.n) == (12, 12)
    assert latency.median == pytest.approx(0.65)
    assert len(latency.edges) == len(latency.counts) + 1


def test_costs_that_are_all_the_same_make_no_chart() -> None:
    free = [SampleCalls(str(place), (CallFacts("stage1", str(place), 1.0, 0.0, 1, 1, True),)) for place in range(9)]
    assert call_histograms(free) == ()
