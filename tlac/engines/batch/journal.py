"""What is known of batches, on disk: a file each in the store's folder, written before anything is submitted.

    STORE/batches/TAG.json                 the record below
    STORE/batches/TAG.requests.jsonl.zst   our ids, the keys and the requests, until the answers are stored
    STORE/batches/TAG.jsonl                what is submitted, until the provider has it

No API key is in them: a backend's file names the variable that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from filelock import FileLock, Timeout

from tlac.cache.pack import pack_lines
from tlac.cache.serialization import Count, Document, Sha256
from tlac.config.schemas import Backend, BackendSpec
from tlac.errors import InputError, StoreError, UnknownNameError
from tlac.runtime.safe_files import naming_failure, parse_json, replacing

FOLDER = "batches"
_RECORD, _REQUESTS, _LINES = ".json", ".requests.jsonl.zst", ".jsonl"
_LOCK = "lock"
_Usd = Annotated[float, msgspec.Meta(ge=0)]


class BatchRecord(Document, frozen=True):
    """One batch. `job` is the provider's id; `failed` says by key why a request has no answer.

    "submitting": perhaps the provider has it; "submitted": it has; "collected": answers are stored;
    "dropped": it never had it, or it was given up.
    """

    tag: str
    backend: str
    source: str
    spec: BackendSpec
    status: Literal["submitting", "submitted", "collected", "dropped"]
    requests: Count
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    highest_cost_usd: _Usd | None = None
    job: str | None = None
    closed_at: str | None = None
    answered: Count = 0
    cost_usd: _Usd | None = None
    failed: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether answers may still come."""
        return self.status in ("submitting", "submitted")

    @property
    def as_backend(self) -> Backend:
        """The backend as it was when the batch was made."""
        return Backend(self.backend, self.source, self.spec)

    @property
    def age_s(self) -> float:
        """Seconds since the batch was written down."""
        return max(0.0, (datetime.now(timezone.utc) - self.created_at).total_seconds())


class RequestLine(Document, frozen=True):
    """One request of a batch: our id of it, the key that its answer is kept under, and what the key is made of."""

    custom_id: str
    key: Sha256
    request: dict[str, Any]


class Journal:
    """The batches of one store. Reading needs no lock; whoever submits or collects holds it."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER

    def try_lock(self) -> FileLock | None:
        """What holds the folder against other processes until it is released; None while another holds it."""
        with writing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
            self._sweep()
        return lock

    def records(self) -> list[BatchRecord]:
        """All batches, oldest first. Raises StoreError for a file that is not ours."""
        return [self._read(path) for path in sorted(self.folder.glob(f"*{_RECORD}"))]

    def open_records(self) -> list[BatchRecord]:
        """The batches whose answers are still to come, oldest first."""
        return [record for record in self.records() if record.is_open]

    def find(self, tag: str) -> BatchRecord:
        """The batch of that tag. Raises UnknownNameError."""
        records = {record.tag: record for record in self.records()}
        if tag not in records:
            raise UnknownNameError("batch", tag, records, "`tlac batch status` lists them")
        return records[tag]

    def refresh(self, record: BatchRecord) -> BatchRecord:
        """The record as it stands now."""
        return self._read(self._path(record.tag, _RECORD))

    def write(self, record: BatchRecord) -> None:
        """Keep a record; it is on disk when this returns. What a closed batch needs no more is removed."""
        path = self._path(record.tag, _RECORD)
        with writing(path), replacing(path, is_synced=True) as file:
            file.write(msgspec.json.encode(record))
        if record.status != "submitting":
            self._remove(record.tag, _LINES)
        if not record.is_open:
            self._remove(record.tag, _REQUESTS)

    def requests(self, record: BatchRecord) -> Iterator[RequestLine]:
        """The requests of an open batch. Raises StoreError where their file is broken, or holds another number."""
        path = self._path(record.tag, _REQUESTS)
        held = 0
        try:
            for _, line in pack_lines(path):
                held += 1
                yield parse_json(line, RequestLine)
            if held != record.requests:
                # zstd takes a file that was cut short for one that ends there
                raise InputError(f"holds {held} requests of {record.requests}")
        except InputError as error:
            raise StoreError(
                f"{path}: can't be read: {error}; `tlac batch forget {record.tag}` gives the batch up"
            ) from error

    def requests_file(self, tag: str) -> Path:
        """Where the requests of a batch lie."""
        return self._path(tag, _REQUESTS)

    def lines_file(self, tag: str) -> Path:
        """Where the lines lie that are submitted."""
        return self._path(tag, _LINES)

    def _path(self, tag: str, ending: str) -> Path:
        return self.folder / f"{tag}{ending}"

    def _remove(self, tag: str, ending: str) -> None:
        with suppress(OSError):
            self._path(tag, ending).unlink()

    def _read(self, path: Path) -> BatchRecord:
        try:
            record: BatchRecord = parse_json(path.read_bytes(), BatchRecord)
            if record.tag != path.stem:
                raise InputError(f"it is of the batch {record.tag!r}")
            return record
        except (InputError, OSError) as error:
            raise StoreError(f"{path}: not a record of a batch: {error}; move it away") from error

    def _sweep(self) -> None:
        """Remove what a process left that was killed before it wrote a record: nothing of it was submitted."""
        known = {path.stem for path in self.folder.glob(f"*{_RECORD}")}
        for path in self.folder.iterdir():
            if path.name != _LOCK and path.suffix != _RECORD and path.name.split(".")[0] not in known:
                with suppress(OSError):
                    path.unlink()


def writing(path: Path) -> AbstractContextManager[None]:
    """Turns what a disk complains of into StoreError."""
    return naming_failure(path, "; choose another --store (or TLAC_CACHE_DIR)", kind=StoreError)
