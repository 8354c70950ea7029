"""Looks after batches under way: looks for those that may have arrived, asks how far they are, stores results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import structs

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.destinations import is_this_machine
from tlac.config.files import list_names
from tlac.config.registry import open_batch_interface
from tlac.config.schemas import Backend, load_backend
from tlac.engines.batch.journal import BatchRecord, Journal, RequestLine
from tlac.errors import ConfigError, PermanentError, StoreError
from tlac.interfaces import BatchInterface, BatchStatus, UndecidedError, UnknownBatchError
from tlac.lmms.middleware.policy import Clock, OnMessage, say_nothing
from tlac.types import LMMResponse, Usage

ResultT = TypeVar("ResultT")
# a provider lists a batch some moments after it took it
_LISTED_AFTER_S = 60.0
_LOCK_WAIT_S = 5.0
_AT_ONCE = 500
# providers close a batch some time after its expiry
_GRACE = timedelta(hours=1)


class BatchManager:
    """A store's batches, and the interfaces that they went to."""

    def __init__(self, store: Store, clock: Clock | None = None, on_message: OnMessage = say_nothing) -> None:
        self.journal = Journal(store.path)
        self.on_message = on_message
        self.clock = clock or Clock()
        self._store = store
        self._interfaces: dict[str, BatchInterface] = {}

    def interface(self, backend: Backend) -> BatchInterface:
        """The backend's batch interface, opened once. Raises UsageError, ConfigError."""
        if backend.digest not in self._interfaces:
            self._interfaces[backend.digest] = open_batch_interface(backend)
        return self._interfaces[backend.digest]

    def _interface_of(self, record: BatchRecord) -> BatchInterface:
        """The interface that a batch went to. Raises as `interface` does, and ConfigError for a foreign address."""
        backend = record.as_backend
        # what this command was given may be asked anywhere; a record may be anybody's work, and would be told the key
        if backend.digest not in self._interfaces and not _is_known_address(backend):
            raise ConfigError(
                f"batch {record.tag} is said to be at {backend.spec.api_base}, where no backend {backend.name!r} of "
                "yours is: run the `tlac bench --batch` again that submitted it"
            )
        return self.interface(backend)

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold the store's batches against other processes."""
        has_said = False
        while (lock := self.journal.try_lock()) is None:
            if not has_said:
                self.on_message("another tlac command is working on the batches of this store; waiting for it")
                has_said = True
            await self.clock.sleep(_LOCK_WAIT_S)
        try:
            yield
        finally:
            lock.release()

    async def settle(self, record: BatchRecord) -> BatchRecord:
        """Find out whether the provider has a batch that was to be submitted. To be called under `hold`.

        The record stays "submitting" where that can't be known yet. Raises CallError.
        """
        if record.status != "submitting":
            return record
        if record.age_s < _LISTED_AFTER_S:
            self.on_message(
                f"{record.backend}: batch {record.tag} may have reached the provider; it is looked for in a minute"
            )
            await self.clock.sleep(_LISTED_AFTER_S - record.age_s)
        others = {other.job for other in self.journal.records() if other.job is not None}
        custom_ids = {line.custom_id for line in self.journal.requests(record)}
        wanted = (record.tag, record.created_at, custom_ids, others)
        try:
            job = await uninterrupted(lambda: self._interface_of(record).find(*wanted))
        except UndecidedError as error:
            self.on_message(str(error))
            return record
        if job is None:
            settled = msgspec.structs.replace(record, status="dropped", closed_at=_now())
            self.on_message(
                f"{record.backend}: batch {record.tag} never reached the provider; its requests are asked anew"
            )
        else:
            settled = msgspec.structs.replace(record, status="submitted", job=job)
        self.journal.write(settled)
        return settled

    async def ask(self, record: BatchRecord) -> BatchStatus:
        """How far a batch is; the `reason` of one that is past its expiry says so. Raises CallError."""
        if record.job is None:
            return BatchStatus("not found yet" if record.is_open else record.status, not record.is_open)
        job = record.job
        status = await uninterrupted(lambda: self._interface_of(record).status(job))
        return status if status.is_over else replace(status, reason=_overdue(status))

    async def advance(self, record: BatchRecord) -> tuple[BatchRecord, BatchStatus | None]:
        """Look after one batch: find it, store its answers if it is over. The record as it is then, and how far it is.

        The `reason` of a status says why a batch stays open though it is over, or should be. Another process may have
        closed it. Raises CallError, StoreError.
        """
        record = self.journal.refresh(record)
        if record.status == "submitting":
            async with self.hold():
                record = await self.settle(self.journal.refresh(record))
        if record.status != "submitted":
            return record, None
        status = await self.ask(record)
        if status.is_over:
            async with self.hold():
                record = self.journal.refresh(record)
                if record.is_open:
                    return await uninterrupted(partial(self._collect, record, status))
        return record, status

    async def cancel(self, record: BatchRecord) -> tuple[BatchRecord, BatchStatus | None]:
        """Have the rest of a batch not answered; what was answered is still to be collected. The record as it is then,
        and how far the batch was. Under `hold`.

        A batch that is over stays as it is; one that the provider does not know, or whose requests are lost, is given
        up. Raises CallError, and UndecidedError where it is not known yet whether the provider has the batch.
        """
        record, status = self.journal.refresh(record), None
        try:
            record = await self.settle(record)
            job = record.job
            if not record.is_open:
                return record, None
            if job is None:
                raise UndecidedError(f"batch {record.tag} is not found at the provider yet: cancel it later")
            status = await self.ask(record)
            if not status.is_over:
                status = await self._cancel(record, job, status)
            for _ in self.journal.requests(record):
                pass
        except (UnknownBatchError, StoreError) as error:
            self.on_message(f"{record.backend}: batch {record.tag} is given up: {error}")
            record = msgspec.structs.replace(record, status="dropped", closed_at=_now())
            self.journal.write(record)
        return record, status

    async def _cancel(self, record: BatchRecord, job: str, status: BatchStatus) -> BatchStatus:
        try:
            await uninterrupted(lambda: self._interface_of(record).cancel(job))
        except PermanentError:
            # it may have come to its end since it was asked
            status = await self.ask(record)
            if not status.is_over:
                raise
        return status

    async def forget(self, record: BatchRecord) -> str:
        """Close a batch without its answers, so that its requests can be asked anew; says what it may have cost.

        Nothing is asked of the provider. To be called under `hold`.
        """
        record = self.journal.refresh(record)
        if not record.is_open:
            return f"{record.status} already"
        stored = 0
        # requests that can't be read are one reason to forget a batch
        with suppress(StoreError):
            stored = sum(self._store.get_response(line.key) is not None for line in self.journal.requests(record))
        self.journal.write(msgspec.structs.replace(record, status="dropped", closed_at=_now()))
        cost = "" if record.highest_cost_usd is None else f", at most {record.highest_cost_usd:.4f} USD"
        return (
            f"forgotten; the provider may have billed its {record.requests:,} requests{cost}; {stored:,} have an "
            "answer in the store, and the same tlac bench asks the others anew"
        )

    def _collect(self, record: BatchRecord, status: BatchStatus) -> tuple[BatchRecord, BatchStatus]:
        """Store the answers of a batch that is over, and close it, unless the provider has promised more than it gave.

        May be repeated. Raises CallError, StoreError; whatever was read before is stored.
        """
        assert record.job is not None
        # as text: a class list in ten thousand requests fills the memory
        requests = {line.custom_id: msgspec.json.encode(line) for line in self.journal.requests(record)}
        costs: dict[str, float | None] = {}
        failures: dict[str, str] = {}
        unread: list[str] = []
        answers: list[StoredAnswer] = []
        try:
            for result in self._interface_of(record).results(record.job):
                if not result.custom_id:
                    unread.append(result.reason)
                elif result.custom_id not in requests or result.custom_id in costs:
                    # not ours, or answered already: the first answer counts
                    continue
                elif result.response is None:
                    failures[result.custom_id] = result.reason
                else:
                    failures.pop(result.custom_id, None)
                    costs[result.custom_id] = _cost_usd(result.response)
                    answers.append(_stored(requests[result.custom_id], result.response, record.backend))
                if len(answers) == _AT_ONCE:
                    self._store.put_entries(answers)
                    answers = []
        finally:
            self._store.put_entries(answers)
        told = len(costs) + len(failures) + len(unread)
        promised = record.requests if status.results is None else min(status.results, record.requests)
        if told < promised:
            reason = f"the batch is {status.state}, and {told:,} of the {promised:,} results that it counts are there"
            return record, replace(status, reason=reason)
        missing = status.reason or next(iter(unread), f"the batch is {status.state} and holds no result")
        known = [cost for cost in costs.values() if cost is not None]
        closed = msgspec.structs.replace(
            record,
            status="collected",
            closed_at=_now(),
            answered=len(costs),
            cost_usd=max(0.0, sum(known)) if len(known) == len(costs) else None,
            failed={
                _request_line(text).key: failures.get(custom_id, missing)
                for custom_id, text in requests.items()
                if custom_id not in costs
            },
        )
        self.journal.write(closed)
        return closed, status


