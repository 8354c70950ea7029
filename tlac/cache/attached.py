"""Attached packs: answers that a store reads where they were written down, in place of a copy of each in its database.

STORE/attached/NAME holds files of JSON lines, as the workers of a cluster write them, and an index. A line is an answer
that names its key and its backend, or a long text that answers share, above the first of them; any other counts as a
note for whoever wrote the file. The index is made of the files alone: one that is gone, or that does not fit them, is
made anew.
"""

from __future__ import annotations

import os
import shutil
import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from tlac.cache.serialization import (
    MAX_TEXT_BYTES,
    TEXT_KEY_PREFIX,
    Count,
    Sha256,
    StoredAnswer,
    parse_answer,
    text_key,
    unfold,
)
from tlac.cache.sqlite import Row
from tlac.errors import InputError, StoreError, UsageError
from tlac.runtime.safe_files import UNFINISHED, numbered_lines, open_regular, parse_json, replacing

ATTACHED = "attached"
LINES_SUFFIX = ".jsonl"
ATTACHED_ROW = -1
"""Stands in a row in place of a rowid; the text of such a row names its key."""
_INDEX = "index"
_VERSION = 1
_ALIGNED = 64
_MAX_HEADER_BYTES = 2**28
# files of a terabyte at most, and 16 million of them
_OFFSET_BITS = 40

_Numbers: TypeAlias = NDArray[np.uint64]
_Files: TypeAlias = list[tuple[str, int, int]]
"""Name, size in bytes, and time of the last change (ns) of each file, by name."""


class _Line(msgspec.Struct, frozen=True):
    key: Sha256 | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class AttachedPack:
    """One attached pack of n answers and m shared texts.

    `numbers` and `places` are (n + m,), those of the answers first. A number is made of the first 8 bytes of a key,
    in ascending order; a place says where the line begins: file << 40 | offset. `warning` says that it holds fewer
    answers than when it was attached.
    """

    folder: Path
    files: _Files
    answers: int
    numbers: _Numbers
    places: _Numbers
    warning: str = ""

    def locate(self, key: str) -> tuple[int, Row] | None:
        """Where a key stands in the index, and its row; None where it does not, or the pack is gone.

        Raises StoreError.
        """
        is_text = key.startswith(TEXT_KEY_PREFIX)
        try:
            number = np.uint64(int(key.removeprefix(TEXT_KEY_PREFIX)[:16], 16))
        except ValueError:
            return None
        first, end = (self.answers, len(self.numbers)) if is_text else (0, self.answers)
        place = first + int(np.searchsorted(self.numbers[first:end], number))
        # that two keys agree in 64 bits does not come about by chance, but costs nothing here
        while place < end and self.numbers[place] == number:
            row = self._read(place)
            if row is None:
                return None
            if row[0] == key:
                return place, row
            place += 1
        return None

    def scan(self) -> Iterator[Row]:
        """Yield the rows of all answers by key. Raises StoreError."""
        for _, places in groupby(range(self.answers), key=lambda place: self.numbers[place]):
            rows = [self._read(place) for place in places]
            if None in rows:
                raise StoreError(f"{self.folder}: was merged or deleted while it was read: run the command again")
            yield from sorted(row for row in rows if row is not None)

    def _read(self, place: int) -> Row | None:
        file_number, offset = divmod(int(self.places[place]), 1 << _OFFSET_BITS)
        path = self.folder
        try:
            path = self.folder / self.files[file_number][0]
            with open_regular(path) as file:
                file.seek(offset)
                line = file.readline(MAX_TEXT_BYTES + 1)
            key = _key_of(line) or ""
            if int(key.removeprefix(TEXT_KEY_PREFIX)[:16] or "0", 16) != self.numbers[place]:
                raise InputError("another line than the index names")
        except (InputError, IndexError, OSError) as error:
            if not self.folder.exists():
                return None
            raise StoreError(
                f"{path}: changed while it was read, or does not fit its index: {error}; see `tlac cache verify`"
            ) from error
        return key, line, ATTACHED_ROW


def _key_of(line: bytes) -> str | None:
    """The key of an answer or a text, None for a note. Raises InputError."""
    found: _Line = parse_json(line, _Line)
    return text_key(found.text) if found.text is not None else found.key


