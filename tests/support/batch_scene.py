"""A store with batches, looked after, and a provider that is told what to say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timezone
from typing import TypeVar

import msgspec
import zstandard

from tlac.cache.store import Store
from tlac.config.schemas import Backend, load_backend
from tlac.engines.batch.journal import BatchRecord, RequestLine
from tlac.engines.batch.manager import BatchManager
from tlac.interfaces import BatchStatus
from tlac.lmms.middleware.policy import Clock

ResultT = TypeVar("ResultT")
SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
WORKING, OVER = BatchStatus("in_progress", False), BatchStatus("completed", True)


class FakeInterface:
    """A provider that is told what to say, and remembers what it was asked."""

    def __init__(self) -> None:
        self.found: str | Exception | None = "job-1"
        self.state: BatchStatus | Exception = WORKING
        self.refusal: Exception | None = None
        self.looked_for: list[tuple[str, datetime, set[str], set[str]]] = []
        self.cancelled: list[str] = []

    def find(self, tag: str, since: datetime, custom_ids: Collection[str], taken: Collection[str]) -> str | None:
        self.looked_for.append((tag, since, set(custom_ids), set(taken)))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def status(self, _job: str) -> BatchStatus:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def cancel(self, job: str) -> None:
        self.cancelled.append(job)
        if self.refusal is not None:
            raise self.refusal


class Scene:
    """A store with batches in its journal, a provider, and a clock that notes the waits."""

    def __init__(self, store: Store) -> None:
        self.provider = FakeInterface()
        self.said: list[str] = []
        self.waits_s: list[float] = []
        self.opened: list[str] = []
        self.manager = BatchManager(store, Clock(sleep=self.sleep), self.said.append)
        self.journal = self.manager.journal

    async def sleep(self, wait_s: float) -> None:
        assert self.provider.looked_for == []
        self.waits_s.append(wait_s)

    def open(self, backend: Backend) -> FakeInterface:
        self.opened.append(backend.name)
        return self.provider

    def write(self, tag: str = "ours", status: str = "submitting", job: str | None = None, name: str = "gpt-4o"):
        self.journal.folder.mkdir(parents=True, exist_ok=True)
        lines = [RequestLine(f"{tag}-{number}", f"{number:064x}", {}) for number in range(2)]
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        self.journal.requests_file(tag).write_bytes(zstandard.compress(content))
        backend = load_backend(name)
        record = BatchRecord(tag, name, backend.source, backend.spec, status, 2, SINCE, job=job)  # type: ignore[arg-type]
        self.journal.write(record)
        return record

    def held(self, work: Callable[[], Awaitable[ResultT]]) -> ResultT:
        async def run() -> ResultT:
            async with self.manager.hold():
                return await work()

        return asyncio.run(run())
