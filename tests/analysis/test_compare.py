from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from tests.support.made_runs import made_prediction, made_run
from tlac.analysis.compare import PairTest, compare
from tlac.errors import InputError, UsageError
from tlac.results.record import Run
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
FIRST = made_run(list(zip(LABELS, [0, 1, 2, 0, 1, 0, 0, 1], strict=True)), run="first")
SECOND = made_run(list(zip(LABELS, [0, 1, 0, 1, 0, 2, 0, None], strict=True)), run="second")


def with_predictions(run: Run, *predictions) -> Run:
    return replace(run, predictions=Predictions.of(predictions))


def counts(test: PairTest) -> tuple[int, int, int, int]:
    """Both right, only the first, only the second, neither."""
    return test.both, len(test.only_first), len(test.only_second), test.neither


def test_two_runs_are_compared_sample_by_sample() -> None:
    (test,) = compare([FIRST, SECOND])
    assert (*counts(test), test.left_out, test.failed) == (3, 4, 1, 0, 0, 0)
    assert test.only_first == ("2.png", "3.png", "4.png", "7.png")
    assert test.only_second == ("5.png",)
    assert test.difference.value == 3 / 8
    assert test.p == test.p_holm == pytest.approx(binomtest(1, 5).pvalue)
    # a refusal is a choice of its own
    predicted = [0, 1, 0, 1, 0, 2, 0, -1]
    assert test.kappa == pytest.approx(cohen_kappa_score([0, 1, 2, 0, 1, 0, 0, 1], predicted))


def test_several_pairs_are_corrected_together() -> None:
    third = made_run(list(zip(LABELS, [None] * 8, strict=True)), run="third")
    tests = compare([FIRST, SECOND, third])
    assert [(test.first, test.second) for test in tests] == [(0, 1), (0, 2), (1, 2)]
    lowest = min(tests, key=lambda test: test.p)
    assert lowest.p_holm == pytest.approx(3 * lowest.p)


def test_only_shared_samples_count_whatever_their_order() -> None:
    part = with_predictions(SECOND, *reversed(SECOND.predictions[2:6]), made_prediction("9.png", 0, 0))
    (test,) = compare([FIRST, part])
    assert (*counts(test), test.left_out) == (0, 3, 1, 0, 5)


def test_each_pair_is_tested_on_the_samples_that_its_two_runs_share() -> None:
    short = with_predictions(replace(SECOND, record=replace(SECOND.record, run="short")), *SECOND.predictions[:5])
    whole, *others = compare([FIRST, SECOND, short])
    (alone,) = compare([FIRST, SECOND])
    assert replace(whole, p_holm=whole.p) == alone
    assert [(test.first, test.second, test.n, test.left_out) for test in others] == [(0, 2, 5, 3), (1, 2, 5, 3)]


def test_a_pair_without_a_sample_in_common_is_not_tested_and_the_others_are() -> None:
    far = with_predictions(SECOND, made_prediction("far.png", 0, 0))
    assert [(test.first, test.second) for test in compare([FIRST, far, SECOND])] == [(0, 2)]


def test_a_sample_with_another_image_is_not_the_same_sample() -> None:
    swapped = replace(SECOND.predictions[0], image_sha256="f" * 64)
    (test,) = compare([FIRST, with_predictions(SECOND, swapped, *SECOND.predictions[1:])])
    assert (test.n, test.left_out) == (7, 2)


def test_failed_calls_are_left_out_and_counted() -> None:
    failed = replace(SECOND.predictions[0], outcome=Outcome.FAILED, predicted=None)
    (test,) = compare([FIRST, with_predictions(SECOND, failed, *SECOND.predictions[1:])])
    assert (test.n, test.failed) == (7, 1)


def test_unlabelled_samples_take_no_part() -> None:
    unlabelled = [replace(one, label=None) for one in SECOND.predictions]
    with pytest.raises(InputError, match="first, second: no labelled sample in common"):
        compare([FIRST, with_predictions(SECOND, *unlabelled)])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"classes": ("red car", "old car", "bus")}, "different class lists"),
        ({"protocol": "theirs"}, r"different protocols \(ours; theirs\)"),
        ({"split": "novel"}, r"different splits \(all; novel\)"),
    ],
)
def test_runs_on_something_else_are_refused(change, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        compare([FIRST, replace(SECOND, record=replace(SECOND.record, **change))])


def test_one_run_is_not_a_comparison() -> None:
    with pytest.raises(UsageError, match="at least two"):
        compare([FIRST])
