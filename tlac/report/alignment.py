"""Several runs side by side: who competes, on which datasets, and which predictions are about the same image.

Does not know statistics or pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tlac.report.run_page import ReportedRun
from tlac.runs.folder import RunRecord
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
