"""One cost cap and one set of rate limits for all workers together.

Holds the same middleware that a single process has around its adapter; in the adapter's place stands the worker that
was let through, until it tells how its call ended. A message between processes costs ten times what the middleware
does, so workers ask for permits and give them back in blocks; each permit is for one call, and limits hold to the call.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import msgspec
from msgspec import structs

from tlac.config.schemas import Backend
from tlac.engines.ray.job import SerializedError, serialize_error
from tlac.errors import CallError, PermanentError, TlacError, TransientError
from tlac.interfaces import LMM
from tlac.lmms.middleware.budget import highest_usage
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import read_rate_headers
from tlac.lmms.middleware.retry import AbortOnRepeatedError
from tlac.lmms.middleware.stack import TellsHeaders, build_shared_stack
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse, Stage, Transcript, Usage


class Block(msgspec.Struct):
    """What a worker tells at a time: of calls, by their numbers, and how far it is.

    `wanted` are calls that wait for a permit: their backend's digest, their stage, and the tokens that they may use.
    The others have ended: those that are `unspent` were not made, those that are `lost` were given up midway.
    `headers` of responses, by backend, may hold rate limits. So many `shards` were taken up, and `samples` done;
    `messages` are for the person who watches, and `stop` is why nothing more is to be asked.
    """

    wanted: list[tuple[int, str, Stage, Usage]] = []
    answered: list[tuple[int, LMMResponse]] = []
    failed: list[tuple[int, SerializedError]] = []
    unspent: list[int] = []
    lost: list[int] = []
    headers: dict[str, dict[str, str]] = {}
    shards: int = 0
    samples: int = 0
    messages: list[str] = []
    stop: SerializedError | None = None

    def encoded(self) -> bytes:
        """As it travels: a tenth of what pickling costs."""
        return msgspec.msgpack.encode(self)


Told: TypeAlias = "tuple[int, SerializedError | None]"
"""A call's number, and the error that all limits together make of it; None is its permit."""

_decode = msgspec.msgpack.Decoder(Block).decode
_LISTEN_S = 10.0
# a worker with open calls is heard of every _LISTEN_S
_LEASE_S = 60.0
# a place that is free waits half of a block's time, on average: one call in eighty of what could be in flight
_BLOCK_SHARE, _LONGEST_BLOCK_S = 1 / 40, 0.05
# writes the answer to the call that is being made; a call is in flight until that is done
keeping: ContextVar[Callable[[LMMResponse], Awaitable[None]] | None] = ContextVar("keeping", default=None)


@dataclass(slots=True)
class Progress:
    """How far a run is: samples, calls that were let through, USD spent by the whole command.

    `workers` have begun, and taken up `shards` of work. `messages` came since the last look. `stopped` is why nothing
    more is asked.
    """

    workers: int = 0
    shards: int = 0
    samples: int = 0
    calls: int = 0
    spent_usd: float = 0.0
    messages: list[str] = field(default_factory=list)
    stopped: SerializedError | None = None

    @property
    def gains(self) -> tuple[int, int, int]:
        """What grows for as long as work is done."""
        return self.shards, self.samples, self.calls


class _UnspentError(TlacError):
    """A permit that comes back: its call was not made."""


@dataclass(slots=True)
class _Call:
    """A worker's call: waits for its permit, then lasts until the worker tells how it ended."""

    worker: str
    usage: Usage
    ended: asyncio.Future[LMMResponse] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[LMMResponse] | None = None
    is_admitted: bool = False


@dataclass(slots=True)
class _Worker:
    """What a worker is to be told, how many of its calls are open, and when it was last heard of."""

    heard_at: float
    told: list[Told] = field(default_factory=list)
    open: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, number: int, error: SerializedError | None) -> None:
        self.told.append((number, error))
        self.news.set()


class _RemoteLMM:
    """Stands in an adapter's place inside the middleware. A request's `repeat` is the number of its call."""

    def __init__(self, calls: Mapping[int, _Call], admit: Callable[[int], None]) -> None:
        self._calls = calls
        self._admit = admit
        self.listener: Callable[[Mapping[str, str]], None] = lambda _headers: None

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        self.listener = listener

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self._admit(request.repeat)
        return await self._calls[request.repeat].ended


