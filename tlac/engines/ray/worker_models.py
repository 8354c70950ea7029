"""A worker's side of a call: what is known already is not asked, the limiter is heeded, the answer is logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from tlac.cache.serialization import StoredAnswer, is_stored
from tlac.engines.ray.errors import SerializedError, serialize_error
from tlac.engines.ray.job import MOST_DEATHS
from tlac.engines.ray.limiter import Block, Told
from tlac.engines.ray.logs import AnswerLog, logs_in, read_log
from tlac.errors import CallError, SampleError, TlacError
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.lmms.middleware.budget import highest_usage
from tlac.lmms.middleware.rate_limit import read_rate_headers
from tlac.lmms.middleware.stack import TellsHeaders
from tlac.types import LMMRequest, LMMResponse, Outcome, Transcript

_REPORT_EVERY_S = 1.0
# a place that is free waits half of a block's time, on average: one call in eighty of what could be in flight
_BLOCK_SHARE, _LONGEST_BLOCK_S = 1 / 40, 0.05
# writes the answer to the call that is being made; a call is in flight until that is done
_keeping: ContextVar[Callable[[LMMResponse], Awaitable[None]] | None] = ContextVar("keeping", default=None)

ItemT = TypeVar("ItemT")


class WorkerClient:
    """A worker's connection to the actors that limit calls and read the store for all workers.

    Permits are asked for and given back in blocks: what comes while a call takes a fortieth of its time goes in one
    message. One message is always out while a call is open, and so tells that this worker lives.
    """

    def __init__(self, limiter: Any, reader: Any, worker: str) -> None:
        self._limiter = limiter
        self._reader = reader
        self._worker = worker
        self._number = 0
        self._block = Block()
        # calls of which the limiter is still to tell something, and since when those are made that have a permit
        self._untold: dict[int, asyncio.Future[SerializedError | None]] = {}
        self._made_at: dict[int, float] = {}
        self._trades: set[asyncio.Task[None]] = set()
        self._due: asyncio.TimerHandle | None = None
        self._latency_s = 0.0
        self._broken: Exception | None = None
        self._waiting: dict[str, asyncio.Future[LMMResponse | None]] = {}
        self._lock = asyncio.Lock()
        self._samples, self._told_at = 0, time.monotonic()

    async def register(self) -> None:
        """Say that this worker begins, perhaps again."""
        self._number = await self._limiter.register.remote(self._worker)

    async def admit(self, backend: str, request: LMMRequest) -> int:
        """The number of a call that may be made now. Raises why none may be made any more."""
        self._number += 1
        number = self._number
        self._block.wanted.append((number, backend, request.stage, highest_usage(request)))
        try:
            error = await self._hear(number)
        except asyncio.CancelledError:
            self._block.unspent.append(number)
            self._send_soon()
            raise
        if error is not None:
            raise error.to_error()
        self._made_at[number] = asyncio.get_running_loop().time()
        return number

    def settle(self, number: int, response: LMMResponse) -> None:
        """Tell how a call ended, without waiting."""
        latency_s = asyncio.get_running_loop().time() - self._made_at.pop(number)
        self._latency_s += (latency_s - self._latency_s) / 8
        self._block.answered.append((number, structs.replace(response, text="", reason="")))
        self._send_soon()

    async def fail(self, number: int, error: TlacError) -> TlacError:
        """Tell that a call failed; gives the error that all limits together make of it."""
        del self._made_at[number]
        self._block.failed.append((number, serialize_error(error)))
        decided = await self._hear(number)
        return decided.to_error() if decided is not None else error

    def give_up(self, number: int) -> None:
        """Tell that a call was given up in its midst: it counts with the most that it may cost."""
        del self._made_at[number]
        self._block.lost.append(number)
        self._send_soon()

    def note_headers(self, backend: str, headers: Mapping[str, str]) -> None:
        """Have the limiter heed the rate limits in a response's headers; of a block, those that leave the least."""
        kept = self._block.headers
        found, before = read_rate_headers(headers), read_rate_headers(kept.get(backend, {}))
        if found is not None and (before is None or found[0] <= before[0]):
            kept[backend] = dict(headers)

    async def drain(self) -> None:
        """Wait until the limiter knows of all that has ended. Raises what Ray raises where it is gone."""
        while self._broken is None and (self._block != Block() or self._trades):
            if self._block != Block():
                self._send()
            await asyncio.wait(self._trades)
        if self._broken is not None:
            raise self._broken

    async def take_shard(self) -> None:
        """As Limiter.take_shard."""
        await self._limiter.take_shard.remote()

    def stop(self, error: TlacError) -> None:
        """Have nobody ask any more."""
        self._limiter.stop.remote(serialize_error(error))

    def tell(self, message: str) -> None:
        """Have the driver tell the person who watches."""
        self._limiter.tell.remote(message)

    def advance(self, _transcript: Transcript | None = None) -> None:
        """One more sample is done; the limiter is told now and then."""
        self._samples += 1
        if time.monotonic() - self._told_at > _REPORT_EVERY_S:
            self.report()

    def report(self) -> None:
        """Tell the limiter how many samples are done since the last time."""
        if self._samples:
            self._limiter.advance.remote(self._samples)
        self._samples, self._told_at = 0, time.monotonic()

    async def find(self, key: str) -> LMMResponse | None:
        """The stored response under a key that need not be asked for, None where there is none.

        Keys that come while the reader is being asked wait, and are asked about together.
        """
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            async with self._lock:
                await self._find_waiting()
        return await future

    async def _find_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        try:
            found: Mapping[str, LMMResponse] = await self._reader.find.remote(list(waiting))
        except BaseException as error:
            for future in waiting.values():
                future.cancel(str(error))
            raise
        for key, future in waiting.items():
            future.set_result(found.get(key))

    async def _hear(self, number: int) -> SerializedError | None:
        if self._broken is not None:
            raise self._broken
        future: asyncio.Future[SerializedError | None] = asyncio.get_running_loop().create_future()
        self._untold[number] = future
        self._send_soon()
        try:
            return await future
        finally:
            self._untold.pop(number, None)

    def _send_soon(self) -> None:
        if self._due is None:
            wait_s = min(_LONGEST_BLOCK_S, self._latency_s * _BLOCK_SHARE)
            self._due = asyncio.get_running_loop().call_later(wait_s, self._send)

    def _send(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        block, self._block = self._block, Block()
        trade = asyncio.ensure_future(self._trade(block))
        self._trades.add(trade)
        trade.add_done_callback(self._trades.discard)

    async def _trade(self, block: Block) -> None:
        try:
            told: Sequence[Told] = await self._limiter.trade.remote(self._worker, block.encoded())
        except Exception as error:  # noqa: BLE001 - whatever Ray raises where the limiter is gone
            self._broken = error
            for future in self._untold.values():
                if not future.done():
                    future.set_exception(error)
            return
        for number, decided in told:
            waits = self._untold.get(number)
            if waits is not None and not waits.done():
                waits.set_result(decided)
        if len(self._trades) > 1 or self._due is not None or not (self._untold or self._made_at):
            return
        if len(self._made_at) * _BLOCK_SHARE < 1:
            self._send()
        else:
            # a call will have ended by then
            self._send_soon()


class AdmittedLMM:
    """Wraps an adapter; each call waits until the limiter lets it through, and tells it how it ended.

    `backend` is the backend's digest.
    """

    def __init__(self, lmm: LMM, backend: str, client: WorkerClient) -> None:
        self._lmm = lmm
        self._backend = backend
        self._client = client
        if isinstance(lmm, TellsHeaders):
            lmm.listen(partial(client.note_headers, backend))

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The adapter's response. Raises the error that the limits of the whole cluster make of the adapter's."""
        number = await self._client.admit(self._backend, request)
        try:
            response = await self._lmm.ask(request)
        except TlacError as error:
            decided = await self._client.fail(number, error)
            if not isinstance(error, CallError):
                raise
            raise decided from error
        except BaseException:
            self._client.give_up(number)
            raise
        try:
            # its place is given back once its answer is on disk: so a death costs no more calls than are let through
            if keep := _keeping.get():
                await keep(response)
        finally:
            self._client.settle(number, response)
        return response


@dataclass(frozen=True, slots=True)
class Choice:
    """A stage-2 question that is put off: the answer, the classes that may be chosen, the backend's digest."""

    answer: str
    candidates: tuple[int, ...] | None
    backend: str


class Attempt:
    """One attempt at a batch. `number` counts the earlier ones, in which the worker died; `known` are their answers.

    Each asks half as many questions at a time as the one before, and from the other end: so what kills the worker costs
    few calls, and the others are answered. After three deaths without a new answer, `refusal` says so, and nothing more
    is asked. Where the worker dies all the same, an image kills it as soon as it is read: `is_lost`, and none is.
    """

    def __init__(self, logs: Path, batch: str, concurrency: int) -> None:
        self.known: dict[str, LMMResponse] = {}
        paths = logs_in(logs, batch)
        # in a row, without a line: an attempt that ended in order leaves no empty log
        deaths = 0
        for path in paths:
            lines = list(read_log(path))
            deaths = 0 if lines else deaths + 1
            self.known.update((kept.key, kept.response) for kept in lines if isinstance(kept, StoredAnswer))
        self.number = len(paths)
        self.concurrency = max(1, concurrency >> self.number)
        is_given_up = deaths >= MOST_DEATHS
        self.is_lost = deaths > MOST_DEATHS
        self.refusal = f"the worker died {MOST_DEATHS} times here; is its memory too small?" if is_given_up else ""

    def ordered(self, items: Sequence[ItemT]) -> Sequence[ItemT]:
        """The items in the order in which this attempt takes them; the same call puts what came of them in order."""
        return items[::-1] if self.number % 2 else items


class LoggedLMM:
    """Wraps an LMM for one batch: asks what nobody knows, and logs it. Concurrent duplicates wait for the first.

    `backend` is the backend's name and digest. What earlier attempts have logged is known; after a `refusal` nothing
    more is asked. With `put_off`, a stage-2 question that is about words alone is noted there under its key and
    answered with no words: it is to be asked once for the whole cluster.
    """

    def __init__(
        self,
        lmm: LMM,
        backend: tuple[str, str],
        client: WorkerClient,
        log: AnswerLog,
        attempt: Attempt,
        put_off: dict[str, Choice] | None = None,
    ) -> None:
        self._lmm = lmm
        self._name, self._digest = backend
        self._client = client
        self._log = log
        self._known = attempt.known
        self._refusal = attempt.refusal
        self._put_off = put_off
        self._in_flight: dict[str, asyncio.Task[LMMResponse]] = {}

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The known response, or a fresh one, which is on disk before this returns. Raises CallError."""
        key = response_key(request)
        if key in self._known:
            return self._known[key]
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.ensure_future(self._find_or_ask(key, request))
            self._in_flight[key] = task
        return await asyncio.shield(task)

    async def _find_or_ask(self, key: str, request: LMMRequest) -> LMMResponse:
        stored = await self._client.find(key)
        if stored is not None:
            return stored
        choice = request.choice
        if self._put_off is not None and choice is not None and not request.images:
            self._put_off[key] = Choice(choice.answer, choice.candidates, self._digest)
            return LMMResponse(Outcome.ANSWERED, "")
        kept: list[LMMResponse] = []

        async def keep(response: LMMResponse) -> None:
            if is_stored(response) and not response.from_store:
                answer = StoredAnswer.of(request, response, self._name)
                await self._log.keep(answer)
                kept.append(answer.response)

        # this task is the call's own
        _keeping.set(keep)
        try:
            if self._refusal:
                raise SampleError(self._refusal)
            response = await self._lmm.ask(request)
        except CallError as error:
            await self._log.keep_failure(key, serialize_error(error))
            raise
        return kept[-1] if kept else response
