"""Brings the workers' answer logs into the store: at the end of a run, and at the next start those of a dead one.

    STORE/cluster/RUN/driver.lock       held while the run's driver lives
    STORE/cluster/RUN/logs/*.jsonl      answer logs; gone once they are in the store
    STORE/cluster/RUN/results/*.parquet what was said, see tlac.cluster.tables

Does not know Ray.
"""

from __future__ import annotations

import fcntl
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from tlac.cluster.answer_logs import LoggedFailure, is_being_written, logs_in, read_log
from tlac.cluster.faults import Fault
from tlac.documents import StoredAnswer
from tlac.errors import StoreError
from tlac.store import Store
from tlac.types import Outcome

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
