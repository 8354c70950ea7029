"""The page of several runs: the matrix with published rows, cost, agreement, and what they disagree on.

Does not know where runs come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlac.config.files import list_names
from tlac.config.suites import Published, load_published
from tlac.report.comparison import (
    SIGNIFICANCE,
    CellMark,
    Column,
    CostPoint,
    Disagreement,
    Grid,
    PairTest,
    all_thumbnails,
    arrange,
    column_title,
    compare_pairs,
    cost_points,
    find_disagreements,
    mark_cells,
)
from tlac.report.page import LONGEST_NAME, cut, render_page
from tlac.report.run_page import FactGroup, Page, ReportedRun, describe_run
from tlac.report.samples import PageImages

_SCRIPTS = ("core.js", "tables.js", "charts.js", "cards.js", "compare_charts.js", "compare.js")


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """A run in the matrix and its mark; both None where there is no such run."""

    run: ReportedRun | None
    mark: CellMark | None


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """A contender and its cells, one a column."""

    name: str
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """A published method: what it is reported to reach on each column, None where nothing is."""

    published: Published
    shares: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ComparisonContent:
    """What the page's scripts show."""

    contenders: tuple[str, ...]
    columns: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    tests: tuple[PairTest, ...]
    costs: tuple[CostPoint, ...]
    disagreements: tuple[Disagreement, ...]
    texts: tuple[str, ...]
    images: PageImages


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run's facts, under its name."""

    name: str
    groups: tuple[FactGroup, ...]


def render_comparison(runs: Sequence[ReportedRun], images_folder: str) -> Page:
    """The page of several runs. Thumbnails too many to stand inside are looked for in `images_folder`."""
    grid = arrange(runs)
    tests = compare_pairs(grid)
    disagreements = find_disagreements(grid, all_thumbnails(runs), images_folder)
    names = tuple(cut(name, LONGEST_NAME) for name in grid.contenders)
    titles = tuple(cut(column_title(column), LONGEST_NAME) for column in grid.columns)
    content = ComparisonContent(
        contenders=names,
        columns=titles,
        classes=tuple(tuple(cut(name, LONGEST_NAME) for name in column.classes) for column in grid.columns),
        tests=tests,
        costs=cost_points(grid),
        disagreements=disagreements.samples,
        texts=disagreements.texts,
        images=disagreements.images,
    )
    context = {
        "grid": grid,
        "titles": titles,
        "rows": _rows(grid, names, mark_cells(grid, tests)),
        "published": published_rows(grid.columns),
        "tests": tests,
        "significance": SIGNIFICANCE,
        "disagreeing": disagreements.total,
        "shown": len(disagreements.samples),
        "facts": [RunFacts(run.record.run, describe_run(run.record)) for run in runs],
    }
    return Page(render_page("compare.html", _SCRIPTS, context, content), disagreements.images)


def published_rows(columns: Sequence[Column]) -> tuple[PublishedRow, ...]:
    """The published figures for any of these datasets and splits."""
    found = []
    for split in dict.fromkeys(column.split for column in columns):
        for published in (row for suite in list_names("suite") for row in load_published(suite, split)):
            shares = tuple(
                published.by_dataset.get(column.dataset) if column.split == split else None for column in columns
            )
            if any(share is not None for share in shares):
                found.append(PublishedRow(published, shares))
    return tuple(found)


def _rows(grid: Grid, names: Sequence[str], marks: dict[tuple[int, int], CellMark]) -> tuple[MatrixRow, ...]:
    return tuple(
        MatrixRow(name, tuple(MatrixCell(run, marks.get((row, column))) for column, run in enumerate(runs)))
        for row, (name, runs) in enumerate(zip(names, grid.runs, strict=True))
    )
