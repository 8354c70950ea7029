"""One batch on its way to disk: its lines and its requests, as they are found, within a provider's limits.

Holds no request in memory. Does not submit anything.
"""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from typing import Any

import zstandard

from tlac.batch_interface import BatchInterface
from tlac.batches.journal import BatchRecord, Journal, writing
from tlac.config import Backend
from tlac.keys import canonical_json

# with the mark: 8 + 1 + 40 characters, of the 64 that every provider takes
_KEY_CHARACTERS = 40


class Spool:
    """A batch of one backend that is being filled. Raises StoreError where the disk takes no more."""

    def __init__(self, journal: Journal, backend: Backend, interface: BatchInterface) -> None:
        self._mark = secrets.token_hex(4)
        self.tag = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{self._mark}"
        self._backend, self._interface = backend, interface
        self._requests = self._size_bytes = 0
        self._highest_cost_usd: float | None = None
        self._files = ExitStack()
        self._path = journal.lines_file(self.tag)
        with writing(self._path):
            self._lines = self._files.enter_context(self._path.open("wb"))
            packed = self._files.enter_context(journal.requests_file(self.tag).open("wb"))
            # without the requests no answer could be stored
            self._files.callback(lambda: os.fsync(packed.fileno()))
            writer = zstandard.ZstdCompressor().stream_writer(packed, closefd=False)
            self._documents = self._files.enter_context(writer)

    def line(self, key: str, body: bytes) -> tuple[str, bytes]:
        """A request's id in this batch, and its line."""
        custom_id = f"{self._mark}-{key[:_KEY_CHARACTERS]}"
        return custom_id, self._interface.line(custom_id, body)

    def has_room(self, line: bytes) -> bool:
        """Whether one more line stays within the provider's limits."""
        limits = self._interface.limits
        return self._requests < limits.requests and self._size_bytes + len(line) <= limits.size_bytes

    def add(self, custom_id: str, line: bytes, key: str, document: dict[str, Any]) -> None:
        """Take one request in."""
        row = canonical_json({"custom_id": custom_id, "key": key, "request": document})
        with writing(self._path):
            self._lines.write(line)
            self._documents.write(row.encode() + b"\n")
        self._requests += 1
        self._size_bytes += len(line)

    def reserve(self, amount_usd: float) -> None:
        """Note what a request may cost at most."""
        self._highest_cost_usd = (self._highest_cost_usd or 0.0) + amount_usd

    def close(self) -> BatchRecord:
        """Nothing more comes: the record of the batch, to be written before it is submitted."""
        with writing(self._path):
            self._files.close()
        return BatchRecord(
            tag=self.tag,
            backend=self._backend.name,
            source=self._backend.source,
            spec=self._backend.spec,
            status="submitting",
            requests=self._requests,
            created_at=datetime.now(timezone.utc).replace(microsecond=0),
            highest_cost_usd=self._highest_cost_usd,
        )

    def give_up(self) -> None:
        """Close the files; without a record they are removed."""
        with suppress(OSError):
            self._files.close()
