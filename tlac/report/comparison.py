"""What a comparison shows: the matrix of accuracies, paired tests, cost against accuracy, disagreements.

Pure functions of a grid of runs. Does not know HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlac.analysis.compare import Pairing, compare
from tlac.analysis.statistics import holm
from tlac.errors import InputError
from tlac.report.page import LONGEST_NAME, cut
from tlac.report.run_page import ReportedRun
from tlac.report.samples import PageImages, TextTable, place_images
from tlac.results.record import Run, RunRecord
from tlac.types import Prediction

# what tells competitors apart beside backend and method, where it differs between the runs at hand
_SETTINGS = ("stage2_backend", "encoder", "matching", "template", "prompts", "shuffle_classes")


@dataclass(frozen=True, slots=True)
class Column:
    """A dataset as it was run: runs with another split, protocol or class list are another column."""

    dataset: str
    split: str
    protocol: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """`runs[contender][column]`: the latest run of each contender on each dataset, None where there is none.

    `contenders` are their names; `superseded` counts older runs that are left out.
    """

    contenders: tuple[str, ...]
    columns: tuple[Column, ...]
    runs: tuple[tuple[ReportedRun | None, ...], ...]
    superseded: int


def arrange(runs: Sequence[ReportedRun]) -> Grid:
    """The grid of these runs: contenders and datasets in the order in which they come."""
    varying = [name for name in _SETTINGS if len({_setting(run.record, name) for run in runs}) > 1]
    found: dict[tuple[str, Column], ReportedRun] = {}
    contenders: dict[str, None] = {}
    columns: dict[Column, None] = {}
    for run in sorted(runs, key=lambda run: run.record.created_at):
        found[_contender(run.record, varying), _column(run.record)] = run
    for run in runs:
        contenders.setdefault(_contender(run.record, varying))
        columns.setdefault(_column(run.record))
    rows = tuple(tuple(found.get((name, column)) for column in columns) for name in contenders)
    return Grid(tuple(contenders), tuple(columns), rows, len(runs) - len(found))


def align(runs: Sequence[ReportedRun]) -> Iterator[tuple[Prediction, ...]]:
    """The predictions of all runs about each sample that they share, in the first run's order."""
    keyed = [{(one.sample, one.image_sha256, one.label): one for one in run.predictions} for run in runs]
    for key in keyed[0]:
        if all(key in others for others in keyed[1:]):
            yield tuple(others[key] for others in keyed)


def _column(record: RunRecord) -> Column:
    return Column(record.dataset, record.split, record.protocol, record.classes)


def _setting(record: RunRecord, name: str) -> str:
    value = getattr(record, name)
    if name == "stage2_backend" and value in ("", record.backend):
        return ""
    return "" if value is None else str(value)


def _contender(record: RunRecord, varying: Sequence[str]) -> str:
    settings = [_setting(record, name) for name in varying]
    return ", ".join([record.backend, record.method, *(value for value in settings if value)])


# a difference counts as told where its corrected p-value is below this
SIGNIFICANCE = 0.05
_MOST_DISAGREEMENTS = 4_000


@dataclass(frozen=True, slots=True)
class PairTest:
    """Two contenders on one dataset, by their places in the grid: `difference` is the first's accuracy less the
    second's on the `n` samples that all runs of the column share, with its 95 % interval; `p` is McNemar's exact
    p-value, corrected by Holm for all pairs of the report; `kappa` is the agreement of what they predicted."""

    first: int
    second: int
    column: int
    n: int
    difference: float
    low: float
    high: float
    p: float
    kappa: float | None


@dataclass(frozen=True, slots=True)
class CellMark:
    """How a cell stands in its column: `is_best` where the tests tell it from every other one, `is_near` where
    they don't tell it from the one with the highest accuracy."""

    is_best: bool
    is_near: bool


