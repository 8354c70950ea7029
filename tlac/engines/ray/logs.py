"""Answers as a worker writes them down: lines of JSON that are on disk before an answer counts as given.

A line holds what a response pack's line holds, and who answered; a long text that many requests share stands in a
line of its own, once. A worker that is killed leaves a cut last line at most. Does not know the store.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import msgspec

from tlac.cache.serialization import (
    Document,
    Sha256,
    StoredAnswer,
    answer_text,
    fold,
    parse_answer,
    text_row,
    unfold,
)
from tlac.cache.store import Store
from tlac.engines.ray.errors import Fault
from tlac.errors import InputError, StoreError, UsageError
from tlac.hashing import canonical_json
from tlac.runtime.safe_files import parse_json
from tlac.types import Outcome

SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class LoggedFailure:
    """A request that got no response, by its key, and why."""

    key: str
    fault: Fault


class _LineKind(msgspec.Struct, frozen=True):
    text: str | None = None
    failed: str | None = None


class _FaultDocument(Document, frozen=True):
    kind: str
    text: str
    retry_after_s: float | None
    is_input: bool


class _FailureLine(Document, frozen=True):
    failed: Sha256
    fault: _FaultDocument


class AnswerLog:
    """One file of answers, written by one worker; locked while it is open, so that nobody takes it away."""

    def __init__(self, path: Path) -> None:
        """Make the file. Raises StoreError where the folder can't be written."""
        try:
            self._file = path.open("xb")
            _lock(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{path}: answers can't be written here: {error.strerror or error}") from error
        self._path = path
        self._unwritten: deque[bytes] = deque()
        self._texts: set[str] = set()
        self._broken: StoreError | None = None
        # waiting for the disk leaves the event loop; lines that came together wait once
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tlac-log")

    async def keep(self, answer: StoredAnswer) -> None:
        """Write an answer down; it is on disk when this returns. Raises StoreError where the disk is full."""
        request, texts = fold(answer.request)
        for key in texts.keys() - self._texts:
            self._texts.add(key)
            self._unwritten.append(texts[key].encode("utf-8") + b"\n")
        await self._append(answer_text(replace(answer, request=request), has_key=True))

    async def keep_failure(self, failure: LoggedFailure) -> None:
        """Write down that a request got no response."""
        await self._append(canonical_json({"failed": failure.key, "fault": asdict(failure.fault)}))

    def close(self) -> None:
        """Close the file; one without a line is removed."""
        self._writer.shutdown()
        is_empty = self._file.tell() == 0
        self._file.close()
        if is_empty:
            self._path.unlink(missing_ok=True)

    async def _append(self, line: str) -> None:
        self._unwritten.append(line.encode("utf-8") + b"\n")
        await asyncio.get_running_loop().run_in_executor(self._writer, self._write_all)

    def _write_all(self) -> None:
        lines = [self._unwritten.popleft() for _ in range(len(self._unwritten))]
        if self._broken is not None:
            # lines of this turn may have been among those that were lost
            raise self._broken
        if not lines:
            return
        try:
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._broken = StoreError(f"{self._path}: answers can't be written: {error.strerror or error}")
            raise self._broken from error


def read_log(path: Path) -> Iterator[StoredAnswer | LoggedFailure]:
    """What a log holds, in the order in which it came; a cut last line is left out.

    Raises InputError naming file and line for anything else that a worker would not have written.
    """
    texts: dict[str, str] = {}

    def text_of(key: str) -> str:
        if key not in texts:
            raise InputError("a text that stands nowhere above")
        return texts[key]

    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                kind = parse_json(line, _LineKind)
                if kind.text is not None:
                    texts[text_row(kind.text)[0]] = kind.text
                elif kind.failed is not None:
                    failure = parse_json(line, _FailureLine)
                    yield LoggedFailure(failure.failed, Fault(**msgspec.structs.asdict(failure.fault)))
                else:
                    answer = parse_answer(line)
                    yield replace(answer, request=unfold(answer.request, text_of)).checked()
            except UsageError as error:
                raise InputError(f"{path}: line {number}: {error}; move the file away to go on without it") from error


def is_being_written(path: Path) -> bool:
    """Whether a worker that lives still has the log open."""
    with path.open("rb") as file:
        try:
            _lock(file.fileno())
        except OSError:
            return True
    return False


def logs_in(folder: Path, batch: str = "") -> list[Path]:
    """The logs in a folder, or those of one batch, in the order of their names."""
    with suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.name.startswith(batch) and path.suffix == SUFFIX)
    return []