def _overdue(status: BatchStatus) -> str:
    if status.expires_at is None or datetime.now(timezone.utc) < status.expires_at + _GRACE:
        return ""
    return f"the batch is {status.state}, though the provider was to be done by {status.expires_at:%Y-%m-%d %H:%M} UTC"


def _is_known_address(backend: Backend) -> bool:
    address = backend.spec.api_base
    if address is None:
        return True
    if is_this_machine(address):
        return True
    # a name, never the path of a file that somebody chose
    if backend.name not in list_names("backend"):
        return False
    with suppress(ConfigError):
        known = load_backend(backend.name)
        return known.spec.api_base == address and known.stranger is None
    return False


def _request_line(text: bytes) -> RequestLine:
    return msgspec.json.decode(text, type=RequestLine)


def _stored(text: bytes, response: LMMResponse, backend: str) -> StoredAnswer:
    line = _request_line(text)
    return StoredAnswer(line.key, line.request, structs.replace(response, created_at=_now()), backend)


def _cost_usd(response: LMMResponse) -> float | None:
    # some refusals come without a count of tokens, and are not billed
    return 0.0 if response.usage == Usage() else response.cost_usd


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


async def uninterrupted(call: Callable[[], ResultT]) -> ResultT:
    """Run a blocking call in a thread, and wait for its end even when cancelled: what it does must be written down."""
    task = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
