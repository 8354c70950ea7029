from __future__ import annotations

from tests.support.reported_runs import prediction, some_predictions
from tlac.report.charts import confuse
from tlac.scoring.metrics import Confusion
from tlac.scoring.predictions import Predictions


def test_the_most_frequent_pair_comes_first() -> None:
    found = confuse(Predictions.of(some_predictions()))
    assert found.pairs == (Confusion(2, 1, 2), Confusion(0, 3, 1))
    assert found.wrong_pairs == 2


def test_the_matrix_holds_the_classes_of_the_pairs_and_every_sample_of_theirs() -> None:
    found = confuse(Predictions.of(some_predictions()))
    assert found.classes == (2, 1, 0, 3)
    assert found.cells[0] == (2, 2, 0, 0)
    assert found.unanswered == (0, 0, 0, 1)
    totals = [
        sum(row) + other + none for row, other, none in zip(found.cells, found.others, found.unanswered, strict=True)
    ]
    assert totals == [4, 2, 3, 3]


def test_a_thousand_confused_classes_leave_a_matrix_that_can_be_read() -> None:
    predictions = [prediction(0, label, (label + 1) % 1000) for label in range(1000)]
    found = confuse(Predictions.of(predictions))
    assert (len(found.pairs), found.wrong_pairs, len(found.classes)) == (200, 1000, 16)
    assert len(found.cells) == 16


def test_a_run_without_mistakes_confuses_nothing() -> None:
    assert confuse(Predictions.of([prediction(0, 1, 1)])).pairs == ()
