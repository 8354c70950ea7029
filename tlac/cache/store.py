"""The store: every answer and every text embedding that was ever paid for, by key."""

from __future__ import annotations

import heapq
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
import platformdirs

from tlac.cache.attached import ATTACHED_ROW, AttachedPacks
from tlac.cache.embedding_block import MIN_ROWS, EmbeddingBlock, block_keys, read_block, write_block
from tlac.cache.serialization import (
    TEXT_KEY_PREFIX,
    StoredAnswer,
    StoredEmbedding,
    answer_text,
    embedding_text,
    fold,
    parse_answer,
    parse_embedding,
    parse_embeddings,
    parse_response,
    parse_text_row,
    unfold,
)
from tlac.cache.sqlite import Row, RowReader, RowWriter, make_database
from tlac.errors import InputError, StoreError
from tlac.runtime.safe_files import naming_failure, read_json, replacing, sweep_unfinished
from tlac.types import BoolArray, Encoding, LMMResponse

ParsedT = TypeVar("ParsedT")

FORMAT = 2
# of a store with attached packs: a tlac that does not know them would pay for their answers again
ATTACHED_FORMAT = 3
FORMAT_FILE = "tlac-store.json"
RESPONSES = "responses"
EMBEDDINGS = "embeddings"


def store_folder() -> Path:
    """Return the default folder of the store: TLAC_CACHE_DIR, else the platform's cache folder."""
    override = os.environ.get("TLAC_CACHE_DIR")
    return Path(override) if override else Path(platformdirs.user_cache_dir("tlac"))


def prepare_folder(folder: Path) -> int:
    """Make the folder where there is none; returns the format of what lies there.

    Raises StoreError where it can't be made, is something else's, or a newer tlac wrote it.
    """
    # diskcache would expand variables and make another folder than the one that is looked at
    if os.path.expandvars(str(folder)) != str(folder):
        raise StoreError(f"{folder}: a store's path can't hold a variable; choose another --store (or TLAC_CACHE_DIR)")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = read_format(folder)
        if written is None:
            write_format(folder)
            return FORMAT
    except OSError as error:
        raise StoreError(
            f"{folder}: the store can't be made or read here: {error.strerror or error};"
            " choose another --store (or TLAC_CACHE_DIR)"
        ) from error
    if written > ATTACHED_FORMAT:
        raise StoreError(
            f"{folder}: the store has format {written}, and this tlac knows up to {ATTACHED_FORMAT}:"
            " upgrade tlac or choose another --store"
        )
    return written


def read_format(folder: Path) -> int | None:
    """Return the format of the store in a folder, None where there is none. Raises StoreError, OSError."""
    path = folder / FORMAT_FILE
    if not path.exists():
        if not (folder / RESPONSES).exists():
            return None
        # another process that makes the store just now writes the format before anything else
        if not path.exists():
            raise StoreError(
                f"{folder}: holds a folder {RESPONSES!r} but no {FORMAT_FILE}: not a store of tlac's;"
                " choose another --store (or TLAC_CACHE_DIR)"
            )
    try:
        content = read_json(path, dict[Literal["tlac_store"], Annotated[int, msgspec.Meta(ge=1)]], max_bytes=1000)
        return int(content["tlac_store"])
    except (InputError, KeyError) as error:
        raise StoreError(f"{path}: is not as tlac writes it: {error}; choose another --store") from error


def write_format(folder: Path, number: int = FORMAT) -> None:
    """Write down that the folder is in our format. Raises OSError."""
    with replacing(folder / FORMAT_FILE, is_private=True) as file:
        file.write(b'{"tlac_store": %d}\n' % number)


_CLAIMS = "asking.lock"
_BATCH = 1000
# embeddings that are read at once: a megabyte or so
_EMBEDDINGS = 256


