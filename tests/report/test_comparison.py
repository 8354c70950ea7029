from __future__ import annotations

from dataclasses import replace

from tests.support.reported_runs import prediction, some_predictions, some_run
from tlac.report.comparison import arrange, compare_columns, cost_points, find_disagreements, mark_cells, published_rows
from tlac.results.record import Run
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions


def graded(right: int, n: int = 40, **changes: object) -> Run:
    """A run that has the first `right` of `n` samples right."""
    return some_run([prediction(number, 0, 0 if number < right else 1) for number in range(n)], **changes)


def test_configurations_are_named_by_what_tells_them_apart() -> None:
    grid = arrange([some_run(), some_run(encoder="other"), some_run(method="slac", encoder="other", dataset="pets")])
    assert grid.configurations == ("fake, tlac, letters", "fake, tlac, other", "fake, slac, other")
    assert [record.dataset for record in grid.datasets] == ["cars", "pets"]
    assert grid.runs[0][1] is None


def test_the_latest_of_equal_runs_counts() -> None:
    older, newer = some_run(run="older"), some_run(run="newer", created_at="2031-01-01T00:00:00+00:00")
    grid = arrange([newer, older])
    assert grid.superseded == 1
    assert grid.runs[0][0] is newer


def test_the_best_is_marked_only_where_the_difference_is_significant() -> None:
    clear = arrange([graded(38, backend="good"), graded(10, backend="bad")])
    assert mark_cells(clear, compare_columns(clear)) == {(0, 0): "best", (1, 0): ""}
    close = arrange([graded(38, backend="good"), graded(36, backend="as good"), graded(10, backend="bad")])
    assert mark_cells(close, compare_columns(close)) == {(0, 0): "near", (1, 0): "near", (2, 0): ""}


def test_what_another_one_beats_is_not_near_however_few_images_the_highest_has() -> None:
    grid = arrange([graded(39, backend="good"), graded(20, backend="bad"), graded(5, n=5, backend="short")])
    assert mark_cells(grid, compare_columns(grid)) == {(0, 0): "near", (1, 0): "", (2, 0): "near"}


def test_a_run_that_shares_no_image_is_marked_as_untested() -> None:
    far = some_run([replace(one, sample=f"other {one.sample}") for one in some_predictions()], backend="far")
    grid = arrange([graded(39, backend="good"), graded(10, backend="bad"), far])
    assert mark_cells(grid, compare_columns(grid)) == {(0, 0): "near", (1, 0): "", (2, 0): "untested"}


def test_p_values_are_corrected_for_all_pairs_of_the_page() -> None:
    pair = [graded(30, backend="a"), graded(22, backend="b")]
    (alone,) = compare_columns(arrange(pair))[0]
    other = [replace(run, record=replace(run.record, dataset="pets")) for run in pair]
    both = compare_columns(arrange([*pair, *other]))
    assert [test.p_holm for column in (0, 1) for test in both[column]] == [2 * alone.p, 2 * alone.p]


def test_a_short_run_takes_no_images_from_the_pairs_of_the_others() -> None:
    runs = [graded(38, backend="good"), graded(20, backend="bad")]
    (alone,) = compare_columns(arrange(runs))[0]
    found = compare_columns(arrange([*runs, graded(5, n=5, backend="short")]))[0]
    assert [(test.first, test.second, test.n) for test in found] == [(0, 1, 40), (0, 2, 5), (1, 2, 5)]
    assert found[0].p == alone.p


def test_runs_that_share_no_sample_stand_beside_each_other_untested() -> None:
    other = some_run([replace(one, sample=f"other {one.sample}") for one in some_predictions()], backend="other")
    grid = arrange([some_run(), other])
    assert compare_columns(grid) == {}
    assert find_disagreements(grid) == []


def test_the_frontier_holds_what_nothing_cheaper_reaches() -> None:
    runs = [
        graded(20, backend="cheap", answers_cost_usd=0.04),
        graded(30, backend="dear", answers_cost_usd=0.4),
        graded(25, backend="dearer and worse", answers_cost_usd=0.8),
        graded(39, backend="price unknown", answers_cost_usd=None),
    ]
    points = cost_points(arrange(runs).columns[0])
    assert [(row, point.cost_per_1000_usd, point.is_dominated) for row, point in points.items()] == [
        (0, 1.0, False),
        (1, 10.0, False),
        (2, 20.0, True),
        (3, None, False),
    ]


def test_disagreements_are_the_samples_with_different_predictions() -> None:
    one, other = graded(10, n=12, backend="a"), graded(12, n=12, backend="b")
    found = find_disagreements(arrange([one, other, graded(3, n=3, backend="short")]))
    assert [(column, {row: said.predicted for row, said in group.items()}) for column, group in found] == [
        (0, {0: 1, 1: 0}),
        (0, {0: 1, 1: 0}),
    ]
    assert [group[0].sample for _, group in found] == ["010.png", "011.png"]


def test_published_rows_stand_under_the_datasets_that_they_name() -> None:
    run = some_run(dataset="caltech101", split="novel")
    grid = arrange([run, some_run()])
    rows = published_rows(grid.datasets)
    assert next(shares for figure, shares in rows if figure.method == "CLIP") == [0.94, None]
    assert published_rows(arrange([some_run()]).datasets) == []


def test_a_run_without_labels_has_a_cell_and_no_test() -> None:
    unlabelled = Predictions.of(replace(one, label=None) for one in some_predictions())
    runs = [replace(some_run(backend=name), predictions=unlabelled, metrics=measure(unlabelled)) for name in "ab"]
    grid = arrange(runs)
    tests = compare_columns(grid)
    assert tests == {}
    assert mark_cells(grid, tests) == {}
