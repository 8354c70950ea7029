"""Tables as files: rows of named cells as CSV, Parquet or JSON Lines, written one by one as they come.

    write_table(rows, {"path": str, "score": float, "candidates": list}, Path("labels.csv"))

Equal rows give equal bytes. No text in a CSV is a formula to a spreadsheet.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO, TypeAlias

import msgspec

from tlac.errors import ConfigError, UnknownNameError, UsageError
from tlac.runtime.safe_files import hold, is_special, naming_failure

Row: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = Mapping[str, type]
"""What each column holds: `str`, `float`, `bool`, or `list` for (class name, score) pairs; each cell may be None."""

PART = ".part"
_BLOCK = 1024
# how a cell begins that a spreadsheet takes for a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ESCAPE = "'"


def write_table(rows: Iterable[Row], columns: Columns, path: Path, kind: str | None = None) -> None:
    """Write rows as they come, as "csv", "parquet" or "jsonl" (by default as the file's name ends).

    Rows go into PATH.part, which takes the place of PATH at the end. Where that does not come, since `rows` raises
    or the process is killed, PATH stays as it was and the part file holds what there is. Raises UnknownNameError for
    another kind, UsageError while another process writes it, TlacError where it can't be written, ConfigError without
    the package that Parquet needs.
    """
    write = _WRITERS[find_kind(path, kind)]
    with writing_part(path) as file:
        write(file, rows, columns)


def find_kind(path: Path, kind: str | None = None) -> str:
    """The kind of a file, by default as its name ends. Raises UnknownNameError."""
    name = kind or path.suffix.lower().removeprefix(".")
    if name not in _WRITERS:
        raise UnknownNameError("file format", name or str(path), KINDS, "as the file's name ends")
    return name


@contextmanager
def writing_part(path: Path) -> Iterator[IO[bytes]]:
    """Open PATH.part, which takes the place of PATH at the end, and is left where the end does not come; a pipe or
    device itself.

    Raises UsageError for a folder and while another process has it open, TlacError where it can't be written.
    """
    with naming_failure(path, "; choose another -o"):
        # said now, and not when all rows are there
        if path.is_dir():
            raise UsageError(f"{path}: is a folder: name a file in it with -o")
        if is_special(path):
            with path.open("wb") as file:
                yield file
            return
        part = path.with_name(path.name + PART)
        # not emptied before it is ours alone
        # nor through a link, which somebody else may have put there
        if part.is_symlink():
            raise UsageError(f"{part}: is a link, and nothing is written through it: remove it, or choose another -o")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(part, flags, 0o666), "r+b") as file:
            if not hold(file.fileno()) and os.name != "nt":
                raise UsageError(f"{part}: another process is writing it: wait for it, or choose another -o")
            file.truncate()
            yield file
        part.replace(path)


def write_csv(text: TextIO, rows: Iterable[Row], columns: Iterable[str]) -> None:
    """Write a line of headings, and one for each row: nothing for None, JSON for a list."""
    # line ends of RFC 4180: with others, Python before 3.13 leaves a carriage return in a cell unquoted
    writer = csv.writer(text)
    names = list(columns)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in names])
        # whoever is killed leaves the rows that were there
        text.flush()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    # what already begins with the escape gets one more, so that it can be undone
    is_risky = isinstance(value, str) and value.startswith((*_FORMULA, _ESCAPE))
    return f"{_ESCAPE}{value}" if is_risky else value


def undo_defusing(text: str) -> str:
    """The text of a cell of a CSV file, without the sign that keeps a spreadsheet from taking it for a formula."""
    return text[1:] if text.startswith(tuple(_ESCAPE + sign for sign in (*_FORMULA, _ESCAPE))) else text


def _write_csv(file: IO[bytes], rows: Iterable[Row], columns: Columns) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        write_csv(text, rows, columns)
    finally:
        text.detach()


def _write_jsonl(file: IO[bytes], rows: Iterable[Row], columns: Columns) -> None:
    encoder = msgspec.json.Encoder()
    for row in rows:
        file.write(encoder.encode({name: row[name] for name in columns}) + b"\n")
        file.flush()


def _write_parquet(file: IO[bytes], rows: Iterable[Row], columns: Columns) -> None:
    pyarrow = open_pyarrow("parquet", "'tlac[hf]', or choose .csv")
    pair = pyarrow.struct([("class", pyarrow.string()), ("score", pyarrow.float64())])
    types = {str: pyarrow.string(), float: pyarrow.float64(), bool: pyarrow.bool_(), list: pyarrow.list_(pair)}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    pairs = [name for name, kind in columns.items() if kind is list]
    block: list[Row] = []
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def write_block() -> None:
            writer.write_batch(pyarrow.RecordBatch.from_pylist(block, schema))
            block.clear()

        try:
            for row in rows:
                named = {name: [{"class": one, "score": score} for one, score in row[name]] for name in pairs}
                block.append({**row, **named})
                if len(block) == _BLOCK:
                    write_block()
        finally:
            write_block()


def open_pyarrow(what: str, remedy: str) -> Any:
    """The package that reads and writes Parquet. Raises ConfigError saying what needs it where it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"{what} needs the package pyarrow: pip install {remedy}") from error
    return pyarrow


_WRITERS: dict[str, Callable[[IO[bytes], Iterable[Row], Columns], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
}
KINDS = tuple(_WRITERS)
