"""Lists that people write by hand or with a spreadsheet, read strictly: lines of names, and CSV files.

A line that could be read in two ways is an error with its number, since a silently shifted name or a swallowed row
would make every figure after it wrong.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from tlac.config.files import read_document
from tlac.errors import InputError
from tlac.runtime.formatting import INVISIBLE
from tlac.runtime.safe_files import read_file

_MAX_BYTES = 2**28
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_WORDNET_ID = re.compile(r"n\d+\s+(?=\S)")


def clean_name(name: str) -> str:
    """A class name in Unicode's composed form (NFC), without space around it and signs that nobody sees: one name is
    one string."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", name)).strip()


def read_text(path: Path) -> str:
    """A text file without its byte order mark: UTF-8, or UTF-16 where such a mark says so. Raises InputError."""
    content = read_file(path, _MAX_BYTES)
    try:
        # as Excel saves "Unicode text"
        return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: can't be read as UTF-8 text: {error}: save it as UTF-8 (CSV UTF-8)") from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list in a text file, stripped, with their numbers. Raises InputError for a blank line in it."""
    return number_lines(read_text(path), path)


def number_lines(text: str, source: Path | str) -> list[tuple[int, str]]:
    """The lines of a list, stripped, with their numbers.

    Raises InputError for a blank line between others: what stands after it might belong to another number.
    """
    # not str.splitlines, which cuts at form feeds, U+0085 and U+2028 too
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise InputError(f"{source}, line {lines.index('') + 1}: is blank: remove it, or write what belongs there")
    return list(enumerate(lines, start=1))


def read_names(text: str, source: Path | str) -> tuple[str, ...]:
    """Class names, one a line in label order; where every line begins with a WordNet id, the ids are left out.

    Raises InputError for a blank line between names.
    """
    names = [clean_name(line) for _, line in number_lines(text, source)]
    if names and all(_WORDNET_ID.match(name) for name in names):
        names = [_WORDNET_ID.sub("", name, count=1) for name in names]
    return tuple(names)


class _ClassEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedClasses:
    """Class names, and by name what some of them mean and what else they are called. `source` is their file, if any."""

    names: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = field(default="classes", compare=False)


def read_classes(text: str) -> NamedClasses:
    """Classes from "a, b, c", or from a file of that name.

    A text file has one name a line, a CSV file a column `name`. YAML and JSON hold a list of names, a key for each name
    (with nothing, a description, or `{description: ..., aliases: [...]}`), or below `names` or `id2label` a list or a
    name for each number from 0. Raises InputError for a file that can't be read, is of another form, has a blank line
    between names, or is a link that leads outside of its folder, ConfigError for broken YAML.
    """
    path = Path(text)
    _refuse_link_outside(path)
    kind = path.suffix.lower()
    if kind in (".yaml", ".yml", ".json"):
        return replace(_read_document(path), source=text)
    if kind in (".csv", ".tsv"):
        rows = parse_csv(read_text(path), path, ("name",))
        return NamedClasses(tuple(clean_name(row["name"]) for _, row in rows), source=text)
    is_file = "," not in text and (kind == ".txt" or os.path.isfile(text))  # noqa: PTH113 - is_file raises for a long name
    listed = read_text(path) if is_file else text
    if listed.lstrip()[:1] in ("[", "{"):
        raise InputError(f"{path if is_file else 'classes'}: begins as JSON does: put it into a file named .json")
    if is_file:
        return NamedClasses(read_names(listed, path), source=text)
    return NamedClasses(tuple(clean_name(name) for name in text.split(",") if name.strip()))


def _read_document(path: Path) -> NamedClasses:
    given = _numbered_names(read_document(path), path)
    expected = "expected a list of names, or `name: {description: ..., aliases: [...]}`"
    try:
        if isinstance(given, list):
            return NamedClasses(tuple(clean_name(name) for name in msgspec.convert(given, list[str])))
        found = msgspec.convert(given, dict[str, _ClassEntry | str | None])
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {expected}: {error}") from error
    if any(name.isdecimal() and isinstance(entry, str) for name, entry in found.items()):
        raise InputError(
            f"{path}: keys are numbers: put them below `names:` where they number the classes, or write "
            "`{description: ...}` where they are what the classes are called"
        )
    entries = {
        clean_name(name): _ClassEntry(entry or "") if isinstance(entry, (str, type(None))) else entry
        for name, entry in found.items()
    }
    return NamedClasses(
        tuple(entries),
        {name: " ".join(entry.description.split()) for name, entry in entries.items() if entry.description},
        {name: entry.aliases for name, entry in entries.items() if entry.aliases},
    )


