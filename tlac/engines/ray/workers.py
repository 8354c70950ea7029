"""What runs in the workers: `Stage1Worker` asks about samples, `Stage2Worker` the stage-2 questions that were put off.

Both take and give tables (see tlac.engines.ray.tables), a batch at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tlac.config.registry import open_encoder, open_lmm
from tlac.config.schemas import Backend, EncoderConfig
from tlac.engines.ray.errors import SerializedError
from tlac.engines.ray.job import SHARD, RayJob, at_address
from tlac.engines.ray.logs import AnswerLog
from tlac.engines.ray.worker_models import AdmittedLMM, Attempt, Choice, LoggedLMM, WorkerClient
from tlac.errors import CallError, PermanentError, SampleError, TlacError
from tlac.evaluation.collect import collect_into
from tlac.evaluation.run_config import class_finder, plan_questions
from tlac.interfaces import LMM, TextEncoder
from tlac.lmms.middleware.retry import RetryingLMM
from tlac.methods.base import BoundLMM, TwoStagePrompter
from tlac.runtime import aio
from tlac.types import Encoding, Transcript, Turn

FoundT = TypeVar("FoundT")


class _LazyEncoder:
    """A text encoder that is opened when a method first needs it: most don't."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config

    @cached_property
    def _encoder(self) -> TextEncoder:
        return open_encoder(self._config)

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Encoding:
        return self._encoder.encode(texts)


class _Worker:
    """LMMs that are opened once, and a log for each batch."""

    def __init__(self, job: RayJob, limiter: Any, reader: Any) -> None:
        import ray

        self._job = job
        self._client = WorkerClient(limiter, reader, ray.get_runtime_context().get_actor_id())
        self._lmms: dict[str, LMM] = {}
        self._finder = class_finder(job.config, _LazyEncoder(job.config.encoder))
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

        async def with_log() -> FoundT:
            await self._client.take_shard()
            attempt = Attempt(self._job.logs, batch, self._job.concurrency)
            if attempt.number:
                self._client.tell(f"Ray: a worker died, and starts again ({attempt.number} times at this shard)")
            log = AnswerLog(self._job.logs / f"{batch}-{attempt.number:04d}-{secrets.token_hex(4)}.jsonl")
            try:
                return await work(self._prompter(log, attempt, put_off), log, attempt)
            finally:
                await self._client.drain()
                log.close()

        try:
            return aio.run(with_log())
        except TlacError as error:
            self._client.stop(error)
            return None
        finally:
            self._client.report()

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
            self._lmms[backend.digest] = RetryingLMM(admitted, self._job.retry)
        return self._lmms[backend.digest]


class Stage1Worker(_Worker):
    """Asks a method's questions about each sample in the files that a table lists."""

    def __call__(self, table: Any) -> Any:
        """The table of what was said; no row where nobody could be asked."""
        from tlac.engines.ray.tables import read_samples, turns_table

        files = table[SHARD].to_pylist()
        put_off: dict[str, Choice] = {}

        async def ask(
            prompter: TwoStagePrompter, log: AnswerLog, attempt: Attempt
        ) -> tuple[Sequence[int], Sequence[Transcript]]:
            if attempt.is_lost:
                await log.keep_failure(files[0], SerializedError(SampleError.__name__, attempt.refusal))
                return (), ()
            # here, not above: what comes after the attempt's log counts as its death
            positions, samples = read_samples(files)
            method = self._job.config.asking_method
            taken = attempt.ordered(samples)
            found: list[Transcript] = []
            stopped = await collect_into(found.append, taken, prompter, method, attempt.concurrency, self._client)
            if stopped is not None:
                self._client.stop(PermanentError(stopped))
            for sample, transcript in zip(taken, found, strict=True):
                failure, source = transcript.failure, sample.source
                if failure and failure.kind == "sample" and not transcript.image_sha256 and isinstance(source, Path):
                    # no request, and so no key: the driver, which sees the image perhaps, knows it by its path
                    await log.keep_failure(str(source), SerializedError(SampleError.__name__, failure.reason))
            return positions, attempt.ordered(found)

        positions, transcripts = (self._run_batch(_name_batch("a", files), ask, put_off) if files else None) or ((), ())
        return turns_table(positions, transcripts, put_off)


class Stage2Worker(_Worker):
    """Asks the choices that a table of turns still lacks, each distinct one once, and fills them in."""

    def __call__(self, table: Any) -> Any:
        """The table with choices, those that could be had."""
        from tlac.engines.ray.tables import fill_choices, read_choices

        wanted = read_choices(table)

        async def ask(prompter: TwoStagePrompter, _log: AnswerLog, attempt: Attempt) -> Mapping[str, Turn]:
            prompters = {one.stage2.backend.digest: one for one in (*prompter.ensemble, prompter)}
            chosen: dict[str, Turn] = {}
            pending = iter(attempt.ordered(list(wanted.items())))

            async def work() -> None:
                for key, choice in pending:
                    try:
                        chosen[key] = await prompters[choice.backend].ask_stage2(choice.answer, choice.candidates)
                    except CallError:
                        # logged with its reason
                        continue

            await asyncio.gather(*(work() for _ in range(attempt.concurrency)))
            return chosen

        chosen = self._run_batch(_name_batch("b", sorted(wanted)), ask) if wanted else {}
        return fill_choices(table, chosen or {})


def _name_batch(kind: str, members: Iterable[object]) -> str:
    """The same name for the same batch, in whichever worker it is tried."""
    return kind + hashlib.sha256(repr(list(members)).encode()).hexdigest()[:24]
