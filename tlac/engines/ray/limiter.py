"""One cost cap and one set of rate limits for all workers together.

Holds the same middleware that a single process has around its adapter; in the adapter's place stands the worker that
was let through, until it tells how its call ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tlac.config.schemas import Backend
from tlac.engines.ray.errors import SerializedError, serialize_error
from tlac.errors import CallError, PermanentError, TlacError
from tlac.interfaces import LMM
from tlac.lmms.middleware.retry import AbortOnRepeatedError
from tlac.lmms.middleware.stack import CallPolicy, build_shared_stack
from tlac.types import LMMRequest, LMMResponse


@dataclass(frozen=True, slots=True)
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
    messages: tuple[str, ...] = ()
    stopped: SerializedError | None = None

    @property
    def gains(self) -> tuple[int, int, int]:
        """What grows for as long as work is done."""
        return self.shards, self.samples, self.calls


def _new_future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True)
class _Call:
    """A worker's call: waits to be admitted, then lasts until the worker tells how it ended."""

    worker: str
    admitted: asyncio.Future[None] = field(default_factory=_new_future)
    ended: asyncio.Future[LMMResponse] = field(default_factory=_new_future)


class _RemoteLMM:
    """Stands in an adapter's place inside the middleware. A request's `repeat` is the number of its call."""

    def __init__(self, calls: Mapping[int, _Call]) -> None:
        self._calls = calls
        self.listener: Callable[[Mapping[str, str]], None] | None = None

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        self.listener = listener

    async def ask(self, request: LMMRequest) -> LMMResponse:
        call = self._calls[request.repeat]
        call.admitted.set_result(None)
        return await call.ended


class Limiter:
    """Lets calls of any number of workers through, as budget and limits of `policy` and backends allow.

    `backends` stand under their digests. Raises ConfigError where a budget is set and a model's price is not known.
    """

    def __init__(self, backends: Mapping[str, Backend], policy: CallPolicy) -> None:
        self._budget = policy.budget
        self._messages: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._tasks: dict[int, asyncio.Task[LMMResponse]] = {}
        policy = replace(policy, on_message=self._messages.append)
        self._remotes = {digest: _RemoteLMM(self._calls) for digest in backends}
        self._stacks: dict[str, LMM] = {
            digest: AbortOnRepeatedError(build_shared_stack(self._remotes[digest], backend, policy))
            for digest, backend in backends.items()
        }
        self._count = self._samples = self._shards = 0
        self._stopped: SerializedError | None = None
        self._workers: set[str] = set()

    async def admit(self, worker: str, backend: str, request: LMMRequest) -> int | SerializedError:
        """The number of a call that may be made now, or why none may be made any more.

        `backend` is the backend's digest; of the request only its size and stage are looked at.
        """
        if self._stopped is not None:
            return self._stopped
        self._count += 1
        number = self._count
        call = self._calls[number] = _Call(worker)
        task = self._tasks[number] = asyncio.ensure_future(self._stacks[backend].ask(replace(request, repeat=number)))
        either: tuple[asyncio.Future[Any], ...] = (task, call.admitted)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if call.admitted.done():
            return number
        error = None
        # that is how it ends where the run was stopped meanwhile
        with suppress(asyncio.CancelledError):
            error = await self._finish(number)
        return error or self._stopped or SerializedError(TlacError.__name__, "the call was given up")

    async def settle(self, number: int, outcome: LMMResponse | SerializedError) -> SerializedError | None:
        """Tell how a call ended; gives the error that all limits together make of it, None for a response."""
        call = self._calls.get(number)
        if call is None:
            # of a worker that counted as dead
            return outcome if isinstance(outcome, SerializedError) else None
        if isinstance(outcome, SerializedError):
            call.ended.set_exception(outcome.to_error())
        else:
            call.ended.set_result(outcome)
        return await self._finish(number)

    async def register(self, worker: str) -> None:
        """A worker begins. The calls that its life before this one left open count with the most they may cost."""
        self._workers.add(worker)
        for number in [number for number, call in self._calls.items() if call.worker == worker]:
            self._tasks[number].cancel()
            with suppress(asyncio.CancelledError):
                await self._finish(number)

    async def take_shard(self) -> None:
        """Note that a worker takes up some work."""
        self._shards += 1

    async def note_headers(self, backend: str, headers: Mapping[str, str]) -> None:
        """Heed the rate limits in the headers of a response."""
        listener = self._remotes[backend].listener
        if listener is not None:
            listener(headers)

    async def stop(self, error: SerializedError) -> None:
        """Let no further call through, not even one that waits for its turn already."""
        self._stopped = self._stopped or error
        for number, call in self._calls.items():
            if not call.admitted.done():
                self._tasks[number].cancel()

    async def tell(self, message: str) -> None:
        """Pass a message on to the person who watches."""
        self._messages.append(message)

    async def advance(self, samples: int) -> None:
        """Note that so many more samples are done."""
        self._samples += samples

    async def progress(self) -> Progress:
        """How far the run is."""
        messages = tuple(self._messages)
        self._messages.clear()
        spent_usd = self._budget.spent_usd if self._budget else 0.0
        return Progress(
            len(self._workers), self._shards, self._samples, self._count, spent_usd, messages, self._stopped
        )

    async def _finish(self, number: int) -> SerializedError | None:
        try:
            await self._tasks[number]
        except TlacError as error:
            serialized = serialize_error(error)
            if isinstance(error, PermanentError) or not isinstance(error, CallError):
                await self.stop(serialized)
            return serialized
        finally:
            self._calls.pop(number, None)
            self._tasks.pop(number, None)
        return None
