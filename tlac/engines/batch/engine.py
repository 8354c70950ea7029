"""`--batch`: has the answers that a run lacks given through provider batches, in rounds: all stage 1, then all stage 2.

A round learns what is lacking by going through the run's questions, submits that, waits, and stores the answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

from tlac.cache.image_hashes import ImageDigests
from tlac.cache.store import Store
from tlac.config.schemas import Backend
from tlac.engines.batch.journal import BatchRecord
from tlac.engines.batch.manager import BatchManager
from tlac.engines.batch.submit import BatchSubmitter, CostReservation
from tlac.errors import CallError, MissingAnswersError, PermanentError, StoreError, TlacError, TransientError
from tlac.evaluation.collect import INTERRUPTED, collect
from tlac.evaluation.prompter import BoundLMM
from tlac.evaluation.run_config import RunConfig, plan_questions
from tlac.hashing import request_document, response_key
from tlac.interfaces import LMM, ClassFinder, UnknownBatchError, combination_of, second_sample_of
from tlac.lmms.middleware.cache import FetchedLMM
from tlac.lmms.middleware.policy import CallPolicy
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse, Outcome

_NOT_ASKED_YET = LMMResponse(Outcome.EMPTY, "", "not asked yet")
_FIRST_POLL_S, _LONGEST_POLL_S, _POLL_GROWTH = 15.0, 600.0, 1.5
# nothing was had of a batch for so long, and in so many rounds: a laptop that slept has seen one alone
_PATIENCE_S, _MOST_ROUNDS = 3600.0, 12
# a batch this old is past every provider's expiry, and there is nothing to wait for
_KEPT_S = 3 * 86_400.0
# rounds in a row whose batches never reached the provider
_MOST_LOST = 4

_Waited: TypeAlias = tuple[BatchRecord, frozenset[str]]


class CollectingLMM:
    """Reads a store, and tells `on_missing` the key, document and request of an answer that it lacks.

    Stored outcomes in `retry` count as lacking, unless `paid`. With `goes_on` a lacking answer is given as an empty
    one, so that a method whose questions about an image do not depend on one another asks all of them at once.
    """

    def __init__(
        self,
        store: Store,
        on_missing: Callable[[str, dict[str, Any], LMMRequest], Awaitable[None]],
        retry: Collection[Outcome],
        paid: Collection[str],
        goes_on: bool = False,
    ) -> None:
        self._store = store
        self._on_missing = on_missing
        self._retry = frozenset(retry)
        self._paid = paid
        self._goes_on = goes_on

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The stored response. Raises MissingAnswersError, and what stands against asking for it."""
        key = response_key(request)
        stored = self._store.get_response(key)
        if stored is not None and (stored.outcome not in self._retry or key in self._paid):
            return stored
        await self._on_missing(key, request_document(request), request)
        if self._goes_on:
            return _NOT_ASKED_YET
        raise MissingAnswersError(f"the {request.stage} answer from {request.model} is not there yet")


