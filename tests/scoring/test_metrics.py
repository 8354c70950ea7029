from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from tlac.scoring.metrics import Counts, measure, measure_counts, wilson_interval
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome, Prediction


def prediction(
    label: int | None, predicted: int | None, outcome: Outcome = Outcome.ANSWERED, decided_by: str = "exact"
):
    top = ((predicted, 0.9), (7, 0.5)) if predicted is not None else ()
    return Prediction(
        "s", None, label, outcome, "x", None, decided_by if top else None, predicted, 0.9, 0.1, top, None, None
    )


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(case: tuple[int, int]) -> None:
    correct, n = case
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_accuracy_recall_and_f1_agree_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = zip(*pairs, strict=True)
    metrics = measure([prediction(label, guess) for label, guess in pairs])
    present = np.unique(labels)
    assert metrics.accuracy == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
    assert metrics.mean_per_class == pytest.approx(
        recall_score(labels, predicted, labels=present, average="macro"), abs=1e-12
    )
    assert metrics.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0), abs=1e-12)


# a class or none, of few classes or one alone, so that ties, absent classes and runs without an answer are common
CASES = st.integers(0, 4).flatmap(
    lambda top: st.lists(st.tuples(st.integers(0, top), st.none() | st.integers(0, 4)), min_size=1, max_size=40)
)


@given(CASES)
@example([(2, None), (2, None)])
@example([(2, 2)])
@example([(2, 2), (2, None)])
@example([(2, 0), (0, 2), (1, 1), (1, None)])
def test_with_non_answers_all_shares_agree_with_scikit_learn(pairs: list[tuple[int, int | None]]) -> None:
    metrics = measure(
        [prediction(*pair, Outcome.ANSWERED if pair[1] is not None else Outcome.REFUSED) for pair in pairs]
    )
    # to scikit-learn a non-answer is a class of its own, which no sample has
    labels = [label for label, _ in pairs]
    predicted = [-1 if guess is None else guess for _, guess in pairs]
    present, named = sorted(set(labels)), sorted({*labels, *predicted} - {-1})
    answered = [pair for pair in pairs if pair[1] is not None]
    expected = {
        "accuracy": accuracy_score(labels, predicted),
        "mean_per_class": recall_score(labels, predicted, labels=present, average="macro", zero_division=0),
        "macro_f1": f1_score(labels, predicted, labels=named, average="macro", zero_division=0),
        "accuracy_answered": accuracy_score(*zip(*answered, strict=True)) if answered else None,
        "coverage": len(answered) / len(pairs),
    }
    assert {name: getattr(metrics, name) for name in expected} == pytest.approx(expected, abs=1e-12)
    right = sum(label == guess for label, guess in pairs)
    interval = proportion_confint(right, len(pairs), method="wilson")
    assert metrics.accuracy_ci95 == pytest.approx(interval, abs=1e-12)
    table = confusion_matrix(labels, predicted, labels=[*range(5), -1])
    counts = {entry.index: (entry.n, entry.predicted, entry.correct) for entry in metrics.per_class}
    assert counts == {index: (table[index].sum(), table[:, index].sum(), table[index, index]) for index in named}


def test_a_non_answer_counts_as_wrong_and_not_as_answered() -> None:
    metrics = measure([prediction(0, 0), prediction(0, None, Outcome.REFUSED), prediction(1, None, Outcome.FAILED)])
    assert metrics.accuracy == pytest.approx(1 / 3)
    assert metrics.accuracy_answered == 1.0
    assert metrics.coverage == pytest.approx(1 / 3)
    assert (metrics.answered, metrics.refused, metrics.failed) == (1, 1, 1)


def test_top5_counts_a_label_among_the_best() -> None:
    assert measure([prediction(7, 0), prediction(1, 0)]).top5 == 0.5