def _numbered_names(given: Any, path: Path) -> Any:
    """The list below `names` or `id2label`, or of what is numbered there, in order; all as it is where there is none.

    Raises InputError for numbers with a gap.
    """
    for key in ("names", "id2label"):
        below = given.get(key) if isinstance(given, dict) else None
        if isinstance(below, list):
            return below
        if isinstance(below, dict) and below and all(str(number).isdecimal() for number in below):
            by_number = {int(number): name for number, name in below.items()}
            if sorted(by_number) != list(range(len(below))):
                raise InputError(f"{path}: {key}: the classes are numbered from 0, without a gap: correct the numbers")
            return [by_number[number] for number in range(len(below))]
    return given


def _refuse_link_outside(path: Path) -> None:
    # the folder may be somebody else's, and the list's lines are shown to the LMM
    with suppress(OSError, RuntimeError):
        if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(
                f"{path}: a link that leads outside of its folder: refused, since class names are sent to the LMM; "
                f"give {path.resolve()} itself"
            )


def parse_csv(
    text: str, source: Path | str, wanted: Collection[str], optional: Collection[str] = (), is_free_text: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, each with the number of its line; blank lines are left out.

    Cells are separated by commas, semicolons or tabs, as the header is. The columns of `wanted` and `optional` are
    found in any case; the former have to be there. Raises InputError naming the line for a row of more or fewer
    cells than the header, a column that stands twice, an unclosed quote, and for a wanted cell of several lines: one
    forgotten quote swallows the rows up to the next. Where they hold `is_free_text`, such cells may be, and blank rows
    are kept.
    """
    text = text.removeprefix("\ufeff")
    header_line = text.strip().partition("\n")[0]
    rows: list[tuple[int, list[str]]] = []
    separator = next((one for one in _SEPARATORS if _finds(header_line, one, wanted)), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    # an LMM's answer may be longer than the cells that csv takes by itself
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        for cells in reader:
            if is_free_text and rows and len(rows[0][1]) == 1:
                # a blank line of a single column is an empty cell
                rows.append((line, cells or [""]))
            elif cells and (is_free_text or any(cell.strip() for cell in cells)):
                rows.append((line, cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{source}, line {line}: not valid CSV ({error}): check its quotes") from error
    finally:
        csv.field_size_limit(limit)
    header = _header(rows[0][1] if rows else [], source, wanted, optional)
    found = []
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise InputError(
                f"{source}, line {line}: {len(cells)} cells where the first line has {len(header)}: put a cell that "
                f"holds a {_SEPARATORS[separator]} into double quotes"
            )
        row = dict(zip(header, cells, strict=True))
        for column in () if is_free_text else wanted:
            if "\n" in row[column].strip() or "\r" in row[column].strip():
                raise InputError(f"{source}, line {line}: {column} goes over several lines: close its quote")
        found.append((line, row))
    return found


def _finds(line: str, separator: str, wanted: Collection[str]) -> bool:
    names = {cell.strip().strip('"').strip().lower() for cell in line.split(separator)}
    return set(wanted) <= names


def _header(cells: list[str], source: Path | str, wanted: Collection[str], optional: Collection[str]) -> list[str]:
    """The names of the columns; those that are known as we spell them."""
    names = [cell.strip() for cell in cells]
    names = [name.lower() if name.lower() in (*wanted, *optional) else name for name in names]
    missing = [column for column in wanted if column not in names]
    if missing:
        raise InputError(
            f"{source}: no column{'s' if len(missing) > 1 else ''} {' and '.join(missing)}: its first line must name "
            f"the columns {','.join(wanted)}, and is {','.join(names)[:80]!r}"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{source}, line 1: the column {twice[0]!r} stands twice: rename one")
    return names
