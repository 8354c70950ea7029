"""labels.csv and its like: one row for each image that was labelled, in the order in which images were given.

    write_labels(labels, Path("labels.csv"))
    for label in read_labels(Path("labels.csv")): ...

It holds nothing that differs between two runs of equal answers, so equal answers give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import msgspec

from tlac.datasets.text_files import parse_csv, read_text
from tlac.errors import InputError
from tlac.results.predictions import decode_lines
from tlac.results.table_files import find_kind, open_pyarrow, undo_defusing, write_table
from tlac.runtime.safe_files import open_regular
from tlac.types import Outcome

COLUMNS = ("path", "label", "confidence", "runner_up", "margin", "answer", "outcome", "reason", "cost_usd", "sha256")
"""The columns of a labels.csv; the other formats have `candidates` as well."""

_BLOCK = 1024
_TEXTS = ("path", "label", "runner_up", "answer", "reason")
_NUMBERS = ("confidence", "margin", "cost_usd")


@dataclass(frozen=True, slots=True)
class Label:
    """What one image was taken for; None where it is not known.

    `path` is the image as it was given, `label` a class name, `confidence` in [0, 1], `runner_up` the next best class,
    `margin` the lead over it in cosine. `answer` are the LMM's words. `cost_usd` is what those answers cost that no row
    before has needed: the column's sum is what all answers cost. `candidates` are (class name, score), best first.
    """

    path: str
    label: str | None = None
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    runner_up: str | None = None
    margin: float | None = None
    answer: str | None = None
    outcome: Outcome = Outcome.ANSWERED
    reason: str = ""
    cost_usd: Annotated[float, msgspec.Meta(ge=0)] | None = None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None
    candidates: tuple[tuple[str, float], ...] = ()


def write_labels(labels: Iterable[Label], path: Path, kind: str | None = None) -> None:
    """Write labels as they come, as `write_table` does: what is not finished lies in PATH.part."""
    kind = find_kind(path, kind)
    names = COLUMNS if kind == "csv" else [one.name for one in fields(Label)]
    types = {"candidates": list, **dict.fromkeys(_NUMBERS, float)}
    write_table(map(_as_row, labels), {name: types.get(name, str) for name in names}, path, kind)


def _as_row(label: Label) -> dict[str, object]:
    return {one.name: getattr(label, one.name) for one in fields(Label)} | {"outcome": str(label.outcome)}


def read_labels(path: Path, kind: str | None = None) -> Iterator[Label]:
    """The rows of a file of labels; further columns are passed over. Raises InputError naming file and line."""
    return _READERS[find_kind(path, kind)](path)


def _read_csv(path: Path) -> Iterator[Label]:
    wanted = ("path", "label")
    for line, row in parse_csv(read_text(path), path, wanted, COLUMNS[2:], is_free_text=True):
        if not any(cell.strip() for cell in row.values()):
            # a spreadsheet's empty rows
            continue
        cells = {
            name: undo_defusing(row[name]) if name in _TEXTS else row[name].strip() for name in COLUMNS if row.get(name)
        }
        for name in _NUMBERS:
            # as spreadsheets of many countries save numbers
            if name in cells:
                cells[name] = cells[name].replace(",", ".")
        try:
            yield msgspec.convert(cells, Label, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(f"{path}, line {line}: {error}") from error


def _read_jsonl(path: Path) -> Iterator[Label]:
    return decode_lines(path, Label)


def _read_parquet(path: Path) -> Iterator[Label]:
    pyarrow = open_pyarrow()
    try:
        with open_regular(path) as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(_BLOCK):
                for row in batch.to_pylist():
                    candidates = [tuple(one.values()) for one in row.pop("candidates", None) or ()]
                    known = {name: value for name, value in row.items() if value is not None}
                    yield msgspec.convert({**known, "candidates": candidates}, Label)
    except (pyarrow.ArrowException, msgspec.ValidationError) as error:
        raise InputError(f"{path}: not a file of labels: {error}") from error


_READERS: dict[str, Callable[[Path], Iterator[Label]]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
}