def read_lines(path: Path) -> Iterator[tuple[int, StoredAnswer | bytes]]:
    """Yield the answers of a file, checked and with their long texts, and the notes, each with its line's number.

    A cut last line is left out: whoever wrote it was killed. A file that is gone holds nothing. Raises InputError
    naming file and line.
    """
    texts: dict[str, str] = {}

    def text_of(key: str) -> str:
        if key not in texts:
            raise InputError("a text that stands nowhere above")
        return texts[key]

    # another process may have merged it since it was listed
    with suppress(FileNotFoundError), path.open("rb") as file:
        for number, content in numbered_lines(file, path, MAX_TEXT_BYTES):
            if not content.endswith(b"\n"):
                return
            try:
                line: _Line = parse_json(content, _Line)
                if line.text is not None:
                    texts[text_key(line.text)] = line.text
                    continue
                answer = parse_answer(content) if line.key is not None else None
                kept = answer and replace(answer, request=unfold(answer.request, text_of)).checked()
            except UsageError as error:
                raise line_complaint(path, number, error) from error
            yield number, kept or content


def line_complaint(path: Path, number: int, error: UsageError) -> InputError:
    """The error of a line that nobody would have written."""
    return InputError(f"{path}: line {number}: {error}; move the file away to go on without it")


def open_pack(folder: Path, is_kept: bool = True) -> AttachedPack:
    """Open the pack in a folder. Where it has no index that fits its files, one is made, and written down if `is_kept`.

    Raises StoreError for a link, InputError naming file and line for a line that can't be read.
    """
    files, path, known = _list_files(folder), folder / _INDEX, 0
    with suppress(InputError, ValueError, OSError):
        told, known, texts = _read_header(path)
        if told == files:
            return _map_index(path, files, known, texts)
    numbers, places, count = _find_places(folder, files)
    lost = f"{folder}: was changed since it was attached: it holds {count:,} answers of {known:,}"
    made = AttachedPack(folder, files, count, numbers, places, lost if count < known else "")
    # not on a full or read-only disk, nor with a file whose name is no text
    with suppress(OSError, ValueError):
        if is_kept:
            _write_index(path, made)
            # mapped, in place of what fills the memory
            return replace(open_pack(folder, is_kept=False), warning=made.warning)
    return made


def _list_files(folder: Path) -> _Files:
    files: _Files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith(LINES_SUFFIX):
                    continue
                if not entry.is_file(follow_symlinks=False):
                    raise StoreError(f"{entry.path}: is no regular file; move it away")
                found = entry.stat(follow_symlinks=False)
                if found.st_size >> _OFFSET_BITS:
                    raise StoreError(f"{entry.path}: is too large; move it away")
                files.append((entry.name, found.st_size, found.st_mtime_ns))
    except OSError as error:
        raise StoreError(f"{folder}: can't be read: {error.strerror or error}") from error
    return sorted(files)


def _find_places(folder: Path, files: _Files) -> tuple[_Numbers, _Numbers, int]:
    """Go through the files: numbers and places, as a pack has them, and how many are those of answers."""
    # first and second half of the first 16 bytes of the key, and the place
    answers, texts = ([array("Q"), array("Q"), array("Q")] for _ in range(2))
    for file_number, (name, _, _) in enumerate(files):
        path, place = folder / name, file_number << _OFFSET_BITS
        with open_regular(path) as file:
            for line_number, line in numbered_lines(file, path, MAX_TEXT_BYTES):
                if not line.endswith(b"\n"):
                    break
                try:
                    key = _key_of(line)
                except InputError as error:
                    raise line_complaint(path, line_number, error) from error
                if key is not None:
                    columns = texts if key.startswith(TEXT_KEY_PREFIX) else answers
                    digest = key.removeprefix(TEXT_KEY_PREFIX)
                    columns[0].append(int(digest[:16], 16))
                    columns[1].append(int(digest[16:32], 16))
                    columns[2].append(place)
                place += len(line)
    (numbers, places), (text_numbers, text_places) = _in_order(answers), _in_order(texts)
    return np.concatenate([numbers, text_numbers]), np.concatenate([places, text_places]), len(numbers)


def _in_order(columns: list[array[int]]) -> tuple[_Numbers, _Numbers]:
    numbers, rest, places = (np.asarray(column) for column in columns)
    columns.clear()
    # stable: of equal keys the first in the files stays the first
    order = np.lexsort((rest, numbers))
    # one after the other: each frees what it came from
    numbers = numbers[order]
    places = places[order]
    same = np.flatnonzero(numbers[1:] == numbers[:-1])
    again = same[rest[order[same]] == rest[order[same + 1]]] + 1
    return (np.delete(numbers, again), np.delete(places, again)) if len(again) else (numbers, places)


