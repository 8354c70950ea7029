"""One round: takes the requests that a run lacks, fills batches with them, and submits each as soon as it is full.

Every batch is written down before it is submitted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from typing import Any

import msgspec
import zstandard

from tlac.config.schemas import Backend
from tlac.engines.batch.journal import BatchRecord, Journal, writing
from tlac.engines.batch.manager import BatchManager, uninterrupted
from tlac.errors import CallError, ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.hashing import canonical_json
from tlac.interfaces import BatchInterface
from tlac.lmms.middleware.budget import Budget, highest_cost_usd
from tlac.lmms.prices import prices_of
from tlac.runtime.formatting import duration
from tlac.types import LMMRequest


class CostReservation:
    """What may still be submitted under a budget; without one, everything."""

    def __init__(self, budget: Budget | None) -> None:
        self._budget = budget
        # by batch: what is set aside in the budget, and what batches of earlier commands may still cost
        self._reserved_usd: dict[str, float] = {}
        self._earlier_usd: dict[str, float] = {}

    def check(self, backend: Backend) -> None:
        """Raises ConfigError where a budget is set and the model's price is not known."""
        if self._budget is not None and prices_of(backend.spec) is None:
            raise ConfigError(
                f"{backend.source}: no price is known for {backend.spec.model}, so a cost cap can't be kept; "
                "add prices: {prompt: ..., completion: ...} in USD per million tokens, or leave --max-cost out"
            )

    async def reserve(self, request: LMMRequest, backend: Backend, interface: BatchInterface) -> float | None:
        """Set aside what a request may cost at most, in USD; None where no price is known and none is needed.

        Raises PermanentError where the rest of the budget is too small.
        """
        prices = prices_of(backend.spec)
        if prices is None:
            return None
        amount_usd = highest_cost_usd(request, prices) * (1 - interface.discount)
        budget = self._budget
        if budget is not None:
            committed = budget.committed_usd + sum(self._earlier_usd.values())
            if committed + amount_usd > budget.cap_usd:
                raise PermanentError(
                    f"the budget of {budget.cap_usd:g} USD is used up ({budget.spent_usd:.4f} spent, "
                    f"{committed - budget.spent_usd:.4f} set aside for batches under way, the next request may cost "
                    f"{amount_usd:.4f}); a higher --max-cost continues the run"
                )
            await budget.reserve(amount_usd)
        return amount_usd

    def release(self, amount_usd: float | None) -> None:
        """Give back what was set aside for a request that is not submitted after all."""
        if self._budget is not None and amount_usd is not None:
            self._budget.settle(amount_usd, 0.0)

    def assign(self, record: BatchRecord) -> None:
        """Count what was set aside for its requests as that of a batch."""
        self._reserved_usd[record.tag] = record.highest_cost_usd or 0.0

    def count_earlier(self, record: BatchRecord) -> None:
        """Count a batch that this command waits for against its budget, though an earlier command submitted it."""
        if record.tag not in self._reserved_usd:
            self._earlier_usd[record.tag] = record.highest_cost_usd or 0.0

    def settle(self, tag: str, spent_usd: float) -> None:
        """Put what a closed batch cost in the place of what it might have cost."""
        reserved_usd = self._reserved_usd.pop(tag, 0.0)
        self._earlier_usd.pop(tag, None)
        if self._budget is not None:
            self._budget.settle(reserved_usd, spent_usd)


# with the prefix: 8 + 1 + 40 characters, of the 64 that every provider takes
_KEY_CHARACTERS = 40


class BatchFile:
    """A batch of one backend that is being filled. Raises StoreError where the disk takes no more."""

    def __init__(self, journal: Journal, backend: Backend, interface: BatchInterface) -> None:
        self._prefix = secrets.token_hex(4)
        self.tag = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{self._prefix}"
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
        custom_id = f"{self._prefix}-{key[:_KEY_CHARACTERS]}"
        return custom_id, self._interface.line(custom_id, body)

    def has_room(self, line: bytes) -> bool:
        """Whether one more line stays within the provider's limits."""
        has_room = self._size_bytes + len(line) <= self._interface.max_bytes
        return self._requests < self._interface.max_requests and has_room

    def add(self, key: str, document: dict[str, Any], body: bytes, amount_usd: float | None) -> None:
        """Take one request in, which may cost `amount_usd` at most."""
        custom_id, line = self.line(key, body)
        row = canonical_json({"custom_id": custom_id, "key": key, "request": document})
        with writing(self._path):
            self._lines.write(line)
            self._documents.write(row.encode() + b"\n")
        self._requests += 1
        self._size_bytes += len(line)
        if amount_usd is not None:
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

    def discard(self) -> None:
        """Close the files; without a record they are removed."""
        with suppress(OSError):
            self._files.close()


