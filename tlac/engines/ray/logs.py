"""Answers as a worker writes them down, and how they come into the store.

A log is a file of JSON lines, each on disk before its answer counts as given. A line holds what a response pack's line
holds, and who answered; a long text that many requests share stands in a line of its own, once. A worker that is killed
leaves a cut last line at most. The logs of a small run are copied into the store's database, those of a large one
become a pack that the store reads where it lies (tlac.cache.attached).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from tlac.cache.attached import LINES_SUFFIX, line_complaint, read_lines
from tlac.cache.serialization import StoredAnswer, answer_text, fold
from tlac.cache.store import Store
from tlac.engines.ray.job import SerializedError
from tlac.errors import InputError, StoreError
from tlac.hashing import canonical_json
from tlac.runtime import aio
from tlac.runtime.safe_files import naming_failure, parse_json
from tlac.types import Outcome

ATTACHED_BYTES = 64 * 2**20
"""Logs of so many bytes and more, some 70,000 answers, become an attached pack."""


class FailureNote(msgspec.Struct, frozen=True):
    """A line that is neither an answer nor a text: the key of a request that got no response, or the path of an image
    that no request could be made of, and why."""

    failed: str
    fault: SerializedError


class AnswerLog:
    """One file of answers, written by one worker; locked while it is open, so that nobody takes it away."""

    def __init__(self, path: Path) -> None:
        """Make the file. Raises StoreError where the folder can't be written."""
        with naming_failure(path, subject="answers ", kind=StoreError):
            self._file = path.open("xb")
        if not _try_lock(self._file.fileno()):
            raise StoreError(f"{path}: can't be locked; choose a --store on another file system")
        self._path = path
        self._texts: set[str] = set()
        self._broken: StoreError | None = None
        self._lines = aio.Blocks[str, None](self._write_all)

    async def keep(self, answer: StoredAnswer) -> None:
        """Write an answer down; it is on disk when this returns. Raises StoreError where the disk is full."""
        request, texts = fold(answer.request)
        new = texts.keys() - self._texts
        self._texts |= new
        lines = [*(texts[key] for key in new), answer_text(answer, has_key=True, request=request)]
        await self._lines.ask("\n".join(lines))

    async def keep_failure(self, failed: str, error: SerializedError) -> None:
        """Write down that a request, by its key, got no response, or that an image, by its path, can't be used."""
        await self._lines.ask(canonical_json(msgspec.to_builtins(FailureNote(failed, error))))

    async def close(self) -> None:
        """Close the file; one without a line is removed."""
        await self._lines.finish()
        # who is given up in its midst may still come
        self._broken = self._broken or StoreError(f"{self._path}: the log is closed")
        is_empty = self._file.tell() == 0
        self._file.close()
        if is_empty:
            self._path.unlink(missing_ok=True)

    async def _write_all(self, block: list[str]) -> list[None]:
        # off the event loop
        await asyncio.to_thread(self._write, "".join(f"{lines}\n" for lines in block).encode("utf-8"))
        return [None] * len(block)

    def _write(self, content: bytes) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            with naming_failure(self._path, subject="answers ", kind=StoreError):
                self._file.write(content)
                self._file.flush()
                os.fsync(self._file.fileno())
        except StoreError as error:
            self._broken = error
            raise


def read_log(path: Path) -> Iterator[StoredAnswer | FailureNote]:
    """What a log holds, in the order in which it came; a cut last line is left out. A log that is gone holds nothing.

    Raises InputError naming file and line for anything else that a worker would not have written.
    """
    for number, kept in read_lines(path):
        if isinstance(kept, StoredAnswer):
            yield kept
            continue
        try:
            yield parse_json(kept, FailureNote)
        except InputError as error:
            raise line_complaint(path, number, error) from error


def logs_in(folder: Path, batch: str = "") -> list[Path]:
    """The logs in a folder, or those of one batch, in the order of their names."""
    with suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.name.startswith(batch) and path.suffix == LINES_SUFFIX)
    return []