class BatchEngine:
    """Asks through provider batches. `retry` are stored outcomes that are asked again."""

    def __init__(self, store: Store, policy: CallPolicy, retry: Collection[Outcome] = ()) -> None:
        self.paid: set[str] = set()
        self._store = store
        self._policy = policy
        self._retry = retry
        self._manager = BatchManager(store, policy.clock, policy.on_message)
        self._reservation = CostReservation(policy.budget)
        self._failed: dict[str, str] = {}
        self._stopped: str | None = None
        self._has_turned_away = False
        self._given_up: set[str] = set()

    def rest(self, backend: Backend) -> LMM:
        """See `Engine`. Raises UsageError where the backend has no batch interface."""
        self._manager.interface(backend)
        self._reservation.check(backend)
        return FetchedLMM(partial(self._explain_missing, backend.name))

    @contextmanager
    def fetch(self, config: RunConfig, finder: ClassFinder) -> Iterator[str | None]:
        """See `Engine`."""
        try:
            aio.run(self._fetch(config, finder))
            # what stopped an earlier run of the command is no fault of one that lacks nothing
            stopped = self._stopped if self._has_turned_away else None
        except KeyboardInterrupt:
            self._policy.on_message("what is submitted stays so: the same command, or `tlac batch resume`, goes on")
            stopped = self._stopped = INTERRUPTED
        except CallError as error:
            # the run is written all the same, and says why it is not complete
            stopped = self._stopped = str(error)
        yield stopped

    def _explain_missing(self, backend: str, request: LMMRequest) -> LMMResponse:
        # of an interrupted run, batches may be under way
        why = f": {self._stopped.removeprefix(f'{backend}: ')}" if self._stopped else ""
        reason = self._failed.get(response_key(request), f"no batch brought this answer{why}")
        raise CallError(f"{backend}: {reason.removeprefix(f'{backend}: ')}")

    async def _fetch(self, config: RunConfig, finder: ClassFinder) -> None:
        await self._catch_up()
        lost = 0
        while waiting := await self._round(config, finder):
            lost = 0 if await self._wait(waiting) else lost + 1
            if lost >= _MOST_LOST:
                raise TransientError(f"{waiting[0][0].backend}: no batch arrives at the provider; run this again later")

    async def _catch_up(self) -> None:
        """Store what came in since an earlier command ended: its answers were not asked for by this one."""
        for record in self._manager.journal.open_records():
            try:
                await self._manager.advance(record)
            except StoreError:
                raise
            except TlacError as error:
                # of another backend, perhaps: its requests count as under way
                self._policy.on_message(f"{record.backend}: batch {record.tag}: {error}")

    async def _round(self, config: RunConfig, finder: ClassFinder) -> list[_Waited]:
        """Submit what is lacking; the batches that the run has to wait for, with their keys."""
        async with self._manager.hold():
            submitter = BatchSubmitter(self._manager, self._reservation, self._failed, self._stopped)
            try:
                await self._collect_missing(config, finder, submitter)
            finally:
                submitter.discard()
                self._stopped, self._has_turned_away = submitter.stopped, submitter.has_turned_away
            journal = self._manager.journal
            under_way = [
                (record, frozenset(line.key for line in journal.requests(record))) for record in journal.open_records()
            ]
            return [
                (record, keys)
                for record, keys in under_way
                if keys & submitter.wanted and record.tag not in self._given_up
            ]

    async def _collect_missing(self, config: RunConfig, finder: ClassFinder, submitter: BatchSubmitter) -> None:
        method = config.asking_method
        # neither the members of one prediction nor a second sample depend on one another
        is_independent = combination_of(method) != "first" or bool(second_sample_of(method))
        goes_on = is_independent and not getattr(method, "is_sequential", False)
        backends: dict[str, Backend] = {}

        def bound_lmm(backend: Backend) -> BoundLMM:
            backends[backend.digest] = backend
            add = partial(submitter.add, backend)
            return BoundLMM(backend, CollectingLMM(self._store, add, self._retry, self.paid, goes_on))

        prompter = plan_questions(config, bound_lmm, finder)
        concurrency = self._policy.concurrency or prompter.stage1.backend.spec.limits.concurrency
        digests = ImageDigests(self._store.path, config.dataset.name)
        samples = config.samples
        try:
            _, stopped = await collect(samples, prompter, method, concurrency, identify=digests.identify)
        finally:
            digests.save()
        if stopped is None:
            # why a batch is refused stands in `submitter.stopped`; those under way are waited for all the same
            with suppress(PermanentError):
                await submitter.finish(list(backends.values()))

    async def _wait(self, waiting: list[_Waited]) -> bool:
        """Until each of these batches is closed, or nothing was had of it for long; whether any had arrived."""
        has_arrived = False
        interval_s, now = _FIRST_POLL_S, self._policy.clock.now
        left = {record.tag: (record, keys) for record, keys in waiting}
        # since when, and in how many rounds, nothing was had of a batch
        troubled: dict[str, tuple[float, int]] = {}
        while True:
            for tag, (record, keys) in list(left.items()):
                found, reason = await self._advance(record)
                if not found.is_open:
                    self._note_closed(found, keys)
                    has_arrived = has_arrived or found.status == "collected"
                    del left[tag]
                elif reason:
                    since_s, rounds = troubled.get(tag, (now(), 0))
                    troubled[tag] = since_s, rounds + 1
                    if found.age_s < _KEPT_S and (rounds < _MOST_ROUNDS or now() - since_s < _PATIENCE_S):
                        self._policy.on_message(f"{reason}; asking again")
                        continue
                    self._give_up(found, keys, reason)
                    has_arrived = True
                    del left[tag]
                else:
                    troubled.pop(tag, None)
            if not left:
                return has_arrived
            await self._policy.clock.sleep(interval_s)
            interval_s = min(_LONGEST_POLL_S, interval_s * _POLL_GROWTH)

    async def _advance(self, record: BatchRecord) -> tuple[BatchRecord, str]:
        """The record after one look at a batch, and why nothing was had of it."""
        try:
            found, status = await self._manager.advance(record)
        except (TransientError, UnknownBatchError) as error:
            return record, str(error)
        if status is None:
            return found, ""
        name = f"{record.backend}: batch {record.tag}"
        if found.is_open and status.reason:
            return found, f"{name}: {status.reason}"
        self._policy.on_message(f"{name}: {record.requests:,} requests, {status.state}")
        return found, ""

    def _give_up(self, record: BatchRecord, keys: frozenset[str], reason: str) -> None:
        """Wait for a batch no longer. It stays open, so that nothing is paid twice unless the user says so."""
        remedy = f"`tlac batch resume` looks again, `tlac batch forget {record.tag}` gives it up"
        self._policy.on_message(f"{reason}; it is not waited for any longer: {remedy}")
        self._given_up.add(record.tag)
        self.paid |= {key for key in keys if self._store.get_response(key) is not None}
        self._failed.update(dict.fromkeys(keys - self.paid, f"{reason}; {remedy}"))

    def _note_closed(self, closed: BatchRecord, keys: frozenset[str]) -> None:
        if closed.status == "collected":
            self.paid |= keys - set(closed.failed)
        self._failed.update(closed.failed)
        # an answer whose cost is not known may have cost what was set aside
        spent_usd = closed.highest_cost_usd if closed.cost_usd is None and closed.answered else closed.cost_usd
        self._reservation.settle(closed.tag, spent_usd or 0.0)