@dataclass(frozen=True, slots=True)
class CostPoint:
    """A contender's accuracy on a dataset and the cost of its answers, in USD per 1000 samples."""

    contender: int
    column: int
    cost_usd: float
    accuracy: float
    is_frontier: bool


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One sample on which contenders differ. `contenders` have run on its dataset; `predicted` and `answers`
    (indices into the texts) are theirs, in that order."""

    sample: str
    column: int
    label: int | None
    thumbnail: int
    contenders: tuple[int, ...]
    predicted: tuple[int | None, ...]
    answers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Disagreements:
    """The samples on which contenders differ, at most some thousand of the `total`, and their texts and images."""

    samples: tuple[Disagreement, ...]
    total: int
    texts: tuple[str, ...]
    images: PageImages


def compare_pairs(grid: Grid) -> tuple[PairTest, ...]:
    """Every pair of contenders on every dataset that both ran on, on the samples that all its runs share."""
    found: list[tuple[int, tuple[int, ...], Pairing]] = []
    for column in range(len(grid.columns)):
        present = [(row, run) for row, runs in enumerate(grid.runs) if (run := runs[column]) is not None]
        rows = tuple(row for row, _ in present)
        found += [(column, rows, pairing) for pairing in _pairings([run for _, run in present])]
    corrected = holm([pairing.p for _, _, pairing in found])
    return tuple(
        PairTest(
            rows[pairing.first], rows[pairing.second], column, pairing.paired.n,
            pairing.difference.value, pairing.difference.low, pairing.difference.high, p, pairing.kappa,
        )
        for (column, rows, pairing), p in zip(found, corrected, strict=True)
    )  # fmt: skip


def _pairings(runs: Sequence[ReportedRun]) -> tuple[Pairing, ...]:
    if len(runs) < 2:
        return ()
    whole = [Run(Path(run.record.run), run.record, run.predictions, run.metrics) for run in runs]
    try:
        return compare(whole).pairings
    except InputError:
        # no labels, or no sample in common: the cells still stand side by side
        return ()


def mark_cells(grid: Grid, tests: Iterable[PairTest]) -> dict[tuple[int, int], CellMark]:
    """The marks of all cells that have an accuracy, by contender and column."""
    told = {
        (one, other, test.column): test.p < SIGNIFICANCE
        for test in tests
        for one, other in ((test.first, test.second), (test.second, test.first))
    }
    marks: dict[tuple[int, int], CellMark] = {}
    for column in range(len(grid.columns)):
        cells = {row: runs[column] for row, runs in enumerate(grid.runs)}
        found = {row: run.metrics.accuracy for row, run in cells.items() if run and run.metrics.accuracy is not None}
        if len(found) < 2:
            continue
        top = max(found, key=lambda row: found[row])
        is_told = {row: told.get((top, row, column), False) for row in found if row != top}
        for row in found:
            marks[row, column] = CellMark(row == top and all(is_told.values()), row == top or not is_told[row])
    return marks


def cost_points(grid: Grid) -> tuple[CostPoint, ...]:
    """Every cell whose cost is known; the frontier holds those than which no cheaper one is as accurate."""
    found = []
    for column in range(len(grid.columns)):
        points = [
            CostPoint(row, column, 1000 * cost / run.metrics.n, accuracy, False)
            for row, runs in enumerate(grid.runs)
            if (run := runs[column]) is not None
            and (cost := run.record.answers_cost_usd) is not None
            and (accuracy := run.metrics.accuracy) is not None
        ]
        best = -1.0
        for point in sorted(points, key=lambda point: (point.cost_usd, -point.accuracy)):
            found.append(replace(point, is_frontier=point.accuracy > best))
            best = max(best, point.accuracy)
    return tuple(found)


def find_disagreements(grid: Grid, thumbnails: Mapping[str, bytes | Path], folder: str) -> Disagreements:
    """The samples on which contenders predict differently, the most split ones first where they are too many."""
    rows: list[tuple[int, tuple[int, ...], tuple[Prediction, ...]]] = []
    for column in range(len(grid.columns)):
        present = [(row, run) for row, runs in enumerate(grid.runs) if (run := runs[column]) is not None]
        if len(present) > 1:
            contenders = tuple(row for row, _ in present)
            shared = align([run for _, run in present])
            rows += [(column, contenders, group) for group in shared if len({one.predicted for one in group}) > 1]
    kept = rows
    if len(rows) > _MOST_DISAGREEMENTS:
        kept = sorted(rows, key=lambda row: -len({one.predicted for one in row[2]}))[:_MOST_DISAGREEMENTS]
    images, numbers = place_images([group[0] for _, _, group in kept], thumbnails, folder)
    table = TextTable()
    samples = tuple(
        Disagreement(
            cut(group[0].sample, LONGEST_NAME),
            column,
            group[0].label,
            numbers.get(group[0].image_sha256 or "", -1),
            contenders,
            tuple(prediction.predicted for prediction in group),
            tuple(table.number(prediction.answer or prediction.reason) for prediction in group),
        )
        for column, contenders, group in kept
    )
    return Disagreements(samples, len(rows), table.texts(), images)


def all_thumbnails(runs: Iterable[ReportedRun]) -> dict[str, bytes | Path]:
    """The thumbnails of all runs by the sha256 of their image."""
    found: dict[str, bytes | Path] = {}
    for run in runs:
        found.update(run.thumbnails or {})
    return found


def column_title(column: Column) -> str:
    """A dataset and its split, as results name them."""
    return column.dataset if column.split == "all" else f"{column.dataset} ({column.split})"
