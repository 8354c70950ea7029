"""One cost cap and one set of rate limits for all workers together.

Holds the same wrappers that a single process has around its adapter; in the adapter's place stands the worker that
was let through, until it tells what came of its call. Does not know Ray, nor any provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tlac.config.schemas import Backend
from tlac.engines.ray.errors import Fault, fault_of
from tlac.errors import CallError, PermanentError, TlacError
from tlac.interfaces import LMM
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.circuit_breaker import BreakerPolicy
from tlac.lmms.middleware.clock import Clock
from tlac.lmms.middleware.retry import AbortOnRepeatedError
from tlac.lmms.middleware.stack import CallPolicy, restrain
from tlac.types import LMMRequest, LMMResponse


@dataclass(frozen=True, slots=True)
class Terms:
    """What of the command's Care holds for all workers: the cap on cost and what of it is spent already, calls in
    flight in place of the backends' own number, and when a provider counts as down."""

    cap_usd: float | None = None
    spent_usd: float = 0.0
    concurrency: int | None = None
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: samples, calls that were let through, USD spent by the whole command.

    `lines` are for the person who watches, since the last look. `stopped` is why nothing more is asked.
    """

    samples: int = 0
    calls: int = 0
    spent_usd: float = 0.0
    lines: tuple[str, ...] = ()
    stopped: Fault | None = None


@dataclass(slots=True)
class _Ticket:
    worker: str
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: asyncio.Future[LMMResponse] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Absent:
    """Stands in an adapter's place: a call lasts until the worker that makes it tells how it ended."""

    def __init__(self, tickets: Mapping[int, _Ticket]) -> None:
        self._tickets = tickets
        self.listener: Callable[[Mapping[str, str]], None] | None = None

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        self.listener = listener

    async def ask(self, request: LMMRequest) -> LMMResponse:
        ticket = self._tickets[request.repeat]
        ticket.admitted.set_result(None)
        return await ticket.ended


class Limiter:
    """Lets calls of any number of workers through, as budget and limits allow. `backends` stand under the digests that
    the workers know them by.

    Raises ConfigError where a budget is set and a model's price is not known.
    """

    def __init__(self, backends: Mapping[str, Backend], terms: Terms, clock: Clock | None = None) -> None:
        self._budget = Budget(float("inf") if terms.cap_usd is None else terms.cap_usd)
        self._budget.spent_usd = terms.spent_usd
        self._lines: list[str] = []
        self._tickets: dict[int, _Ticket] = {}
        self._calls: dict[int, asyncio.Task[LMMResponse]] = {}
        policy = CallPolicy(
            None if terms.cap_usd is None else self._budget,
            terms.concurrency,
            self._lines.append,
            breaker=terms.breaker,
            clock=clock or Clock(),
        )
        self._absent = {digest: _Absent(self._tickets) for digest in backends}
        self._chains: dict[str, LMM] = {
            digest: AbortOnRepeatedError(restrain(self._absent[digest], backend, policy))
            for digest, backend in backends.items()
        }
        self._count = self._samples = 0
        self._stopped: Fault | None = None

    async def admit(self, worker: str, backend: str, request: LMMRequest) -> int | Fault:
        """The number of a call that may be made now, or why none may be made any more.

        `backend` is the backend's digest; of the request only its size and stage are looked at.
        """
        if self._stopped is not None:
            return self._stopped
        self._count += 1
        number = self._count
        ticket = self._tickets[number] = _Ticket(worker)
        call = asyncio.ensure_future(self._chains[backend].ask(replace(request, repeat=number)))
        self._calls[number] = call
        either: tuple[asyncio.Future[Any], ...] = (call, ticket.admitted)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if ticket.admitted.done():
            return number
        fault = await self._end(number)
        return fault or Fault(TlacError.__name__, "the call was given up")

    async def settle(self, number: int, ended: LMMResponse | Fault) -> Fault | None:
        """Tell how a call ended; gives the error that all limits together make of it, None for a response."""
        ticket = self._tickets.get(number)
        if ticket is None:
            # of a worker that counted as dead
            return ended if isinstance(ended, Fault) else None
        if isinstance(ended, Fault):
            ticket.ended.set_exception(ended.to_error())
        else:
            ticket.ended.set_result(ended)
        return await self._end(number)

    async def enlist(self, worker: str) -> None:
        """A worker begins. What its life before this one left open counts as dear as it may have been."""
        left = [number for number, ticket in self._tickets.items() if ticket.worker == worker]
        for number in left:
            self._calls[number].cancel()
            with suppress(asyncio.CancelledError):
                await self._end(number)

    async def hear(self, backend: str, headers: Mapping[str, str]) -> None:
        """Heed the headers of a response."""
        listener = self._absent[backend].listener
        if listener is not None:
            listener(headers)

    async def halt(self, fault: Fault) -> None:
        """Let no further call through."""
        self._stopped = self._stopped or fault

    async def advance(self, samples: int) -> None:
        """So many more samples are done."""
        self._samples += samples

    async def progress(self) -> Progress:
        """How far the run is."""
        lines, calls = tuple(self._lines), self._count
        self._lines.clear()
        return Progress(self._samples, calls, self._budget.spent_usd, lines, self._stopped)

    async def _end(self, number: int) -> Fault | None:
        call = self._calls[number]
        try:
            await call
        except TlacError as error:
            fault = fault_of(error)
            if isinstance(error, PermanentError) or not isinstance(error, CallError):
                await self.halt(fault)
            return fault
        finally:
            self._tickets.pop(number, None)
            self._calls.pop(number, None)
        return None
