"""Several runs side by side: who competes, on which datasets, and which predictions are about the same image.

Does not know statistics or pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tlac.report.run_page import ReportedRun
from tlac.runs import RunRecord
from tlac.types import BoolArray, Prediction

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


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """Two contenders' predictions about the same labelled images, in one order."""

    first: tuple[Prediction, ...]
    second: tuple[Prediction, ...]


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


def align(first: Sequence[Prediction], second: Sequence[Prediction]) -> AlignedPair:
    """The samples that both runs have, labelled alike, about the same image."""
    others = dict(_numbered(second))
    pairs = [
        (prediction, others[key])
        for key, prediction in _numbered(first)
        if key in others and prediction.label is not None and _is_same(prediction, others[key])
    ]
    return AlignedPair(tuple(one for one, _ in pairs), tuple(other for _, other in pairs))


def align_all(runs: Sequence[ReportedRun]) -> Iterator[tuple[Prediction, ...]]:
    """The predictions of all runs about each sample that they share, in the first run's order."""
    others = [dict(_numbered(run.predictions)) for run in runs[1:]]
    for key, prediction in _numbered(runs[0].predictions):
        found = [other[key] for other in others if key in other and _is_same(prediction, other[key])]
        if len(found) == len(others):
            yield (prediction, *found)


def is_right(predictions: Sequence[Prediction]) -> BoolArray:
    """(n,) bool, true where the class is the label."""
    return np.array([prediction.predicted == prediction.label for prediction in predictions], np.bool_)


def _numbered(predictions: Sequence[Prediction]) -> Iterator[tuple[tuple[str, int], Prediction]]:
    """Predictions by sample; a dataset may hold one sample name several times."""
    seen: Counter[str] = Counter()
    for prediction in predictions:
        yield (prediction.sample, seen[prediction.sample]), prediction
        seen[prediction.sample] += 1


def _is_same(one: Prediction, other: Prediction) -> bool:
    # an image that could not be read has no digest
    is_other_image = one.image_sha256 and other.image_sha256 and one.image_sha256 != other.image_sha256
    return one.label == other.label and not is_other_image


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