def test_rungs_are_measured_apart() -> None:
    metrics = measure(
        [prediction(0, 0), prediction(0, 1, decided_by="similarity"), prediction(2, 2, decided_by="similarity")]
    )
    assert metrics.by_decision["exact"].accuracy == 1.0
    assert (metrics.by_decision["similarity"].n, metrics.by_decision["similarity"].accuracy) == (2, 0.5)


def test_images_whose_class_was_shown_are_counted_apart() -> None:
    rows = [prediction(label, guess) for label, guess in [(0, 0), (0, 0), (1, 2), (2, 2), (3, 3), (None, 0)]]
    metrics = measure(rows, hinted=[0, 3])
    assert (metrics.unhinted, metrics.accuracy_unhinted) == (2, 0.5)
    assert metrics.accuracy == 4 / 5
    assert (measure(rows).unhinted, measure(rows).accuracy_unhinted) == (None, None)
    assert measure(rows[:2], hinted=[0]).accuracy_unhinted is None


def test_without_samples_or_labels_shares_are_undefined() -> None:
    assert measure([]).accuracy is None
    assert measure([]).coverage is None
    unlabelled = measure([prediction(None, 3)])
    assert (unlabelled.accuracy, unlabelled.accuracy_ci95, unlabelled.coverage) == (None, None, 1.0)


def test_the_most_confused_pairs_come_first() -> None:
    confused = measure([prediction(0, 1), prediction(2, 1), prediction(2, 1), prediction(1, 1)]).confused
    assert [(pair.label, pair.predicted, pair.n) for pair in confused] == [(2, 1, 2), (0, 1, 1)]


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(0, 2))), max_size=60))
def test_confused_pairs_are_those_of_scikit_learns_matrix(pairs: list[tuple[int, int | None]]) -> None:
    confused = measure([prediction(*pair) for pair in pairs]).confused
    found = {(pair.label, pair.predicted): pair.n for pair in confused}
    answered = [pair for pair in pairs if pair[1] is not None]
    matrix = confusion_matrix(*zip(*answered, strict=True), labels=range(3)) if answered else np.zeros((3, 3))
    assert found == {
        (row, column): matrix[row, column] for row, column in zip(*matrix.nonzero(), strict=True) if row != column
    }


def test_a_run_in_which_every_call_failed_has_no_number() -> None:
    metrics = measure([prediction(label, None, Outcome.FAILED) for label in (0, 1, 1)])
    assert (metrics.n, metrics.failed, metrics.coverage) == (3, 3, 0.0)
    assert (metrics.accuracy, metrics.accuracy_ci95, metrics.top5) == (None, None, None)
    assert (metrics.mean_per_class, metrics.macro_f1, metrics.per_class) == (None, None, ())
    # a refusal is an outcome that was measured
    assert measure([prediction(0, None, Outcome.REFUSED), prediction(1, None, Outcome.FAILED)]).accuracy == 0.0


@given(st.lists(st.tuples(st.integers(0, 4) | st.none(), st.integers(0, 4) | st.none()), max_size=60), st.data())
def test_the_counts_of_parts_sum_up_to_the_metrics_of_the_whole(
    pairs: list[tuple[int | None, int | None]], data: st.DataObject
) -> None:
    rows = [
        replace(
            prediction(label, guess, Outcome.ANSWERED if guess is not None else data.draw(st.sampled_from(NONE))),
            confidence=data.draw(st.sampled_from([0.25, 0.5, 0.875])),
            shortlist=data.draw(st.sampled_from([(), (0, 1), (2,)])),
        )
        for label, guess in pairs
    ]
    ends = sorted([0, len(rows), *data.draw(st.lists(st.integers(0, len(rows)), max_size=3))])
    parts = [Counts.of(Predictions.of(rows[start:end])) for start, end in pairwise(ends)]
    assert measure_counts(Counts.join(parts), (1,)) == measure(rows, (1,))


NONE = (Outcome.FAILED, Outcome.REFUSED)