def _lock(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


FOLDER = "cluster"
_LOCK = "driver.lock"
_BATCH = 1000


@dataclass(slots=True)
class Merged:
    """The keys of the answers that were in the logs, and why other requests got none."""

    keys: set[str] = field(default_factory=set)
    failures: dict[str, Fault] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where the files of one run on a cluster lie: a place that driver and workers share."""

    path: Path

    @property
    def logs(self) -> Path:
        """The answer logs."""
        return self.path / "logs"

    @property
    def samples(self) -> Path:
        """The list of samples; gone after the run."""
        return self.path / "samples"

    @property
    def turns(self) -> Path:
        """What stage 1 brought; gone after the run."""
        return self.path / "turns"

    @property
    def results(self) -> Path:
        """What was said, in the end."""
        return self.path / "results"

    def clear(self) -> None:
        """Remove what only the run itself needed."""
        for folder in (self.samples, self.turns):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_run_folder(store: Path) -> Iterator[RunFolder]:
    """A folder for a run, which counts as alive until the block ends or the process dies.

    Raises StoreError where it can't be made.
    """
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = RunFolder(store / FOLDER / f"{stamp}-{secrets.token_hex(3)}")
    try:
        folder.logs.mkdir(parents=True)
        lock = (folder.path / _LOCK).open("xb")
    except OSError as error:
        raise StoreError(f"{folder.path}: can't be made: {error.strerror or error}; choose another --store") from error
    with lock:
        _take(lock)
        yield folder
    folder.clear()
    (folder.path / _LOCK).unlink(missing_ok=True)
    for path in (folder.logs, folder.path):
        # a folder with results, or with a log that is still written to, stays
        with suppress(OSError):
            path.rmdir()


def merge_left_behind(store: Store, retry: Collection[Outcome] = ()) -> int:
    """Merge the logs of runs whose driver has died; returns how many answers they held. Raises StoreError,
    InputError for a log that no worker wrote."""
    count = 0
    with suppress(FileNotFoundError):
        for path in sorted((store.path / FOLDER).iterdir()):
            lock_path = path / _LOCK
            if not lock_path.exists():
                continue
            with lock_path.open("rb") as lock:
                if not _take(lock):
                    continue
                folder = RunFolder(path)
                count += len(merge_logs(store, folder, retry).keys)
                if not logs_in(folder.logs):
                    shutil.rmtree(path, ignore_errors=True)
    return count


def merge_logs(store: Store, folder: RunFolder, retry: Collection[Outcome] = ()) -> Merged:
    """Put the answers of a run's logs into the store; a log that nobody writes to any more is removed.

    What the store has already stays, unless it is older, or its outcome is in `retry`. Raises StoreError, InputError.
    """
    merged = Merged()
    for path in logs_in(folder.logs):
        is_open = is_being_written(path)
        answers: list[StoredAnswer] = []
        for kept in read_log(path):
            if isinstance(kept, LoggedFailure):
                merged.failures[kept.key] = kept.fault
                continue
            if kept.key not in merged.keys and _is_news(store, kept, retry):
                answers.append(kept)
            merged.keys.add(kept.key)
            if len(answers) == _BATCH:
                store.put_entries(answers)
                answers = []
        store.put_entries(answers)
        if not is_open:
            path.unlink(missing_ok=True)
    for key in merged.keys & merged.failures.keys():
        del merged.failures[key]
    return merged


def _is_news(store: Store, answer: StoredAnswer, retry: Collection[Outcome]) -> bool:
    ours = store.get_response(answer.key)
    return ours is None or ours.outcome in retry or ours.created_at < answer.response.created_at


def _take(lock: IO[bytes]) -> bool:
    """Whether the lock could be had; it is held until the file is closed."""
    try:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
