"""What a comparison shows: the matrix of accuracies, paired tests, cost against accuracy, disagreements.

Pure functions of a grid of runs. Does not know HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from tlac.report.alignment import Column, Grid, align, align_all, is_right
from tlac.report.columns import PageImages, TextTable, place_images
from tlac.report.run_page import ReportedRun
from tlac.report.texts import LONGEST_NAME, cut
from tlac.statistics import holm, kappa, mcnemar, pair, paired_difference
from tlac.types import Prediction

# a difference counts as told where its corrected p-value is below this
SIGNIFICANCE = 0.05
_MOST_DISAGREEMENTS = 4_000


@dataclass(frozen=True, slots=True)
class PairTest:
    """Two contenders on one dataset, by their places in the grid: `difference` is the first's accuracy less the
    second's on the `n` samples that both have, with its 95 % interval; `p` is McNemar's exact p-value, corrected
    by Holm for all pairs of the report. `agreement` is the share of samples with equal predictions."""

    first: int
    second: int
    column: int
    n: int
    difference: float
    low: float
    high: float
    p: float
    agreement: float
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
    """Every pair of contenders on every dataset that both ran on."""
    found = []
    for column in range(len(grid.columns)):
        for first, second in combinations(range(len(grid.contenders)), 2):
            one, other = grid.runs[first][column], grid.runs[second][column]
            if one is not None and other is not None:
                found += _test(first, second, column, one.predictions, other.predictions)
    corrected = holm([test.p for test in found])
    return tuple(replace(test, p=p) for test, p in zip(found, corrected, strict=True))


def _test(
    first: int, second: int, column: int, one: Sequence[Prediction], other: Sequence[Prediction]
) -> list[PairTest]:
    aligned = align(one, other)
    if not aligned.first:
        return []
    paired = pair(is_right(aligned.first), is_right(aligned.second))
    difference = paired_difference(paired)
    # -1 stands for no answer, which is a choice that two contenders can share
    choices = [
        np.array([-1 if prediction.predicted is None else prediction.predicted for prediction in side], np.int64)
        for side in (aligned.first, aligned.second)
    ]
    agreement = float(np.mean(choices[0] == choices[1]))
    return [
        PairTest(
            first, second, column, paired.n, difference.value, difference.low, difference.high, mcnemar(paired),
            agreement, kappa(*choices),
        )
    ]  # fmt: skip


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
            shared = align_all([run for _, run in present])
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