@dataclass(frozen=True, slots=True)
class AnswerCount:
    """Answers of one backend, stage and outcome, and what they cost (USD), None where one had no known price."""

    backend: str
    stage: str
    outcome: str
    answers: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds. `cost_usd` was paid once, and is saved by every run that asks for all of it again; None
    where one answer had no known price. `answers` counts those of attached packs too."""

    counts: tuple[AnswerCount, ...]
    answers: int
    embeddings: int
    size_bytes: int
    cost_usd: float | None
    attached_packs: int = 0


def count_answers(answers: Iterable[StoredAnswer]) -> tuple[AnswerCount, ...]:
    """Count answers by backend, stage and outcome."""
    groups: dict[tuple[str, str, str], list[float | None]] = {}
    for answer in answers:
        group = (answer.backend, str(answer.request.get("stage")), answer.response.outcome.value)
        groups.setdefault(group, []).append(answer.response.cost_usd)
    return tuple(AnswerCount(*group, len(costs), total_cost(costs)) for group, costs in sorted(groups.items()))


def total_cost(costs: Iterable[float | None]) -> float | None:
    """The sum of costs (USD), None where one of them is not known."""
    known = list(costs)
    return None if None in known else sum(cost for cost in known if cost is not None)


class Store:
    """Answers and embeddings on disk, in two diskcache databases inside one folder, and answers in attached packs.

    Packs are only read. Where the database has an answer under the same key, that one counts.

    Any number of threads and processes may use one folder. A store on a full or read-only disk can be read. All that
    reads raises StoreError at a row that is not tlac's, all that writes where the disk is full or read-only. `warnings`
    holds what the user should know of what was found at opening; `on_warning` is told what happens later.
    """

    def __init__(self, path: Path, on_warning: Callable[[str], None] = warnings.warn) -> None:
        """Open the store in that folder, making it where there is none, with rights for its owner alone.

        Raises StoreError naming the path and the remedy.
        """
        self.path = path.expanduser().absolute()
        self._on_warning = on_warning
        self._lock = threading.Lock()
        self._is_closed = False
        self._has_written: set[str] = set()
        self._replaced: list[RowReader] = []
        self._claims: int | None = None
        written_format = prepare_folder(self.path)
        sweep_unfinished(self.path)
        self._writers = {name: RowWriter(self.path / name) for name in (RESPONSES, EMBEDDINGS)}
        self._readers: dict[str, RowReader] = {}
        self._known_texts: set[str] = set()
        self._text_of = lru_cache(maxsize=64)(self._read_text)
        try:
            for name in self._writers:
                make_database(self.path / name)
                self._readers[name] = RowReader(self.path / name)
            self._attached = AttachedPacks(self.path)
        except BaseException:
            self.close()
            raise
        self.warnings = tuple(warning for reader in self._readers.values() for warning in reader.warnings)
        self.warnings += self._attached.warnings
        if written_format < FORMAT:
            self._migrate()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the databases. What was put is already there. Raises StoreError where it was deleted since."""
        with self._lock:
            try:
                for name in () if self._is_closed else self._has_written:
                    self._put_back_deleted(name)
            finally:
                self._is_closed = True
                for reader in [*self._readers.values(), *self._replaced]:
                    reader.close()
                for writer in self._writers.values():
                    writer.close()
                if self._claims is not None:
                    os.close(self._claims)
                    self._claims = None

    def claim(self, key: str) -> bool:
        """Try to be the only process that asks for the answer under a key; False where another one does just now.

        What is claimed is given back by `release`, or when the process ends, however that comes about. It does not
        hold against other threads of this process.
        """
        return self._lock_claim(key, is_claimed=True)

    def release(self, key: str) -> None:
        """Give back what was claimed."""
        self._lock_claim(key, is_claimed=False)

    def _lock_claim(self, key: str, is_claimed: bool) -> bool:
        try:
            import fcntl

            if self._claims is None:
                # opened once: closing a file gives back all locks on it
                self._claims = os.open(self.path / _CLAIMS, os.O_CREAT | os.O_RDWR, 0o600)
            # a byte of a file without content stands for each key; 62 bits of a digest don't meet by chance
            place = int(key[:16], 16) >> 2
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB if is_claimed else fcntl.LOCK_UN, 1, place)
        except BlockingIOError:
            return False
        except (ImportError, OSError):
            # Windows, or a file system without locks: several processes may pay for the same answer there
            return True
        return True

    def require_writable(self) -> None:
        """Check that answers can be stored, before the first is paid for. Raises StoreError."""
        with self._lock:
            for name in self._writers:
                self._put_back_deleted(name)
                self._writers[name].check()

    def get_response(self, key: str) -> LMMResponse | None:
        """Return the response under a key, None where there is none."""
        row = self._find(key)
        return None if row is None else self._parsed(row, parse_response)

    def responses(self, keys: Sequence[str]) -> Iterator[tuple[str, LMMResponse]]:
        """Yield keys and responses, those that there are, in any order."""
        return ((row[0], self._parsed(row, parse_response)) for row in self._find_many(keys))

    def get_entry(self, key: str) -> StoredAnswer | None:
        """Return the whole answer under a key, or None."""
        row = self._find(key)
        return None if row is None else self._parse_entry(row)

    def put_entries(self, entries: Iterable[StoredAnswer]) -> None:
        """Store answers; they are on disk when this returns. Up to a thousand share a transaction, and a commit blocks:
        call it off the event loop.

        Raises StoreError also for a response that is not an answer, and for a request that its key is not the digest
        of; UsageError for text that is not valid Unicode.
        """
        remaining = iter(entries)
        while batch := list(islice(remaining, _BATCH)):
            self._put_batch(batch)

    def delete_entries(self, keys: Sequence[str]) -> int:
        """Delete the answers under these keys; returns how many there were.

        Raises StoreError, also where one of them stands in an attached pack; then none is deleted.
        """
        self._attached.refresh()
        attached = sum(self._attached.get(key) is not None for key in keys)
        if attached:
            raise StoreError(
                f"{self.path}: {attached:,} of these {len(keys):,} answers stand in attached packs, which are only"
                " read: run `tlac cache merge` first"
            )
        return self._writers[RESPONSES].delete(keys)

    def entries(self) -> Iterator[StoredAnswer]:
        """Yield all answers by key."""
        scans = [self._readers[RESPONSES].scan(before=TEXT_KEY_PREFIX), *(rows for _, rows in self._attached.scans())]
        last = ""
        # of rows under one key that of the database comes first
        for row in heapq.merge(*scans, key=lambda row: row[0]):
            if row[0] != last:
                yield self._parse_entry(row)
            last = row[0]

    def attach(self, files: Path, name: str) -> None:
        """Take in a folder of answers, as tlac.cache.attached describes them, as a pack of that name, by renaming it.

        Raises StoreError, InputError naming file and line for a line that can't be read.
        """
        with naming_failure(self.path, subject="the store ", kind=StoreError):
            if read_format(self.path) != ATTACHED_FORMAT:
                write_format(self.path, ATTACHED_FORMAT)
        self._attached.attach(files, name)

    def merge_attached(self) -> int:
        """Copy the answers of attached packs into the database and remove the packs; the number of these answers."""
        count = 0
        for name, rows in self._attached.scans():
            while batch := list(islice(rows, _BATCH)):
                there = {row[0] for row in self._readers[RESPONSES].get_many([row[0] for row in batch])}
                self._put_batch([self._parse_entry(row) for row in batch if row[0] not in there])
                count += len(batch) - len(there)
            self._attached.remove(name)
        return count

    def get_embeddings(self, keys: Sequence[str]) -> dict[str, StoredEmbedding]:
        """Return the embeddings that are there, by key."""
        return {row[0]: self._parse_embedding(row) for row in self._readers[EMBEDDINGS].get_many(keys)}

    def load_embeddings(self, keys: Sequence[str], encoder: str) -> tuple[Encoding, BoolArray]:
        """Return the embeddings under these keys in their order, and which of them there are; a row that is not there
        holds nothing. `encoder` is the fingerprint of the encoder whose they are: it names the block for many of them.

        Raises StoreError also where they are not all of as many dimensions.
        """
        if len(keys) < MIN_ROWS:
            return self._read_embeddings(keys)
        folder, wanted = self.path / EMBEDDINGS, block_keys(keys)
        block = read_block(folder, encoder)
        rows = np.full(len(keys), -1) if block is None else block.find(wanted)
        left = np.flatnonzero(rows < 0)
        if block is not None and not len(left):
            return block.take(rows), np.ones(len(keys), np.bool_)
        dimensions = 0 if block is None else block.vectors.shape[1]
        found, is_there = self._read_embeddings([keys[row] for row in left.tolist()], dimensions)
        count = int(is_there.sum())
        if count >= MIN_ROWS if block is None else block.is_worth_adding(count):
            added = EmbeddingBlock(wanted[left[is_there]], found.vectors[is_there], found.is_truncated[is_there])
            write_block(folder, encoder, added if block is None else block.joined(added))
        if block is None:
            return found, is_there
        # in place of the rows that are not in the block, where -1 has taken the last one
        known = block.take(rows)
        if found.vectors.size:
            known.vectors[left], known.is_truncated[left] = found.vectors, found.is_truncated
        is_known = rows >= 0
        is_known[left] = is_there
        return known, is_known

    def _read_embeddings(self, keys: Sequence[str], dimensions: int = 0) -> tuple[Encoding, BoolArray]:
        """As load_embeddings, from the database alone; `dimensions` are those of the encoder where they are known."""
        places = {key: place for place, key in enumerate(keys)}
        is_truncated, is_there = np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.bool_)
        vectors = np.zeros((len(keys), dimensions), np.float32)
        rows = self._readers[EMBEDDINGS].get_many(keys)
        while block := list(islice(rows, _EMBEDDINGS)):
            try:
                found = parse_embeddings([_text(row) for row in block])
                if dimensions and found.vectors.shape[1] != dimensions:
                    raise InputError(f"a vector of another number of dimensions than the encoder's {dimensions}")
            except InputError as error:
                # which of them it is, is told by looking at each
                for row in block:
                    self._parse_embedding(row)
                raise self._row_complaint(block[0][0], error) from error
            if not dimensions:
                # one array from the start: an array for each block, and one of them all, would take twice the memory
                dimensions = found.vectors.shape[1]
                vectors = np.zeros((len(keys), dimensions), np.float32)
            at = [places[row[0]] for row in block]
            vectors[at], is_truncated[at], is_there[at] = found.vectors, found.is_truncated, True
        return Encoding(vectors, is_truncated), is_there

    def put_embeddings(self, items: Iterable[StoredEmbedding]) -> int:
        """Store embeddings, up to a thousand in a transaction; one that is there already stays. How many are new.

        Raises StoreError also for a vector that is not finite.
        """
        remaining, count = iter(items), 0
        while batch := list(islice(remaining, _BATCH)):
            try:
                rows = [(item.key, embedding_text(item)) for item in batch]
            except InputError as error:
                raise StoreError(f"an embedding is not kept: {error}; is the text encoder sound?") from error
            count += self._write(EMBEDDINGS, rows)
        return count

    def embeddings(self) -> Iterator[StoredEmbedding]:
        """Yield all embeddings by key."""
        return (self._parse_embedding(row) for row in self._readers[EMBEDDINGS].scan())

    def stats(self, about: Callable[[StoredAnswer], bool] | None = None) -> StoreStats:
        """Count what the store holds, or those answers that `about` holds of; reads every answer."""
        counts = count_answers(self.entries() if about is None else filter(about, self.entries()))
        files = (Path(place, name) for place, _, names in os.walk(self.path) for name in names)
        return StoreStats(
            counts=counts,
            answers=sum(count.answers for count in counts),
            embeddings=self._readers[EMBEDDINGS].count(),
            size_bytes=sum(map(_size_bytes, files)),
            cost_usd=total_cost(count.cost_usd for count in counts),
            attached_packs=len(self._attached),
        )

    def _put_batch(self, entries: list[StoredAnswer]) -> None:
        rows: list[tuple[str, str]] = []
        texts: dict[str, str] = {}
        for entry in entries:
            try:
                rows.append(_fold_entry(entry.checked(), texts))
            except InputError as error:
                raise StoreError(f"the answer under {entry.key[:12]} is not kept: {error}") from error
        new = {key: content for key, content in texts.items() if key not in self._known_texts}
        self._write(RESPONSES, [*new.items(), *rows])
        self._known_texts.update(new)

    def _write(self, name: str, rows: list[tuple[str, str]]) -> int:
        with self._lock:
            if self._is_closed:
                # work that goes on in a thread would open it again, even make it anew, and nobody would close it
                raise StoreError(f"{self.path}: the store was closed, and is written to no more")
            # before, and after, for what was deleted meanwhile
            self._put_back_deleted(name)
            # blocks of embeddings count on it that none is ever replaced by another
            count = self._writers[name].write(rows, keeps_first=name == EMBEDDINGS)
            self._has_written.add(name)
            self._put_back_deleted(name)
            return count

    def _put_back_deleted(self, name: str) -> None:
        """Where a database was deleted while it was in use, make it anew from the one that is still open.

        A deleted file lives on as long as somebody has it open, and takes all that is written to it along.
        """
        opened, folder = self._readers[name], self.path / name
        if opened.is_in_place():
            return
        try:
            with suppress(OSError):
                if self.path.is_dir() and not (self.path / FORMAT_FILE).exists():
                    # it is being deleted just now, file by file
                    write_format(self.path)
            prepare_folder(self.path)
            make_database(folder)
            self._writers[name].close()
            self._writers[name] = RowWriter(folder)
            rows = ((key, text.decode()) for key, text, _ in opened.scan() if text is not None)
            while batch := list(islice(rows, _BATCH)):
                self._writers[name].write(batch, keeps_first=True)
            reader = RowReader(folder)
        except StoreError as error:
            raise StoreError(
                f"{folder}: was deleted while it was in use, and can't be put back: {error}; what it held is lost once "
                "this process ends"
            ) from error
        # another thread may be reading from it
        self._replaced.append(opened)
        self._readers[name] = reader
        self._on_warning(f"{folder}: was deleted or exchanged while it was in use; all that it held was put back")

    def _migrate(self) -> None:
        try:
            self._writers[RESPONSES].write(self._folded_rows())
            write_format(self.path)
        except (StoreError, OSError) as error:
            self.warnings += (f"{self.path}: an older tlac wrote the store; it is read as it is, since: {error}",)

    def _folded_rows(self) -> Iterator[tuple[str, str]]:
        texts: dict[str, str] = {}
        for row in self._readers[RESPONSES].scan(before=TEXT_KEY_PREFIX):
            try:
                entry = self._parse_entry(row)
            except StoreError:
                # left for `cache verify` to report
                continue
            yield _fold_entry(entry, texts)
        yield from texts.items()

    def _find(self, key: str) -> Row | None:
        changes = self._attached.changes
        row = self._readers[RESPONSES].get(key) or self._attached.get(key)
        # another process may have attached a pack, or merged one after the database was looked at
        return self._find(key) if row is None and self._attached.refresh() != changes else row

    def _find_many(self, keys: Sequence[str]) -> Iterator[Row]:
        changes = self._attached.refresh()
        reader = self._readers[RESPONSES]
        if not len(self._attached):
            yield from reader.get_many(keys)
            return
        left = dict.fromkeys(keys)
        for row in reader.get_many(keys):
            left.pop(row[0], None)
            yield row
        for key in tuple(left):
            if (found := self._attached.get(key)) is not None:
                del left[key]
                yield found
        if left and self._attached.refresh() != changes:
            yield from self._find_many(tuple(left))

    def _parse_entry(self, row: Row) -> StoredAnswer:
        def parse(text: bytes) -> StoredAnswer:
            entry = parse_answer(text, key=None if row[2] == ATTACHED_ROW else row[0])
            return replace(entry, request=unfold(entry.request, self._text_of))

        return self._parsed(row, parse)

    def _read_text(self, key: str) -> str:
        row = self._find(key)
        if row is None:
            raise InputError(f"a request whose text {key[:17]} is gone")
        return parse_text_row(key, _text(row))

    def _parse_embedding(self, row: Row) -> StoredEmbedding:
        return self._parsed(row, partial(parse_embedding, key=row[0]))

    def _parsed(self, row: Row, parse: Callable[[bytes], ParsedT]) -> ParsedT:
        try:
            return parse(_text(row))
        except InputError as error:
            raise self._row_complaint(row[0], error) from error

    def _row_complaint(self, key: str, error: InputError) -> StoreError:
        return StoreError(f"{self.path}: the row under {key[:12]} can't be used: {error}; see `tlac cache verify`")


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # sqlite's own files come and go
        return 0


def _text(row: Row) -> bytes:
    _, text, _ = row
    if text is None:
        raise InputError("not text that tlac wrote")
    return text


def _fold_entry(entry: StoredAnswer, texts: dict[str, str]) -> tuple[str, str]:
    """Return the row of an answer; the rows of its long texts are added to `texts`."""
    request, found = fold(entry.request)
    texts.update(found)
    return entry.key, answer_text(entry, request=request)
