"""labels.csv and its like: one row for each image that was labelled, in the order in which images were given.

    write_labels(labels, Path("labels.csv"))
    for label in read_labels(Path("labels.csv")): ...

It holds nothing that differs between two runs of equal answers, so equal answers give equal bytes.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

from tlac.datasets.text_files import parse_csv, read_text
from tlac.errors import ConfigError, InputError, TlacError, UnknownNameError, UsageError
from tlac.results.predictions import decode_lines
from tlac.runtime.safe_files import hold, open_regular
from tlac.types import Outcome

COLUMNS = ("path", "label", "confidence", "runner_up", "margin", "answer", "outcome", "reason", "cost_usd", "sha256")
"""The columns of a labels.csv; the other formats have `candidates` as well."""

PART = ".part"
ValueT = TypeVar("ValueT")
_BLOCK = 1024
# how a cell begins that a spreadsheet takes for a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ESCAPE = "'"
_TEXTS = ("path", "label", "runner_up", "answer", "reason")


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
    """Write labels as they come, as "csv", "parquet" or "jsonl" (by default as the file's name ends).

    Rows go into PATH.part, which takes the place of PATH at the end. Where that does not come, since `labels` raises
    or the process is killed, PATH stays as it was and the part file holds what there is. Raises UsageError while
    another process writes it, TlacError where it can't be written, ConfigError without the package that parquet needs.
    """
    write = _find(_WRITERS, path, kind)
    with writing_part(path) as file:
        write(file, labels)


def read_labels(path: Path, kind: str | None = None) -> Iterator[Label]:
    """The rows of a file of labels; further columns are passed over. Raises InputError naming file and line."""
    return _find(_READERS, path, kind)(path)


@contextmanager
def writing_part(path: Path) -> Iterator[IO[bytes]]:
    """Open PATH.part, which takes the place of PATH at the end, and is left where the end does not come.

    Raises UsageError while another process has it open, TlacError where it can't be written.
    """
    part = path.with_name(path.name + PART)
    try:
        # not emptied before it is ours alone
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b") as file:
            if not hold(file.fileno()) and os.name != "nt":
                raise UsageError(f"{part}: another process is writing it: wait for it, or choose another -o")
            file.truncate()
            yield file
        part.replace(path)
    except OSError as error:
        raise TlacError(f"{path}: can't be written: {error.strerror}; choose another -o") from error


def _find(known: Mapping[str, ValueT], path: Path, kind: str | None) -> ValueT:
    name = kind or path.suffix.lower().removeprefix(".")
    if name not in known:
        raise UnknownNameError("format of labels", name or str(path), known, "as the file's name ends")
    return known[name]


def _write_csv(file: IO[bytes], labels: Iterable[Label]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        # line ends of RFC 4180: with others, Python before 3.13 leaves a carriage return in a cell unquoted
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for label in labels:
            cells = {name: getattr(label, name) for name in COLUMNS}
            cells.update((name, _defuse(cells[name])) for name in _TEXTS if cells[name])
            writer.writerow(cells.values())
            # whoever is killed leaves the rows that were decided
            text.flush()
    finally:
        text.detach()


def _defuse(text: str) -> str:
    # what already begins with the escape gets one more, so that it can be undone
    return _ESCAPE + text if text.startswith((*_FORMULA, _ESCAPE)) else text


def undo_defusing(text: str) -> str:
    """The text of a cell of a CSV file, without the sign that keeps a spreadsheet from taking it for a formula."""
    return text[1:] if text.startswith(tuple(_ESCAPE + sign for sign in (*_FORMULA, _ESCAPE))) else text


def _read_csv(path: Path) -> Iterator[Label]:
    wanted = ("path", "label")
    for line, row in parse_csv(read_text(path), path, wanted, COLUMNS[2:], is_free_text=True):
        cells = {
            name: undo_defusing(row[name]) if name in _TEXTS else row[name].strip() for name in COLUMNS if row.get(name)
        }
        for name in ("confidence", "margin", "cost_usd"):
            # as spreadsheets of many countries save numbers
            if name in cells:
                cells[name] = cells[name].replace(",", ".")
        try:
            yield msgspec.convert(cells, Label, strict=False)
        except msgspec.ValidationError as error:
            raise InputError(f"{path}, line {line}: {error}") from error


def _write_jsonl(file: IO[bytes], labels: Iterable[Label]) -> None:
    encoder = msgspec.json.Encoder()
    for label in labels:
        file.write(encoder.encode(label) + b"\n")
        file.flush()


def _read_jsonl(path: Path) -> Iterator[Label]:
    return decode_lines(path, Label)


def _write_parquet(file: IO[bytes], labels: Iterable[Label]) -> None:
    pyarrow = _pyarrow()
    types = dict.fromkeys(("confidence", "margin", "cost_usd"), pyarrow.float64())
    candidate = pyarrow.struct([("class", pyarrow.string()), ("score", pyarrow.float64())])
    types["candidates"] = pyarrow.list_(candidate)
    schema = pyarrow.schema([(one.name, types.get(one.name, pyarrow.string())) for one in fields(Label)])
    block: list[dict[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def write_block() -> None:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(block, schema))
            block.clear()

        try:
            for label in labels:
                block.append(_as_row(label))
                if len(block) == _BLOCK:
                    write_block()
        finally:
            write_block()


def _as_row(label: Label) -> dict[str, Any]:
    candidates = [{"class": name, "score": score} for name, score in label.candidates]
    return {**asdict(label), "outcome": str(label.outcome), "candidates": candidates}


def _read_parquet(path: Path) -> Iterator[Label]:
    pyarrow = _pyarrow()
    try:
        with open_regular(path) as file:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(_BLOCK):
                for row in batch.to_pylist():
                    candidates = [tuple(one.values()) for one in row.pop("candidates", None) or ()]
                    known = {name: value for name, value in row.items() if value is not None}
                    yield msgspec.convert({**known, "candidates": candidates}, Label)
    except (pyarrow.ArrowException, msgspec.ValidationError) as error:
        raise InputError(f"{path}: not a file of labels: {error}") from error


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("parquet needs the package pyarrow: pip install 'tlac[hf]', or choose .csv") from error
    return pyarrow


_WRITERS: dict[str, Callable[[IO[bytes], Iterable[Label]], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
}
KINDS = tuple(_WRITERS)
_READERS: dict[str, Callable[[Path], Iterator[Label]]] = {
    "csv": _read_csv,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
}
