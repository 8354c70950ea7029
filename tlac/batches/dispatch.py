"""One round: takes what a run wants, fills batches with it and submits each as soon as it is full.

Every batch is written down before it is submitted. Does not wait for answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from tlac.batch_interface import BatchInterface
from tlac.batches.allowance import Allowance
from tlac.batches.desk import Desk, uninterrupted
from tlac.batches.spool import Spool
from tlac.config import Backend
from tlac.errors import CallError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.types import LMMRequest

_TRIES = 6
_BASE_S, _LONGEST_S = 10.0, 600.0


class Dispatch:
    """What is wanted in one round. To be used under the desk's `hold`.

    `wanted` are the keys that were asked for, `failed` says by key what can't be asked, `stopped` why nothing more
    is submitted.
    """

    def __init__(self, desk: Desk, allowance: Allowance, failed: dict[str, str], stopped: str | None) -> None:
        self.wanted: set[str] = set()
        self.failed = failed
        self.stopped = stopped
        self._desk = desk
        self._allowance = allowance
        self._pending = {
            line.key: record for record in desk.journal.open_records() for line in desk.journal.requests(record)
        }
        self._spools: dict[str, Spool] = {}
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
        interface = self._desk.interface(backend)
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

    def _spool(self, backend: Backend, interface: BatchInterface) -> Spool:
        if backend.digest not in self._spools:
            self._spools[backend.digest] = Spool(self._desk.journal, backend, interface)
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
        journal, interface = self._desk.journal, self._desk.interface(backend)
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
                self._desk.say(f"{error}; batch {record.tag} is handed in again in {wait_s:.0f} s")
                await self._desk.pacing.sleep(wait_s)
            except TransientError as error:
                self._desk.say(f"{backend.name}: batch {record.tag} may or may not have arrived ({error})")
                return
            except CallError as error:
                self._drop(record, str(error))
                raise PermanentError(str(error)) from error
            else:
                self._desk.say(f"{backend.name}: batch {record.tag} is submitted, {record.requests:,} requests")
                return

    def _drop(self, record: Any, reason: str) -> None:
        self.stopped = reason
        self._desk.journal.write(msgspec.structs.replace(record, status="dropped"))
        self._allowance.settle(record.tag, 0.0)
