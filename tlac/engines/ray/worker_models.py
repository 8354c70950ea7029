"""A worker's side of a call: what is known already is not asked, the limiter is heeded, the answer is logged.

Does not know samples or methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tlac.cache.serialization import StoredAnswer, is_stored
from tlac.engines.ray.errors import Fault, fault_of
from tlac.engines.ray.logs import AnswerLog, LoggedFailure
from tlac.errors import CallError, TlacError
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.lmms.middleware.rate_limit import read_rate_headers
from tlac.lmms.middleware.stack import TellsHeaders
from tlac.types import Image, ImagePart, LMMRequest, LMMResponse, Message, Outcome


class Line(Protocol):
    """A worker's connection to the limiter and to the store's reader; see tlac.engines.ray.limiter and .reading."""

    async def admit(self, backend: str, request: LMMRequest) -> int | Fault:
        """As Limiter.admit."""
        ...

    async def settle(self, number: int, ended: LMMResponse | Fault) -> Fault | None:
        """As Limiter.settle."""
        ...

    def hear(self, backend: str, headers: Mapping[str, str]) -> None:
        """As Limiter.hear, without waiting."""
        ...

    async def find(self, key: str) -> LMMResponse | None:
        """The stored response under a key that need not be asked for, None where there is none."""
        ...


class AdmittedLMM:
    """Wraps an adapter; each call waits until the limiter lets it through, and tells it how it ended.

    `backend` is the backend's digest.
    """

    def __init__(self, lmm: LMM, backend: str, line: Line) -> None:
        self._lmm = lmm
        self._backend = backend
        self._line = line
        if isinstance(lmm, TellsHeaders):
            lmm.listen(self._hear)

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The adapter's response. Raises the error that the limits of the whole cluster make of the adapter's."""
        admitted = await self._line.admit(self._backend, without_images(request))
        if isinstance(admitted, Fault):
            raise admitted.to_error()
        try:
            response = await self._lmm.ask(request)
        except TlacError as error:
            verdict = await self._line.settle(admitted, fault_of(error))
            if not isinstance(error, CallError) or verdict is None:
                raise
            raise verdict.to_error() from error
        await self._line.settle(admitted, replace(response, text="", reason=""))
        return response

    def _hear(self, headers: Mapping[str, str]) -> None:
        if read_rate_headers(headers) is not None:
            self._line.hear(self._backend, headers)


def without_images(request: LMMRequest) -> LMMRequest:
    """A request with nothing in its images' place: as large in tokens, and light to send."""
    empty = ImagePart(Image("", b""))
    messages = tuple(
        Message(message.role, tuple(empty if isinstance(part, ImagePart) else part for part in message.parts))
        for message in request.messages
    )
    return replace(request, messages=messages, choice=None)


@dataclass(frozen=True, slots=True)
class Choice:
    """A stage-2 question that is put off: the answer, the classes that may be chosen, the backend's digest."""

    answer: str
    candidates: tuple[int, ...] | None
    backend: str


class LoggedLMM:
    """Wraps an LMM for one batch: asks what nobody knows, and logs it. Concurrent duplicates wait for the first.

    `known` are answers that an earlier attempt at the batch has logged. With `put_off`, a stage-2 question that is
    about words alone is noted there under its key and answered with no words: it is to be asked once for the
    whole cluster.
    """

    def __init__(
        self,
        lmm: LMM,
        backend: tuple[str, str],
        line: Line,
        log: AnswerLog,
        known: Mapping[str, LMMResponse],
        put_off: dict[str, Choice] | None = None,
    ) -> None:
        self._lmm = lmm
        self._name, self._digest = backend
        self._line = line
        self._log = log
        self._known = known
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
        stored = await self._line.find(key)
        if stored is not None:
            return stored
        choice = request.choice
        if self._put_off is not None and choice is not None and not _shows_image(request):
            self._put_off[key] = Choice(choice.answer, choice.candidates, self._digest)
            return LMMResponse(Outcome.ANSWERED, "")
        try:
            response = await self._lmm.ask(request)
        except CallError as error:
            await self._log.keep_failure(LoggedFailure(key, fault_of(error)))
            raise
        if is_stored(response) and not response.from_store:
            answer = StoredAnswer.of(request, response, self._name)
            await self._log.keep(answer)
            return answer.response
        return response


def _shows_image(request: LMMRequest) -> bool:
    return any(isinstance(part, ImagePart) for message in request.messages for part in message.parts)


class Lookup:
    """Asks for many keys in one go: those that come while an earlier question is under way wait for the next."""

    def __init__(self, find: Any) -> None:
        """`find` gives an awaitable of the responses found under a list of keys."""
        self._find = find
        self._waiting: dict[str, asyncio.Future[LMMResponse | None]] = {}
        self._lock = asyncio.Lock()

    async def find(self, key: str) -> LMMResponse | None:
        """The response under a key, None where there is none."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            async with self._lock:
                await self._answer()
        return await future

    async def _answer(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        asked: Awaitable[Mapping[str, LMMResponse]] = self._find(list(waiting))
        try:
            found = await asked
        except BaseException as error:
            for future in waiting.values():
                future.cancel(str(error))
            raise
        for key, future in waiting.items():
            future.set_result(found.get(key))
