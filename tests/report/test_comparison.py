from __future__ import annotations

from dataclasses import replace

from tests.support.reported_runs import prediction, some_predictions, some_run
from tlac.report.comparison import arrange, compare_pairs, cost_points, find_disagreements, mark_cells
from tlac.report.comparison_page import published_rows
from tlac.report.run_page import ReportedRun
from tlac.scoring.metrics import measure


def graded(right: int, n: int = 40, **changes: object) -> ReportedRun:
    """A run that has the first `right` of `n` samples right."""
    return some_run([prediction(number, 0, 0 if number < right else 1) for number in range(n)], **changes)


def test_contenders_are_named_by_what_tells_them_apart() -> None:
    grid = arrange([some_run(), some_run(encoder="other"), some_run(method="slac", encoder="other", dataset="pets")])
    assert grid.contenders == ("fake, tlac, letters", "fake, tlac, other", "fake, slac, other")
    assert [column.dataset for column in grid.columns] == ["cars", "pets"]
    assert grid.runs[0][1] is None


def test_the_latest_of_equal_runs_counts() -> None:
    older, newer = some_run(run="older"), some_run(run="newer", created_at="2031-01-01T00:00:00+00:00")
    grid = arrange([newer, older])
    assert grid.superseded == 1
    assert grid.runs[0][0] is newer


def test_the_best_is_marked_only_where_the_tests_can_tell() -> None:
    told = arrange([graded(38, backend="good"), graded(10, backend="bad")])
    marks = mark_cells(told, compare_pairs(told))
    assert (marks[0, 0].is_best, marks[0, 0].is_near) == (True, True)
    assert (marks[1, 0].is_best, marks[1, 0].is_near) == (False, False)
    close = arrange([graded(38, backend="good"), graded(36, backend="as good"), graded(10, backend="bad")])
    marks = mark_cells(close, compare_pairs(close))
    assert [marks[row, 0].is_best for row in range(3)] == [False, False, False]
    assert [marks[row, 0].is_near for row in range(3)] == [True, True, False]


def test_p_values_are_corrected_for_all_pairs_of_the_page() -> None:
    pair = [graded(30, backend="a"), graded(22, backend="b")]
    alone = compare_pairs(arrange(pair))[0].p
    other = [replace(run, record=replace(run.record, dataset="pets")) for run in pair]
    both = compare_pairs(arrange([*pair, *other]))
    assert [test.p for test in both] == [2 * alone, 2 * alone]


def test_runs_that_share_no_sample_stand_beside_each_other_untested() -> None:
    other = some_run([replace(one, sample=f"other {one.sample}") for one in some_predictions()], backend="other")
    grid = arrange([some_run(), other])
    assert compare_pairs(grid) == ()
    assert find_disagreements(grid, {}, "images").total == 0


def test_the_frontier_holds_what_nothing_cheaper_reaches() -> None:
    runs = [
        graded(20, backend="cheap", answers_cost_usd=0.04),
        graded(30, backend="dear", answers_cost_usd=0.4),
        graded(25, backend="dearer and worse", answers_cost_usd=0.8),
        graded(39, backend="price unknown", answers_cost_usd=None),
    ]
    points = cost_points(arrange(runs))
    assert [(point.contender, point.cost_usd, point.is_frontier) for point in points] == [
        (0, 1.0, True),
        (1, 10.0, True),
        (2, 20.0, False),
    ]


def test_disagreements_are_the_samples_with_different_predictions() -> None:
    one, other = graded(10, n=12, backend="a"), graded(12, n=12, backend="b")
    found = find_disagreements(arrange([one, other]), {}, "images")
    assert [(sample.sample, sample.label, sample.predicted) for sample in found.samples] == [
        ("010.png", 0, (1, 0)),
        ("011.png", 0, (1, 0)),
    ]
    assert [found.texts[number] for number in found.samples[0].answers] == [
        "It looks like a old car to me",
        "It looks like a red car to me",
    ]


def test_published_rows_stand_under_the_datasets_that_they_name() -> None:
    run = some_run(dataset="caltech101", split="novel")
    grid = arrange([run, some_run()])
    rows = published_rows(grid.columns)
    clip = next(row for row in rows if row.published.method == "CLIP")
    assert clip.shares == (0.94, None)
    assert published_rows(arrange([some_run()]).columns) == ()


def test_a_run_without_labels_has_a_cell_and_no_test() -> None:
    unlabelled = tuple(replace(one, label=None) for one in some_predictions())
    runs = [replace(some_run(backend=name), predictions=unlabelled, metrics=measure(unlabelled)) for name in "ab"]
    grid = arrange(runs)
    tests = compare_pairs(grid)
    assert tests == ()
    assert mark_cells(grid, tests) == {}
