"""Keep every response in the store, and never ask the same question twice; concurrent duplicates wait, also those of
other processes that use the same store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Container
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from msgspec.structs import replace

from tlac.cache.serialization import MAX_ANSWER_CHARACTERS, StoredAnswer
from tlac.cache.store import Store
from tlac.errors import MissingAnswersError, SampleError, StoreError, TlacError
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.lmms.served import is_of_served, request_before
from tlac.types import LMMRequest, LMMResponse, Outcome

_FIRST_WAIT_S, _LONGEST_WAIT_S, _GIVE_UP_S = 0.02, 0.5, 900.0


class StoredLMM:
    """Wraps an LMM with a store. `backend` is the name that its answers are listed under.

    Stored responses whose outcome is in `retry` are asked for again, once per
    StoredLMM. Those under keys in `paid` were asked for by this run already, elsewhere: they count as fresh.
    """

    def __init__(
        self, lmm: LMM, store: Store, backend: str, retry: Collection[Outcome] = (), paid: Container[str] = ()
    ) -> None:
        self._lmm = lmm
        self._store = store
        self._backend = backend
        self._retry = frozenset(retry)
        self._paid = paid
        self._retried: set[str] = set()
        self._is_writable = False
        self._unwritten: dict[str, StoredAnswer] = {}
        self._turn = asyncio.Lock()
        self._written: set[str] = set()
        self._in_flight: dict[str, asyncio.Task[LMMResponse]] = {}
        # writes leave the event loop: one waits up to seconds for another process's lock
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tlac-store")

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Return the stored response, or a fresh one, which is stored before this returns."""
        key = response_key(request)
        stored = self._store.get_response(key) or await self._adopt(request)
        if stored is not None and key in self._paid:
            return replace(stored, from_store=False)
        if stored is not None and (stored.outcome not in self._retry or key in self._retried):
            return stored
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.ensure_future(self._ask_alone(key, request, stored))
            self._in_flight[key] = task
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))
        # shielded: one waiter that is cancelled must not cost the others a call that is already paid for
        return await asyncio.shield(task)

    async def _adopt(self, request: LMMRequest) -> LMMResponse | None:
        """The answer that was kept before keys held what a server serves, where it is of that; kept anew."""
        before = request_before(request)
        stored = self._store.get_response(response_key(before)) if before is not None else None
        if stored is None or not is_of_served(stored, request):
            return None
        # a store that can't be written replays it all the same
        with suppress(StoreError):
            await self._keep(StoredAnswer.of(request, stored, self._backend))
        return stored

    async def finish(self) -> None:
        """Wait for the calls in flight, and store their answers. When cancelled, the calls are given up.

        Raises StoreError where an answer could not be stored: nobody else waits for it. A call that fails brings no
        answer, and so loses none.
        """
        tasks = list(self._in_flight.values())
        # gather passes a cancellation on to the calls, which ends them
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, StoreError):
                raise result

    async def _ask_alone(self, key: str, request: LMMRequest, seen: LMMResponse | None) -> LMMResponse:
        """Ask, unless another process that uses the store asks just that: then wait for its answer."""
        loop, wait_s = asyncio.get_running_loop(), _FIRST_WAIT_S
        give_up_at = loop.time() + _GIVE_UP_S
        # a process that was halted would hold its claim for ever
        while not self._store.claim(key) and loop.time() < give_up_at:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        try:
            stored = self._store.get_response(key)
            # another process may have been done between our look and our claim
            if stored is not None and stored != seen:
                return stored
            return await self._ask_and_keep(key, request)
        finally:
            self._store.release(key)

    async def _ask_and_keep(self, key: str, request: LMMRequest) -> LMMResponse:
        loop = asyncio.get_running_loop()
        if any(len(part.text) > MAX_ANSWER_CHARACTERS for part in request.texts):
            raise SampleError(
                f"a question of over {MAX_ANSWER_CHARACTERS:,} characters can't be kept, and is not asked: "
                "give fewer classes, or a method with a shortlist"
            )
        if not self._is_writable:
            await loop.run_in_executor(self._writer, self._store.require_writable)
            self._is_writable = True
        response = await self._lmm.ask(request)
        if response.from_store:
            # a pack's answer: replaying a pack does not import it
            return response
        # as it is kept, so that a later run is told the same
        answer = StoredAnswer.of(request, response, self._backend)
        try:
            await self._keep(answer)
        except StoreError:
            # checked again before the next call is paid for
            self._is_writable = False
            raise
        self._retried.add(key)
        return answer.response

    async def _keep(self, answer: StoredAnswer) -> None:
        """Write an answer; it is on disk when this returns.

        Answers that come while others are written share one transaction, which costs five times as much as a row, and
        one change of thread.
        """
        loop = asyncio.get_running_loop()
        self._unwritten[answer.key] = answer
        async with self._turn:
            if answer.key in self._unwritten:
                answers, self._unwritten = list(self._unwritten.values()), {}
                await loop.run_in_executor(self._writer, self._write, answers)
        if answer.key in self._written:
            self._written.discard(answer.key)
        else:
            # one answer of the shared transaction was refused, and so none was written: each is written by itself
            await loop.run_in_executor(self._writer, self._store.put_entries, [answer])

    def _write(self, answers: list[StoredAnswer]) -> None:
        """Write all or none; runs on the writer's thread alone."""
        with suppress(TlacError):
            self._store.put_entries(answers)
            self._written.update(answer.key for answer in answers)


class OfflineLMM:
    """An LMM that can't be asked: what --offline puts in place of a backend's."""

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Raise MissingAnswersError, always."""
        raise MissingAnswersError(
            f"the store has no {request.stage} answer from {request.model}; without --offline it would be asked"
        )


class FetchedLMM:
    """Stands in a backend's place when an engine has fetched what could be had: gives that, or the error it met."""

    def __init__(self, recall: Callable[[LMMRequest], LMMResponse]) -> None:
        self._recall = recall

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The answer that was fetched. Raises CallError saying why there is none."""
        return self._recall(request)
