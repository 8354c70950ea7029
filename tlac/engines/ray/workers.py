"""What runs in the workers: `Stage1Worker` asks about samples, `Stage2Worker` asks the stage-2 questions that were
put off, each once.

Both take and give tables, a batch at a time. Does not know how tables are made or who hands them out.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tlac.cache.serialization import StoredAnswer
from tlac.config.method_options import open_method
from tlac.config.registry import open_encoder, open_lmm
from tlac.config.schemas import Backend, EncoderConfig
from tlac.engines.ray.errors import Fault, fault_of
from tlac.engines.ray.job import SHARD, RayJob
from tlac.engines.ray.logs import AnswerLog, logs_in, read_log
from tlac.engines.ray.worker_models import AdmittedLMM, Choice, LoggedLMM, Lookup
from tlac.errors import CallError, TlacError
from tlac.evaluation.collect import collect
from tlac.evaluation.run_config import build_prompter
from tlac.interfaces import LMM, TextEncoder
from tlac.lmms.middleware.retry import RetryingLMM
from tlac.methods.base import BoundLMM, NearestClassFinder, TwoStagePrompter
from tlac.runtime import aio
from tlac.scoring.scorer import Scorer
from tlac.types import Encoding, LMMRequest, LMMResponse, Sample, Transcript, Turn

_REPORT_EVERY_S = 1.0


class RayLine:
    """A worker's connection to the actors that limit and read for all of them; see `worker_models.Line`."""

    def __init__(self, limiter: Any, reader: Any, worker: str) -> None:
        self._limiter = limiter
        self._lookup = Lookup(reader.find.remote)
        self._worker = worker

    async def admit(self, backend: str, request: LMMRequest) -> int | Fault:
        """As Limiter.admit."""
        admitted: int | Fault = await self._limiter.admit.remote(self._worker, backend, request)
        return admitted

    async def settle(self, number: int, ended: LMMResponse | Fault) -> Fault | None:
        """As Limiter.settle."""
        verdict: Fault | None = await self._limiter.settle.remote(number, ended)
        return verdict

    def hear(self, backend: str, headers: Mapping[str, str]) -> None:
        """As Limiter.hear, without waiting."""
        self._limiter.hear.remote(backend, dict(headers))

    async def find(self, key: str) -> LMMResponse | None:
        """The stored response under a key."""
        return await self._lookup.find(key)

    def advance(self, samples: int) -> None:
        """Tell that so many more samples are done."""
        self._limiter.advance.remote(samples)

    def halt(self, error: TlacError) -> None:
        """Have nobody ask any more."""
        self._limiter.halt.remote(fault_of(error))

    async def enlist(self) -> None:
        """Say that this worker begins, perhaps again."""
        await self._limiter.enlist.remote(self._worker)


class _LateEncoder:
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


class WorkerClient:
    """What both kinds of worker stand on: LMMs that are opened once, and a log for each batch."""

    def __init__(self, order: RayJob, limiter: Any, reader: Any) -> None:
        import ray

        self.order = order
        self.line = RayLine(limiter, reader, ray.get_runtime_context().get_actor_id())
        self._lmms: dict[str, LMM] = {}
        self._proposer: NearestClassFinder | None = None
        aio.run(self.line.enlist())

    def begin(self, batch: str, puts_off: bool) -> _Batch:
        """Open a log for a batch; what earlier attempts at it have logged is known."""
        known: dict[str, LMMResponse] = {}
        for path in logs_in(self.order.logs, batch):
            known.update((kept.key, kept.response) for kept in read_log(path) if isinstance(kept, StoredAnswer))
        log = AnswerLog(self.order.logs / f"{batch}-{secrets.token_hex(4)}.jsonl")
        put_off: dict[str, Choice] = {}
        opened: dict[str, BoundLMM] = {}

        def bound_lmm(backend: Backend) -> BoundLMM:
            if backend.digest not in opened:
                who = (backend.name, backend.digest)
                lmm = LoggedLMM(self._lmm(backend), who, self.line, log, known, put_off if puts_off else None)
                opened[backend.digest] = BoundLMM(backend, lmm)
            return opened[backend.digest]

        try:
            prompter = build_prompter(self.order.spec, self.order.shown, bound_lmm, self._propose())
        except TlacError:
            log.close()
            raise
        return _Batch(prompter, log, put_off)

    def _lmm(self, backend: Backend) -> LMM:
        if backend.digest not in self._lmms:
            admitted = AdmittedLMM(open_lmm(backend), backend.digest, self.line)
            self._lmms[backend.digest] = RetryingLMM(admitted, self.order.retry)
        return self._lmms[backend.digest]

    def _propose(self) -> NearestClassFinder:
        if self._proposer is None:
            spec = self.order.spec
            shown = [spec.dataset.classes[place] for place in self.order.shown]
            scorer = Scorer(shown, _LateEncoder(spec.encoder), spec.rule, spec.template, spec.aliases)
            self._proposer = NearestClassFinder(scorer)
        return self._proposer