def _try_lock(descriptor: int) -> bool:
    """Lock a file until it is closed; whether that could be had."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class KeySet:
    """Keys of answers in eight bytes each, where a set takes two hundred: a run has millions, and its driver all
    of them. Two digests don't meet in 64 bits by chance."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._new: set[int] = set()

    def __contains__(self, key: object) -> bool:
        try:
            number = int(str(key)[:16], 16)
        except ValueError:
            # the path of an image that no request could be made of
            return False
        if number in self._new:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        return place < len(self._sorted) and int(self._sorted[place]) == number

    def __len__(self) -> int:
        self._sort()
        return len(self._sorted)

    def add(self, key: str) -> None:
        """Take one in."""
        self._new.add(int(key[:16], 16))
        if len(self._new) > max(_UNSORTED, len(self._sorted) // 8):
            self._sort()

    def update(self, other: KeySet) -> None:
        """Take in all of another set."""
        other._sort()
        self._sort()
        self._sorted = np.union1d(self._sorted, other._sorted)

    def clear(self) -> None:
        """Be empty again."""
        self._sorted, self._new = np.empty(0, np.uint64), set()

    def _sort(self) -> None:
        if self._new:
            new = np.fromiter(self._new, np.uint64, len(self._new))
            self._sorted, self._new = np.union1d(self._sorted, new), set()


_UNSORTED = 50_000
_FOLDER = "cluster"
_LOCK = "driver.lock"
_BATCH = 1000
_ORPHANS_S = 15.0


class RunFolder:
    """Where the files of one run lie: `logs`, and as parquet `samples`, the `turns` of stage 1, which become `results`,
    the choices that they have `put_off`, and what was chosen: `choices`; what is `scored` until the run has it.

    Driver and workers share it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs, self.samples = path / "logs", path / "samples"
        self.turns, self.results = path / "turns", path / "results"
        self.put_off, self.choices, self.scored = path / "put-off", path / "choices", path / "scored"


@contextmanager
def new_run_folder(store: Path) -> Iterator[RunFolder]:
    """A folder for a run, which counts as alive until the block ends or the process dies.

    Logs and results stay, the rest is removed. Raises StoreError where it can't be made.
    """
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(store / _FOLDER / f"{stamp}-{secrets.token_hex(3)}")
    with naming_failure(folder.path, "; choose another --store", kind=StoreError):
        # questions and answers: what the store keeps to its owner
        folder.path.parent.mkdir(mode=0o700, exist_ok=True)
        folder.logs.mkdir(parents=True)
        lock = (folder.path / _LOCK).open("xb")
    with lock:
        _try_lock(lock.fileno())
        yield folder
    half_done = () if folder.results.exists() else (folder.choices,)
    for path in (folder.samples, folder.turns, folder.put_off, folder.scored, *half_done):
        shutil.rmtree(path, ignore_errors=True)
    (folder.path / _LOCK).unlink(missing_ok=True)
    for path in (folder.logs, folder.path):
        # a folder with results, or with a log that is still written to, stays
        with suppress(OSError):
            path.rmdir()


def merge_left_behind(store: Store, retry: Collection[Outcome] = ()) -> int:
    """Merge the logs of runs whose driver has died; returns how many answers they held. Raises StoreError,
    InputError for a log that no worker wrote."""
    count = 0
    for lock_path in sorted((store.path / _FOLDER).glob(f"*/{_LOCK}")):
        with suppress(FileNotFoundError), lock_path.open("rb") as lock:
            if not _try_lock(lock.fileno()):
                continue
            folder = RunFolder(lock_path.parent)
            _wait_for_orphans(folder)
            count += len(merge_logs(store, folder, retry)[0])
            if not logs_in(folder.logs):
                shutil.rmtree(folder.path, ignore_errors=True)
    return count


def _wait_for_orphans(folder: RunFolder) -> None:
    """Wait for workers that outlive their driver, some seconds at most: what they log after this is asked again."""
    over = time.monotonic() + _ORPHANS_S
    quiet = 0
    while quiet < 3 and time.monotonic() < over and (logs := logs_in(folder.logs)):
        quiet = 0 if any(map(_is_written, logs)) else quiet + 1
        time.sleep(0.2)


def _is_written(log: Path) -> bool:
    """Whether a worker still has the log open."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        return not _try_lock(file.fileno())
    return False


def merge_logs(
    store: Store, folder: RunFolder, retry: Collection[Outcome] = ()
) -> tuple[KeySet, dict[str, SerializedError]]:
    """Put the answers of a run's logs into the store; a log that nobody writes to any more is removed, or, where there
    are many answers, attached.

    What the store has already stays, unless it is older, or its outcome is in `retry`. Returns the keys of the answers,
    and why other requests got none. Raises StoreError, InputError.
    """
    keys = KeySet()
    failures: dict[str, SerializedError] = {}
    is_attached = _is_attached(store, folder)

    def first_answers(path: Path) -> Iterator[StoredAnswer]:
        for kept in read_log(path):
            if isinstance(kept, FailureNote):
                failures[kept.failed] = kept.fault
            elif kept.key not in keys:
                keys.add(kept.key)
                yield kept

    for path in logs_in(folder.logs):
        is_finished = not _is_written(path)
        answers = first_answers(path)
        while block := list(islice(answers, _BATCH)):
            store.put_entries(_news(store, block, retry, is_attached))
        if is_finished and not is_attached:
            path.unlink(missing_ok=True)
    if is_attached:
        store.attach(folder.logs, folder.path.name)
    return keys, {key: error for key, error in failures.items() if key not in keys}


def _is_attached(store: Store, folder: RunFolder) -> bool:
    """Whether the logs become a pack: there is much in them, nobody writes to them, and they can be renamed into the
    store."""
    logs = logs_in(folder.logs)
    if sum(map(_size_bytes, logs)) < ATTACHED_BYTES or folder.logs.stat().st_dev != store.path.stat().st_dev:
        return False
    if any(map(_is_written, logs)):
        _wait_for_orphans(folder)
    return not any(map(_is_written, logs_in(folder.logs)))


def _size_bytes(log: Path) -> int:
    # an empty one is removed by its worker
    with suppress(FileNotFoundError):
        return log.stat().st_size
    return 0


def _news(
    store: Store, answers: list[StoredAnswer], retry: Collection[Outcome], is_attached: bool
) -> Iterator[StoredAnswer]:
    """What of a log's answers has to be written into the database.

    Of those that are attached, none that is new. Where the store has another answer under the key, the one that counts:
    so it does not matter which of two packs comes first.
    """
    stored = dict(store.responses([answer.key for answer in answers]))
    for answer in answers:
        ours = stored.get(answer.key)
        if ours is None:
            if not is_attached:
                yield answer
        elif ours.outcome in retry or ours.created_at < answer.response.created_at:
            yield answer
        elif is_attached and (entry := store.get_entry(answer.key)) is not None:
            yield entry
