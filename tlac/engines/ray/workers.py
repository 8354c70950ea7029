"""What runs in the workers: `Stage1Worker` asks about samples, `Stage2Worker` the stage-2 questions that were put off.

Both take and give tables (see tlac.engines.ray.tables), a batch at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tlac.cache.serialization import StoredAnswer, is_stored
from tlac.config.registry import open_lmm
from tlac.config.schemas import Backend
from tlac.engines.ray.job import (
    MOST_DEATHS,
    SHARD,
    RayJob,
    SerializedError,
    WorkersEncoder,
    at_address,
    serialize_error,
)
from tlac.engines.ray.limiter import AdmittedLMM, WorkerClient, keeping, seek_garbage_less_often
from tlac.engines.ray.logs import AnswerLog, logs_in, read_log
from tlac.engines.ray.tables import Choice, chosen_table, read_choices, read_samples, turns_table
from tlac.errors import CallError, PermanentError, SampleError, TlacError
from tlac.evaluation.collect import collect_into
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.evaluation.run_config import class_finder, plan_questions
from tlac.hashing import response_key
from tlac.interfaces import LMM
from tlac.lmms.middleware.retry import RetryingLMM
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse, Outcome, Transcript, Turn

FoundT = TypeVar("FoundT")
ItemT = TypeVar("ItemT")


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
        self._in_flight: dict[str, asyncio.Future[LMMResponse]] = {}

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The known response, or a fresh one, which is on disk before this returns. Raises CallError."""
        key = response_key(request)
        if key in self._known:
            return self._known[key]
        if key in self._in_flight:
            return await asyncio.shield(self._in_flight[key])
        answered = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            response = await self._find_or_ask(key, request)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                answered.cancel()
            else:
                answered.set_exception(error)
                # it is nobody's fault where no other waits
                answered.exception()
            raise
        answered.set_result(response)
        return response

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

        token = keeping.set(keep)
        try:
            if self._refusal:
                raise SampleError(self._refusal)
            response = await self._lmm.ask(request)
        except CallError as error:
            await self._log.keep_failure(key, serialize_error(error))
            raise
        finally:
            keeping.reset(token)
        return kept[-1] if kept else response


class _Worker:
    """LMMs that are opened once, and a log for each batch."""

    def __init__(self, job: RayJob, limiter: Any, reader: Any) -> None:
        import ray

        seek_garbage_less_often()
        self._job = job
        self._client = WorkerClient(limiter, reader, ray.get_runtime_context().get_actor_id())
        self._lmms: dict[str, LMM] = {}
        self._finder = class_finder(job.config, WorkersEncoder(job.config.encoder, job.config.fingerprint))
        aio.run(self._client.register())

    def _run_batch(
        self,
        batch: str,
        work: Callable[[TwoStagePrompter, AnswerLog, Attempt], Awaitable[FoundT]],
        put_off: dict[str, Choice] | None = None,
    ) -> FoundT | None:
        """What `work` finds by the questions of a batch; what earlier attempts at it have logged is known.

        None after an error that concerns every question: it is told to the limiter, and stops the whole run.
        """

        async def run() -> FoundT | None:
            await self._client.take_shard()
            try:
                attempt = Attempt(self._job.logs, batch, self._job.concurrency)
                if attempt.number:
                    self._client.tell(f"Ray: a worker died, and starts again ({attempt.number} times at this shard)")
                log = AnswerLog(self._job.logs / f"{batch}-{attempt.number:04d}-{secrets.token_hex(4)}.jsonl")
                try:
                    return await work(self._prompter(log, attempt, put_off), log, attempt)
                finally:
                    await log.close()
            except TlacError as error:
                self._client.stop(error)
                return None
            finally:
                await self._client.drain()

        return aio.run(run())

    def _prompter(self, log: AnswerLog, attempt: Attempt, put_off: dict[str, Choice] | None) -> TwoStagePrompter:
        opened: dict[str, BoundLMM] = {}

        def bound_lmm(backend: Backend) -> BoundLMM:
            if backend.digest not in opened:
                name = (backend.name, backend.digest)
                lmm = LoggedLMM(self._lmm(backend), name, self._client, log, attempt, put_off)
                opened[backend.digest] = BoundLMM(backend, lmm)
            return opened[backend.digest]

        return plan_questions(self._job.config, bound_lmm, self._finder)

    def _lmm(self, backend: Backend) -> LMM:
        if backend.digest not in self._lmms:
            lmm = open_lmm(at_address(backend, self._job.addresses.get(backend.digest)))
            admitted = AdmittedLMM(lmm, backend.digest, self._client)
            self._lmms[backend.digest] = RetryingLMM(admitted, self._job.policy)
        return self._lmms[backend.digest]


class Stage1Worker(_Worker):
    """Asks a method's questions about each sample in the files that a table lists."""

    def __call__(self, table: Any) -> Any:
        """The table of what was said; no row where nobody could be asked."""
        files = table[SHARD].to_pylist()
        put_off: dict[str, Choice] = {}

        async def ask(
            prompter: TwoStagePrompter, log: AnswerLog, attempt: Attempt
        ) -> tuple[Sequence[int], Sequence[Transcript]]:
            if attempt.is_lost:
                await log.keep_failure(files[0], SerializedError(SampleError.__name__, attempt.refusal))
                return (), ()
            # here, not above: what comes after the attempt's log counts as its death
            positions, samples, _ = read_samples(files)
            method = self._job.config.asking_method
            taken = attempt.ordered(samples)
            found: list[Transcript] = []
            stopped = await collect_into(found.append, taken, prompter, method, attempt.concurrency, self._client)
            if stopped is not None:
                self._client.stop(PermanentError(stopped))
            for sample, transcript in zip(taken, found, strict=True):
                is_unread = transcript.failure == "sample" and not transcript.image_sha256
                if is_unread and isinstance(sample.source, Path):
                    # no request, and so no key: the driver, which sees the image perhaps, knows it by its path
                    await log.keep_failure(str(sample.source), SerializedError(SampleError.__name__, transcript.reason))
            return positions, attempt.ordered(found)

        positions, transcripts = (self._run_batch(_name_batch("a", files), ask, put_off) if files else None) or ((), ())
        return turns_table(positions, transcripts, put_off)


class Stage2Worker(_Worker):
    """Asks the choices in the files that a table lists."""

    def __call__(self, table: Any) -> Any:
        """The table of what was chosen, where there is an answer."""
        files = table[SHARD].to_pylist()

        async def ask(prompter: TwoStagePrompter, _log: AnswerLog, attempt: Attempt) -> Mapping[str, Turn]:
            prompters = {one.stage2.backend.digest: one for one in (*prompter.ensemble, prompter)}
            chosen: dict[str, Turn] = {}
            pending = iter(attempt.ordered(list(read_choices(files).items())))

            async def work() -> None:
                for key, choice in pending:
                    try:
                        chosen[key] = await prompters[choice.backend].ask_stage2(choice.answer, choice.candidates)
                    except CallError:
                        # logged with its reason
                        continue

            await asyncio.gather(*(work() for _ in range(attempt.concurrency)))
            return chosen

        return chosen_table((self._run_batch(_name_batch("b", files), ask) if files else None) or {})


def _name_batch(kind: str, members: Iterable[object]) -> str:
    """The same name for the same batch, in whichever worker it is tried."""
    return kind + hashlib.sha256(repr(list(members)).encode()).hexdigest()[:24]