@dataclass(frozen=True, slots=True)
class _Batch:
    prompter: TwoStagePrompter
    log: AnswerLog
    put_off: dict[str, Choice]


@dataclass(slots=True)
class _Ticker:
    """Tells the limiter now and then how many samples are done."""

    line: RayLine
    _count: int = 0
    _told_at: float = field(default_factory=time.monotonic)

    def advance(self, _transcript: Transcript) -> None:
        self._count += 1
        if time.monotonic() - self._told_at > _REPORT_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self._count:
            self.line.advance(self._count)
        self._count, self._told_at = 0, time.monotonic()


class Stage1Worker:
    """Asks a method's questions about each sample in the files that a table lists; see tlac.engines.ray.tables."""

    def __init__(self, order: RayJob, limiter: Any, reader: Any) -> None:
        self._station = WorkerClient(order, limiter, reader)
        self._method = open_method(order.spec.method)

    def __call__(self, table: Any) -> Any:
        """The table of what was said. An error that concerns every sample stops the whole run, and is told there."""
        from tlac.engines.ray.tables import read_samples, turns_table

        positions, samples = read_samples(table[SHARD].to_pylist())
        if not samples:
            return turns_table([], [], {})
        transcripts: Sequence[Transcript] = ()
        put_off: dict[str, Choice] = {}
        ticker = _Ticker(self._station.line)
        try:
            batch = self._station.begin(_name_batch("a", positions), puts_off=True)
            put_off = batch.put_off
            try:
                transcripts = aio.run(self._ask(samples, batch.prompter, ticker))
            finally:
                batch.log.close()
                ticker.flush()
        except TlacError as error:
            self._station.line.halt(error)
        return turns_table(positions, transcripts, put_off)

    async def _ask(
        self, samples: Sequence[Sample], prompter: TwoStagePrompter, ticker: _Ticker
    ) -> Sequence[Transcript]:
        found = await collect(samples, prompter, self._method, self._station.order.concurrency, ticker)
        return found.transcripts


class Stage2Worker:
    """Asks the choices that a table of turns still lacks, each distinct one once, and fills them in."""

    def __init__(self, order: RayJob, limiter: Any, reader: Any) -> None:
        self._station = WorkerClient(order, limiter, reader)

    def __call__(self, table: Any) -> Any:
        """The table with choices. An error that concerns every question stops the whole run, and is told there."""
        from tlac.engines.ray.tables import fill_choices, read_choices

        wanted = read_choices(table)
        chosen: Mapping[str, Turn] = {}
        if wanted:
            try:
                batch = self._station.begin(_name_batch("b", sorted(wanted)), puts_off=False)
                try:
                    chosen = aio.run(self._choose(wanted, batch.prompter))
                finally:
                    batch.log.close()
            except TlacError as error:
                self._station.line.halt(error)
        return fill_choices(table, chosen)

    async def _choose(self, wanted: Mapping[str, Choice], prompter: TwoStagePrompter) -> Mapping[str, Turn]:
        seats = {seat.stage2.backend.digest: seat for seat in (*prompter.ensemble, prompter)}
        chosen: dict[str, Turn] = {}
        pending = iter(wanted.items())

        async def work() -> None:
            for key, choice in pending:
                try:
                    chosen[key] = await seats[choice.backend].ask_stage2(choice.answer, choice.candidates)
                except CallError:
                    # logged with its reason
                    continue

        await asyncio.gather(*(work() for _ in range(self._station.order.concurrency)))
        return chosen


def _name_batch(kind: str, members: Iterable[object]) -> str:
    """The same name for the same batch, in whichever worker it is tried."""
    return kind + hashlib.sha256(repr(list(members)).encode()).hexdigest()[:24]