_TRIES = 6
_BASE_S = 10.0
# who asks for more will have to be asked by another command
_LONGEST_WAIT_S = 3600.0


class BatchSubmitter:
    """The requests of one round. To be used under the manager's `hold`.

    `wanted` are the keys that were asked for, `failed` says by key what can't be asked, `stopped` why nothing more
    is submitted; `has_turned_away` that this left requests out.
    """

    def __init__(
        self, manager: BatchManager, reservation: CostReservation, failed: dict[str, str], stopped: str | None
    ) -> None:
        self.wanted: set[str] = set()
        self.failed = failed
        self.stopped = stopped
        self.has_turned_away = False
        self._manager = manager
        self._reservation = reservation
        self._pending = {
            line.key: record for record in manager.journal.open_records() for line in manager.journal.requests(record)
        }
        self._files: dict[str, BatchFile] = {}
        self._lock = asyncio.Lock()

    async def add(self, backend: Backend, key: str, document: dict[str, Any], request: LMMRequest) -> None:
        """Take a request in, unless it is under way, has failed, or nothing more may be submitted.

        Raises SampleError, ConfigError for a request that can't be made, PermanentError where a batch is refused.
        """
        if key in self.wanted:
            return
        self.wanted.add(key)
        if key in self._pending:
            self._reservation.count_earlier(self._pending[key])
            return
        if key in self.failed:
            return
        if self.stopped is not None:
            self.has_turned_away = True
            return
        interface = self._manager.interface(backend)
        try:
            amount_usd = await self._reservation.reserve(request, backend, interface)
        except PermanentError as error:
            self.stopped, self.has_turned_away = str(error), True
            return
        try:
            body = await interface.form(request)
        except BaseException as error:
            self._reservation.release(amount_usd)
            if isinstance(error, SampleError):
                self.failed[key] = str(error)
            raise
        async with self._lock:
            _, line = self._file(backend).line(key, body)
            if len(line) > interface.max_bytes:
                self._reservation.release(amount_usd)
                self.failed[key] = f"the request is larger than the {interface.max_bytes:,} bytes of a batch"
                return
            if not self._file(backend).has_room(line):
                await self._submit(backend)
            self._file(backend).add(key, document, body, amount_usd)

    def _file(self, backend: Backend) -> BatchFile:
        if backend.digest not in self._files:
            self._files[backend.digest] = BatchFile(self._manager.journal, backend, self._manager.interface(backend))
        return self._files[backend.digest]

    async def finish(self, backends: list[Backend]) -> None:
        """Submit what is left of these backends'. Raises PermanentError."""
        for backend in backends:
            if backend.digest in self._files:
                await self._submit(backend)

    def discard(self) -> None:
        """Close the files of batches that are not submitted; they are swept away."""
        for file in self._files.values():
            file.discard()

    async def _submit(self, backend: Backend) -> None:
        record = self._files.pop(backend.digest).close()
        if not record.requests:
            return
        journal, interface = self._manager.journal, self._manager.interface(backend)
        self._reservation.assign(record)

        def submit() -> None:
            # a thread's work, so that no interrupt comes between the provider's word and ours
            journal.write(record)
            job = interface.submit(journal.lines_file(record.tag), record.tag)
            journal.write(msgspec.structs.replace(record, status="submitted", job=job))

        say = self._manager.on_message
        for tries in range(1, _TRIES + 1):
            try:
                await uninterrupted(submit)
            except RateLimitError as error:
                # turned away, so the provider does not have it
                wait_s = error.retry_after_s or _BASE_S * 2**tries
                if tries == _TRIES or wait_s > _LONGEST_WAIT_S:
                    self._drop(record, str(error))
                    later = f"; it asks for a wait of {duration(wait_s)}: run the same command later"
                    raise PermanentError(f"{error}{later if wait_s > _LONGEST_WAIT_S else ''}") from error
                say(f"{error}; batch {record.tag} is submitted again in {duration(wait_s)}")
                await self._manager.clock.sleep(wait_s)
            except TransientError as error:
                say(f"{backend.name}: batch {record.tag} may or may not have arrived ({error})")
                return
            except CallError as error:
                self._drop(record, str(error))
                raise PermanentError(str(error)) from error
            else:
                say(f"{backend.name}: batch {record.tag} is submitted, {record.requests:,} requests")
                return

    def _drop(self, record: BatchRecord, reason: str) -> None:
        self.stopped, self.has_turned_away = reason, True
        self._manager.journal.write(msgspec.structs.replace(record, status="dropped"))
        self._reservation.settle(record.tag, 0.0)
