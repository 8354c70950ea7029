"""The page of several runs: accuracies with published rows, paired tests, cost, and what the runs disagree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlac.analysis.compare import PairTest, correct, pair_tests, sample_keys
from tlac.analysis.leaderboard import Point, mark_dominated
from tlac.config.files import list_names
from tlac.config.schemas import Published, load_published
from tlac.report.page import LONGEST_NAME, PageImages, cut, render_page
from tlac.report.run_page import describe_run
from tlac.report.samples import TextTable, place_images
from tlac.results.folder import find_thumbnails
from tlac.results.record import Run, RunRecord, describe_part
from tlac.scoring.predictions import Predictions
from tlac.types import Prediction

# what tells configurations apart beside backend and method, where it differs between the runs at hand
_SETTINGS = ("stage2_backend", "encoder", "matching", "template", "prompts", "shuffle_classes")
# a difference is significant where its corrected p-value is below this
SIGNIFICANCE = 0.05
_MOST_DISAGREEMENTS = 4_000
_SCRIPTS = ("core.js", "tables.js", "charts.js", "cards.js", "compare_charts.js", "compare.js")


@dataclass(frozen=True, slots=True)
class Grid:
    """`runs[row][column]`: the latest run of each configuration on each dataset, None where there is none.

    `configurations` are the rows' names; `datasets` are the record of one run of each column: runs with another
    split, protocol or class list are another column. `superseded` counts older runs that are left out.
    """

    configurations: tuple[str, ...]
    datasets: tuple[RunRecord, ...]
    runs: tuple[tuple[Run | None, ...], ...]
    superseded: int

    @property
    def columns(self) -> list[dict[int, Run]]:
        """The runs on each dataset by row."""
        columns = zip(*self.runs, strict=True)
        return [{row: run for row, run in enumerate(runs) if run is not None} for runs in columns]

    @property
    def titles(self) -> tuple[str, ...]:
        """The datasets and their splits, as results name them."""
        return tuple(describe_part(record.dataset, record.split) for record in self.datasets)


def arrange(runs: Sequence[Run]) -> Grid:
    """The grid of these runs: configurations and datasets in the order in which they come."""
    varying = [name for name in _SETTINGS if len({_setting(run.record, name) for run in runs}) > 1]
    found: dict[tuple[str, object], Run] = {}
    for run in sorted(runs, key=lambda run: run.record.created_at):
        found[_configuration(run.record, varying), _dataset(run.record)] = run
    names = dict.fromkeys(_configuration(run.record, varying) for run in runs)
    datasets = {_dataset(run.record): run.record for run in reversed(runs)}
    ordered = list(dict.fromkeys(_dataset(run.record) for run in runs))
    rows = tuple(tuple(found.get((name, dataset)) for dataset in ordered) for name in names)
    return Grid(tuple(names), tuple(datasets[dataset] for dataset in ordered), rows, len(runs) - len(found))


def _dataset(record: RunRecord) -> object:
    return record.dataset, record.split, record.protocol, record.classes


def _setting(record: RunRecord, name: str) -> str:
    value = getattr(record, name)
    if name == "stage2_backend" and value in ("", record.backend):
        return ""
    return "" if value is None else str(value)


def _configuration(record: RunRecord, varying: Sequence[str]) -> str:
    settings = [_setting(record, name) for name in varying]
    return ", ".join([record.backend, record.method, *(value for value in settings if value)])


def compare_columns(grid: Grid) -> dict[int, list[PairTest]]:
    """The tests of every pair of rows on every dataset that both ran on, corrected for all of them, by column.

    Each pair is tested on the samples that its two runs share. `first` and `second` are the grid's rows.
    """
    found: list[tuple[int, PairTest]] = []
    for column, runs in enumerate(grid.columns):
        rows = list(runs)
        found += [
            (column, replace(test, first=rows[test.first], second=rows[test.second]))
            for test in pair_tests(list(runs.values()))
        ]
    tests: dict[int, list[PairTest]] = {}
    for (column, _), test in zip(found, correct([test for _, test in found]), strict=True):
        tests.setdefault(column, []).append(test)
    return tests


def mark_cells(grid: Grid, tests: Mapping[int, Sequence[PairTest]]) -> dict[tuple[int, int], str]:
    """How the cells with an accuracy stand in their column, by row and column.

    "best" is significantly better than every other one, "near" is one than which none is significantly better,
    "untested" shares no labelled image with any other, all others are "".
    """
    marks: dict[tuple[int, int], str] = {}
    for column, runs in enumerate(grid.columns):
        rows = [row for row, run in runs.items() if run.metrics.accuracy is not None]
        if len(rows) < 2:
            continue
        found = tests.get(column, ())
        tested = {row for test in found for row in (test.first, test.second)}
        beaten = [_order(test) for test in found if test.p_holm < SIGNIFICANCE]
        worse = {second for _, second in beaten}
        for row in rows:
            marks[row, column] = "" if row in worse else "near" if row in tested else "untested"
            if sum(first == row for first, _ in beaten) == len(rows) - 1:
                marks[row, column] = "best"
    return marks


def _order(test: PairTest) -> tuple[int, int]:
    """The more accurate of the two rows first."""
    return (test.first, test.second) if test.difference.value > 0 else (test.second, test.first)


def cost_points(column: Mapping[int, Run]) -> dict[int, Point]:
    """The labelled runs of a column, with their cost for 1,000 images and whether another dominates them, by row."""
    runs = {row: run for row, run in column.items() if run.metrics.accuracy is not None}
    return dict(zip(runs, mark_dominated(runs.values()), strict=True))


def find_disagreements(grid: Grid) -> list[tuple[int, dict[int, Prediction]]]:
    """The samples on which rows predict differently, as (column, predictions by row), in the order of the runs.

    A sample counts where at least two runs hold it.
    """
    found = []
    for column, runs in enumerate(grid.columns):
        places: dict[tuple[str, str | None, int], dict[int, int]] = {}
        for row, run in runs.items():
            for place, key in enumerate(sample_keys(run.predictions)):
                places.setdefault(key, {})[row] = place
        predicted = {row: run.predictions.predicted.tolist() for row, run in runs.items()}
        found += [
            (column, {row: runs[row].predictions[place] for row, place in group.items()})
            for group in places.values()
            if len({predicted[row][place] for row, place in group.items()}) > 1
        ]
    return found


def published_rows(datasets: Sequence[RunRecord]) -> list[tuple[Published, list[float | None]]]:
    """The published figures for any of these datasets and splits, and the accuracy on each, None where none is."""
    found = []
    for split in dict.fromkeys(record.split for record in datasets):
        for published in (row for suite in list_names("suite") for row in load_published(suite, split)):
            shares = [
                published.by_dataset.get(record.dataset) if record.split == split else None for record in datasets
            ]
            if any(share is not None for share in shares):
                found.append((published, shares))
    return found


def all_thumbnails(runs: Iterable[Run]) -> dict[str, Path]:
    """The thumbnails of all runs by the sha256 of their image."""
    return {sha256: source for run in runs for sha256, source in find_thumbnails(run.folder).items()}


def render_comparison(runs: Sequence[Run], images_folder: str) -> tuple[str, PageImages]:
    """The page of several runs, and its images: those too many to stand inside are looked for in `images_folder`."""
    grid = arrange(runs)
    tests = compare_columns(grid)
    disagreements = find_disagreements(grid)
    kept = disagreements
    if len(kept) > _MOST_DISAGREEMENTS:
        kept = sorted(kept, key=lambda found: -len({one.predicted for one in found[1].values()}))[:_MOST_DISAGREEMENTS]
    first = Predictions.of(next(iter(group.values())) for _, group in kept)
    images, numbers = place_images(first, all_thumbnails(runs), images_folder)
    texts, marks = TextTable(), mark_cells(grid, tests)
    names = [cut(name, LONGEST_NAME) for name in grid.configurations]
    titles = [cut(title, LONGEST_NAME) for title in grid.titles]
    content = {
        "configurations": names,
        "datasets": titles,
        "classes": [[cut(name, LONGEST_NAME) for name in record.classes] for record in grid.datasets],
        "tests": [_describe_test(column, test) for column, found in tests.items() for test in found],
        "runs": _describe_runs(grid, marks),
        "disagreements": [_describe_group(column, group, numbers, texts) for column, group in kept],
        "texts": texts.texts(),
        "images": images,
    }
    context = {
        "grid": grid,
        "names": names,
        "titles": titles,
        "marks": marks,
        "published": published_rows(grid.datasets),
        "is_tested": bool(tests),
        "significance": SIGNIFICANCE,
        "disagreeing": len(disagreements),
        "listed": len(kept),
        "facts": [(run.record.run, describe_run(run)) for run in runs],
    }
    return render_page("compare.html", _SCRIPTS, context, content), images


def _describe_runs(grid: Grid, marks: Mapping[tuple[int, int], str]) -> list[dict[str, object]]:
    """One row for each run: what the forest plots, the table and the cost charts show."""
    rows: list[dict[str, object]] = []
    for column, runs in enumerate(grid.columns):
        points = cost_points(runs)
        for row, run in runs.items():
            metrics, point = run.metrics, points.get(row)
            rows.append(
                {
                    "configuration": row,
                    "dataset": column,
                    "n": metrics.n,
                    "accuracy": metrics.accuracy,
                    "ci95": metrics.accuracy_ci95,
                    "coverage": metrics.coverage,
                    "cost_usd": None if point is None else point.cost_per_1000_usd,
                    "is_frontier": point is not None and point.cost_per_1000_usd is not None and not point.is_dominated,
                    "wall_s": run.record.wall_s,
                    "is_complete": run.record.is_complete,
                    "mark": marks.get((row, column), ""),
                }
            )
    return rows


def _describe_test(column: int, test: PairTest) -> dict[str, object]:
    return {
        "dataset": column,
        "first": test.first,
        "second": test.second,
        "n": test.n,
        "difference": test.difference.value,
        "low": test.difference.low,
        "high": test.difference.high,
        "p": test.p_holm,
        "kappa": test.kappa,
    }


def _describe_group(
    column: int, group: Mapping[int, Prediction], numbers: Mapping[str, int], texts: TextTable
) -> dict[str, object]:
    first = next(iter(group.values()))
    return {
        "sample": cut(first.sample, LONGEST_NAME),
        "dataset": column,
        "label": first.label,
        "thumbnail": numbers.get(first.image_sha256 or "", -1),
        "configurations": list(group),
        "predicted": [one.predicted for one in group.values()],
        "answers": [texts.number(one.answer or one.reason) for one in group.values()],
    }