class Limiter:
    """Lets calls of any number of workers through, as budget and limits of `policy` and backends allow.

    `backends` stand under their digests. Raises ConfigError where a budget is set and a model's price is not known.
    """

    def __init__(self, backends: Mapping[str, Backend], policy: CallPolicy) -> None:
        self._budget = policy.budget
        self._clock = policy.clock
        self._now = Progress()
        self._calls: dict[int, _Call] = {}
        policy = replace(policy, on_message=self._now.messages.append)
        self._remotes = {digest: _RemoteLMM(self._calls, self._admit) for digest in backends}
        self._stacks: dict[str, LMM] = {
            digest: AbortOnRepeatedError(
                build_shared_stack(self._remotes[digest], backend, policy, lambda one: self._calls[one.repeat].usage)
            )
            for digest, backend in backends.items()
        }
        self._lives = 0
        self._workers: dict[str, _Worker] = {}

    async def register(self, worker: str) -> int:
        """A worker begins; the numbers of its calls are above the one that this gives.

        The calls that its life before this one left open count with the most they may cost.
        """
        await self._end_calls(worker)
        self._workers[worker] = _Worker(self._clock.now())
        self._lives += 1
        return self._lives << 40

    async def trade(self, worker: str, block: bytes) -> list[Told]:
        """Take a worker's block, and give what there is to tell of any of its calls.

        Waits until there is something, or nothing is open; at most for 10 s, or until the worker's next trade.
        """
        here, told = self._workers[worker], _decode(block)
        here.heard_at = self._clock.now()
        # an earlier trade that waits comes back
        here.news.set()
        self._now.shards += told.shards
        self._now.samples += told.samples
        self._now.messages += told.messages
        if told.stop is not None:
            self._stop(told.stop)
        for backend, found in told.headers.items():
            self._remotes[backend].listener(found)
        for number, backend, stage, usage in told.wanted:
            self._begin(number, worker, usage, self._stacks[backend], LMMRequest(stage, "", (), repeat=number))
        for number, response in told.answered:
            if call := self._open(number):
                call.ended.set_result(response)
        for number, error in told.failed:
            if call := self._open(number):
                call.ended.set_exception(error.to_error())
            else:
                # its worker counted as dead meanwhile
                here.tell(number, error)
        for number in (*told.unspent, *told.lost):
            self._give_up(number, is_made=number not in told.unspent)
        if not here.told and here.open:
            here.news.clear()
            timer = asyncio.get_running_loop().call_later(_LISTEN_S, here.news.set)
            await here.news.wait()
            timer.cancel()
        tell, here.told = here.told, []
        return tell

    async def stop(self, error: SerializedError) -> None:
        """Let no further call through, not even one that waits for its turn already."""
        self._stop(error)

    async def progress(self) -> Progress:
        """How far the run is. Ends the calls of workers that were not heard of for a minute: they count as dead."""
        for worker, here in list(self._workers.items()):
            if here.open and self._clock.now() - here.heard_at > _LEASE_S:
                await self._end_calls(worker)
        self._now.workers = len(self._workers)
        self._now.spent_usd = self._budget.spent_usd if self._budget else 0.0
        found = replace(self._now, messages=self._now.messages.copy())
        self._now.messages.clear()
        return found

    def _admit(self, number: int) -> None:
        call = self._calls[number]
        call.is_admitted = True
        self._now.calls += 1
        self._workers[call.worker].tell(number, None)

    def _begin(self, number: int, worker: str, usage: Usage, stack: LMM, request: LMMRequest) -> None:
        here = self._workers[worker]
        if self._now.stopped is not None:
            here.tell(number, self._now.stopped)
            return
        call = self._calls[number] = _Call(worker, usage)
        here.open += 1
        call.task = asyncio.ensure_future(stack.ask(request))
        call.task.add_done_callback(partial(self._finish, number))

    def _open(self, number: int) -> _Call | None:
        call = self._calls.get(number)
        return call if call is not None and not call.ended.done() else None

    def _give_up(self, number: int, *, is_made: bool) -> None:
        call = self._open(number)
        if call is not None and call.is_admitted and not is_made:
            self._now.calls -= 1
            call.ended.set_exception(_UnspentError)
        elif call is not None and call.task is not None:
            call.task.cancel()

    async def _end_calls(self, worker: str) -> None:
        tasks = [call.task for call in self._calls.values() if call.worker == worker and call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop(self, error: SerializedError) -> None:
        self._now.stopped = self._now.stopped or error
        for call in self._calls.values():
            if call.task is not None and not call.is_admitted:
                call.task.cancel()

    def _finish(self, number: int, task: asyncio.Task[LMMResponse]) -> None:
        call = self._calls.pop(number)
        here = self._workers[call.worker]
        here.open -= 1
        if not here.open:
            here.news.set()
        if task.cancelled():
            lost = SerializedError(TransientError.__name__, "nothing was heard of this worker for a minute")
            here.tell(number, self._now.stopped or lost)
        elif (error := task.exception()) is not None and not isinstance(error, _UnspentError):
            known = error if isinstance(error, TlacError) else TlacError(f"{type(error).__name__}: {error}")
            if isinstance(known, PermanentError) or not isinstance(known, CallError):
                self._stop(serialize_error(known))
            here.tell(number, serialize_error(known))


def seek_garbage_less_often() -> None:
    """For a process of ours with thousands of open calls: these are so many objects that looking through them took
    half of its time."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


class LimiterActor(Limiter):
    """A limiter in a process of its own."""

    def __init__(self, backends: Mapping[str, Backend], policy: CallPolicy) -> None:
        seek_garbage_less_often()
        super().__init__(backends, policy)


class WorkerClient:
    """A worker's connection to the actors that limit calls and read the store for all workers.

    Permits are asked for and given back in blocks: what comes while a call takes a fortieth of its time goes in one
    message. One message is always out while a call is open, and so tells that this worker lives.
    """

    def __init__(self, limiter: Any, reader: Any, worker: str) -> None:
        self._limiter = limiter
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
        self._stored = aio.Blocks[str, LMMResponse | None](reader.find.remote, self._block_s)

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
        """Note that some work is taken up, before anything is done that may cost this process its life."""
        self._block.shards += 1
        await self.drain()

    def stop(self, error: TlacError) -> None:
        """Have nobody ask any more."""
        self._block.stop = serialize_error(error)
        self._send_soon()

    def tell(self, message: str) -> None:
        """Have the driver tell the person who watches."""
        self._block.messages.append(message)

    def advance(self, _transcript: Transcript | None = None) -> None:
        """One more sample is done; the next block says so."""
        self._block.samples += 1

    async def find(self, key: str) -> LMMResponse | None:
        """The stored response under a key that need not be asked for, None where there is none.

        Keys that come while a block is gathered, or the reader is being asked, are asked about together.
        """
        return await self._stored.ask(key)

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
            self._due = asyncio.get_running_loop().call_later(self._block_s(), self._send)

    def _block_s(self) -> float:
        """How long a block is gathered."""
        return min(_LONGEST_BLOCK_S, self._latency_s * _BLOCK_SHARE)

    def _send(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        block, self._block = self._block, Block()
        self._trades.add(asyncio.ensure_future(self._trade(block)))

    async def _trade(self, block: Block) -> None:
        try:
            told: Sequence[Told] = await self._limiter.trade.remote(self._worker, block.encoded())
        except Exception as error:  # noqa: BLE001 - whatever Ray raises where the limiter is gone
            self._broken = error
            for future in self._untold.values():
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            # here, not when the task is over: its end is noticed a moment later
            self._trades -= {asyncio.current_task()}
        for number, decided in told:
            waits = self._untold.get(number)
            if waits is not None and not waits.done():
                waits.set_result(decided)
        if self._trades or self._due is not None or not (self._untold or self._made_at):
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
            if keep := keeping.get():
                await keep(response)
        finally:
            self._client.settle(number, response)
        return response
