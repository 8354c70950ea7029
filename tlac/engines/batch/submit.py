"""One round: takes what a run wants, fills batches with it and submits each as soon as it is full.

Every batch is written down before it is submitted. Does not wait for answers.
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
from tlac.types import LMMRequest


class CostReservation:
    """What may still be submitted under a budget; without one, everything."""

    def __init__(self, budget: Budget | None) -> None:
        self._budget = budget
        # what is set aside in the budget by batch, and what batches of earlier commands may still cost
        self._held: dict[str, float] = {}
        self._adopted: dict[str, float] = {}

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
            committed = budget.committed_usd + sum(self._adopted.values())
            if committed + amount_usd > budget.cap_usd:
                raise PermanentError(
                    f"the budget of {budget.cap_usd:g} USD is used up ({budget.spent_usd:.4f} spent, "
                    f"{committed - budget.spent_usd:.4f} set aside for batches under way, the next request may cost "
                    f"{amount_usd:.4f}); a higher --max-cost continues the run"
                )
            await budget.reserve(amount_usd)
        return amount_usd

    def release(self, amount_usd: float | None) -> None:
        """A request that was not submitted after all."""
        if self._budget is not None and amount_usd is not None:
            self._budget.settle(amount_usd, 0.0)

    def hold(self, record: BatchRecord) -> None:
        """A batch whose requests were reserved is about to be submitted."""
        self._held[record.tag] = record.highest_cost_usd or 0.0

    def adopt(self, record: BatchRecord) -> None:
        """A batch that an earlier command submitted is waited for by this one, and counts against its budget."""
        if record.tag not in self._held:
            self._adopted[record.tag] = record.highest_cost_usd or 0.0

    def settle(self, tag: str, spent_usd: float) -> None:
        """A batch is closed: what it cost takes the place of what it might have cost."""
        held_usd = self._held.pop(tag, 0.0)
        self._adopted.pop(tag, None)
        if self._budget is not None:
            self._budget.settle(held_usd, spent_usd)


# with the mark: 8 + 1 + 40 characters, of the 64 that every provider takes
_KEY_CHARACTERS = 40


class BatchFile:
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


_TRIES = 6
_BASE_S, _LONGEST_S = 10.0, 600.0


class BatchSubmitter:
    """What is wanted in one round. To be used under the desk's `hold`.

    `wanted` are the keys that were asked for, `failed` says by key what can't be asked, `stopped` why nothing more
    is submitted.
    """

    def __init__(
        self, manager: BatchManager, allowance: CostReservation, failed: dict[str, str], stopped: str | None
    ) -> None:
        self.wanted: set[str] = set()
        self.failed = failed
        self.stopped = stopped
        self._manager = manager
        self._allowance = allowance
        self._pending = {
            line.key: record for record in manager.journal.open_records() for line in manager.journal.requests(record)
        }
        self._spools: dict[str, BatchFile] = {}
        self._lock = asyncio.Lock()

    async def want(self, backend: Backend, key: str, document: dict[str, Any], request: LMMRequest) -> None:
        """Take a request in, unless it is under way, has failed, or nothing more may be submitted.

        Raises SampleError, ConfigError for a request that can't be made, PermanentError where a batch is refused.
        """
        if key in self.wanted:
            return
        self.wanted.add(key)
        if key in self._pending:
            self._allowance.adopt(self._pending[key])
            return
        if key in self.failed or self.stopped is not None:
            return
        interface = self._manager.interface(backend)
        try:
            amount_usd = await self._allowance.reserve(request, backend, interface)
        except PermanentError as error:
            self.stopped = str(error)
            return
        try:
            body = await interface.form(request)
        except BaseException as error:
            self._allowance.release(amount_usd)
            if isinstance(error, SampleError):
                self.failed[key] = str(error)
            raise
        async with self._lock:
            await self._take(backend, interface, key, document, body, amount_usd)

    async def _take(
        self,
        backend: Backend,
        interface: BatchInterface,
        key: str,
        document: dict[str, Any],
        body: bytes,
        amount_usd: float | None,
    ) -> None:
        spool = self._spool(backend, interface)
        custom_id, line = spool.line(key, body)
        if len(line) > interface.limits.size_bytes:
            self._allowance.release(amount_usd)
            self.failed[key] = f"the request is larger than the {interface.limits.size_bytes:,} bytes of a whole batch"
            return
        if not spool.has_room(line):
            await self._submit(backend)
            spool = self._spool(backend, interface)
            custom_id, line = spool.line(key, body)
        spool.add(custom_id, line, key, document)
        if amount_usd is not None:
            spool.reserve(amount_usd)

    def _spool(self, backend: Backend, interface: BatchInterface) -> BatchFile:
        if backend.digest not in self._spools:
            self._spools[backend.digest] = BatchFile(self._manager.journal, backend, interface)
        return self._spools[backend.digest]

    async def finish(self, backends: list[Backend]) -> None:
        """Submit what is left of these backends'. Raises PermanentError."""
        for backend in backends:
            if backend.digest in self._spools:
                await self._submit(backend)

    def give_up(self) -> None:
        """Close the files of batches that were never full; they are swept away."""
        for spool in self._spools.values():
            spool.give_up()

    async def _submit(self, backend: Backend) -> None:
        record = self._spools.pop(backend.digest).close()
        if not record.requests:
            return
        journal, interface = self._manager.journal, self._manager.interface(backend)
        self._allowance.hold(record)

        def submit() -> None:
            # a thread's work, so that no interrupt comes between the provider's word and ours
            journal.write(record)
            job = interface.submit(journal.lines_file(record.tag), record.tag)
            journal.write(msgspec.structs.replace(record, status="submitted", job=job))

        for tries in range(1, _TRIES + 1):
            try:
                await uninterrupted(submit)
            except RateLimitError as error:
                # turned away, so the provider does not have it
                wait_s = error.retry_after_s or min(_LONGEST_S, _BASE_S * 2**tries)
                if tries == _TRIES:
                    self._drop(record, str(error))
                    raise PermanentError(self.stopped or "") from error
                self._manager.on_message(f"{error}; batch {record.tag} is handed in again in {wait_s:.0f} s")
                await self._manager.clock.sleep(wait_s)
            except TransientError as error:
                self._manager.on_message(f"{backend.name}: batch {record.tag} may or may not have arrived ({error})")
                return
            except CallError as error:
                self._drop(record, str(error))
                raise PermanentError(str(error)) from error
            else:
                self._manager.on_message(
                    f"{backend.name}: batch {record.tag} is submitted, {record.requests:,} requests"
                )
                return

    def _drop(self, record: Any, reason: str) -> None:
        self.stopped = reason
        self._manager.journal.write(msgspec.structs.replace(record, status="dropped"))
        self._allowance.settle(record.tag, 0.0)