def _write_index(path: Path, pack: AttachedPack) -> None:
    header = msgspec.json.encode((_VERSION, pack.files, pack.answers, len(pack.numbers) - pack.answers))
    with replacing(path, is_synced=True, is_private=True) as file:
        # numbers that are not aligned would be copied for each look-up
        file.write(header.ljust(-(-(len(header) + 1) // _ALIGNED) * _ALIGNED - 1) + b"\n")
        for column in (pack.numbers, pack.places):
            column.astype("<u8", copy=False).tofile(file)


def _read_header(path: Path) -> tuple[_Files, int, int]:
    with open_regular(path, within=path.parent) as file:
        version, files, answers, texts = parse_json(file.readline(_MAX_HEADER_BYTES), tuple[int, _Files, Count, Count])
    if version != _VERSION:
        raise InputError("an index of another version")
    return files, answers, texts


def _map_index(path: Path, files: _Files, answers: int, texts: int) -> AttachedPack:
    """Map the index. Raises InputError where it is not as long as its header says."""
    count = answers + texts
    with open_regular(path, within=path.parent) as file:
        start = len(file.readline(_MAX_HEADER_BYTES))
        if os.fstat(file.fileno()).st_size != start + 16 * count:
            raise InputError("an index that is cut short")
        columns = np.memmap(file, "<u8", "r", start, (2, count)) if count else np.empty((2, 0), np.uint64)
    return AttachedPack(path.parent, files, answers, np.asarray(columns[0]), np.asarray(columns[1]))


def list_packs(folder: Path) -> set[str]:
    """The names of the packs in a folder. Raises StoreError for a link, and for what is no folder."""
    names: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    names.add(entry.name)
                    if folder.is_symlink() or not entry.is_dir(follow_symlinks=False):
                        raise StoreError(f"{entry.path}: is no folder of an attached pack, or a link; move it away")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"{folder}: can't be read: {error.strerror or error}") from error
    return names


class AttachedPacks:
    """The attached packs of a store; any thread may use them.

    `changes` counts how often some came or went.
    """

    def __init__(self, store: Path) -> None:
        """Open them. Raises StoreError, InputError as open_pack does."""
        self._folder = store / ATTACHED
        self._lock = threading.Lock()
        self._packs: dict[str, AttachedPack] = {}
        self.changes = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self._packs)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of them."""
        return tuple(pack.warning for pack in self._packs.values() if pack.warning)

    def refresh(self) -> int:
        """Look for packs that another process has attached or merged; returns `changes`."""
        if list_packs(self._folder) != self._packs.keys():
            with self._lock:
                packs: dict[str, AttachedPack] = {}
                for name in sorted(list_packs(self._folder)):
                    pack = self._packs.get(name) or self._open(name)
                    if pack is not None:
                        packs[name] = pack
                self._packs, self.changes = packs, self.changes + 1
        return self.changes

    def _open(self, name: str) -> AttachedPack | None:
        try:
            return open_pack(self._folder / name)
        except (StoreError, InputError) as error:
            if (self._folder / name).exists():
                raise StoreError(str(error)) from error
            # merged by another process since it was listed
            return None

    def get(self, key: str) -> Row | None:
        """The row under a key, in the first pack that has one. Raises StoreError."""
        return next((found[1] for pack in self._packs.values() if (found := pack.locate(key)) is not None), None)

    def scans(self) -> list[tuple[str, Iterator[Row]]]:
        """The name of each pack, and the rows of its answers by key. Raises StoreError."""
        self.refresh()
        return [(name, pack.scan()) for name, pack in self._packs.items()]

    def attach(self, files: Path, name: str) -> None:
        """Take in a folder of files by renaming it. Raises StoreError, InputError as open_pack does."""
        open_pack(files)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            files.rename(self._folder / name)
            # whoever wrote the files forgets them after this
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreError(f"{files}: can't be attached: {error.strerror or error}") from error
        self.refresh()

    def remove(self, name: str) -> None:
        """Delete a pack. Raises StoreError."""
        # gone at once for all others, and swept where this process is killed
        apart = self._folder.parent / f"{UNFINISHED}{name}"
        try:
            (self._folder / name).rename(apart)
        except OSError as error:
            raise StoreError(f"{self._folder / name}: can't be removed: {error.strerror or error}") from error
        shutil.rmtree(apart, ignore_errors=True)
        self.refresh()
