"""A run, from dataset to run folder: gather answers, score them, measure, write.

Binds the layers below; knows no provider, no encoder's insides, no terminal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from tlac.cache.image_hashes import ImageDigests
from tlac.cache.store import Store
from tlac.config.method_options import combination_of, open_method, prompts_of, scale_of, sees_image
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_encoder, open_image_encoder, open_lmm
from tlac.config.schemas import Backend, EncoderConfig
from tlac.encoders.cached import ImageVectors, StoredEncoder, keep_embeddings
from tlac.errors import UsageError
from tlac.evaluation.class_order import choose_again, class_order, compare_orders, restore_choices, rotations
from tlac.evaluation.collect import CollectProgress, TranscriptBuffer, collect_into
from tlac.evaluation.dry_run import StoredAnswers, recall_shortlists
from tlac.evaluation.engine import Engine
from tlac.evaluation.run_config import RunConfig, build_prompter, check_method, choose_samples
from tlac.interfaces import LMM, ImageEncoder, details_of, notes_of
from tlac.lmms.middleware.cache import OfflineLMM, StoredLMM
from tlac.lmms.middleware.stack import CallPolicy, build_stack
from tlac.methods.base import BoundLMM, ImageMethod, Method, NearestClassFinder, TwoStagePrompter
from tlac.results.calls import FILE_NAME, encode_calls, facts_of
from tlac.results.folder import Attachment, begin_run, free_name, name_run
from tlac.results.record import OrderTrials, Run, RunRecord, ShortlistRecall
from tlac.runtime import aio
from tlac.runtime.versions import installed_versions
from tlac.scoring.clip_zero_shot import ImageScorer
from tlac.scoring.confidence import abstain, require_encoder
from tlac.scoring.metrics import Metrics, measure
from tlac.scoring.scorer import Scored, Scorer
from tlac.types import Outcome, Transcript


@dataclass(frozen=True, slots=True)
class _Result:
    """What a method made of the samples. `buffer` is empty where nobody was asked; its ledger counts further trials."""

    scored: Scored
    buffer: TranscriptBuffer
    stopped: str | None = None
    order: OrderTrials | None = None
    concurrency: int = 1
    shortlist_recall: ShortlistRecall | None = None


class Runner:
    """Runs evaluations on one store. LMMs and encoders are opened once and shared by all its runs.

    `policy` says how calls are looked after (budget, retries, concurrency in place of the backends' own);
    `retry` are outcomes that are asked again. With an `engine` answers are had elsewhere, ahead of each run.
    """

    def __init__(
        self,
        store: Store,
        is_offline: bool = False,
        policy: CallPolicy | None = None,
        retry: Collection[Outcome] = (),
        engine: Engine | None = None,
    ) -> None:
        self._store = store
        self.is_offline = is_offline
        self._policy = policy or CallPolicy()
        self._retry = retry
        self._engine = engine
        self._lmms: dict[str, StoredLMM] = {}
        self._encoders: dict[str, StoredEncoder] = {}

    def bound_lmm(self, backend: Backend) -> BoundLMM:
        """The backend's LMM over the store. Raises ConfigError where a key is missing."""
        if backend.digest not in self._lmms:
            paid = self._engine.paid if self._engine else ()
            self._lmms[backend.digest] = StoredLMM(self._open(backend), self._store, backend.name, self._retry, paid)
        return BoundLMM(backend, self._lmms[backend.digest])

    def _open(self, backend: Backend) -> LMM:
        # a pack holds answers as the store does, and asks nobody
        if self.is_offline and backend.spec.adapter != "pack":
            return OfflineLMM()
        if self._engine is not None:
            return self._engine.rest(backend)
        return build_stack(open_lmm(backend), backend, self._policy)

    def encoder(self, config: EncoderConfig) -> StoredEncoder:
        """The text encoder over the store."""
        if config.name not in self._encoders:
            config = replace(config, is_offline=self.is_offline)
            self._encoders[config.name] = keep_embeddings(open_encoder(config), config, self._store)
        return self._encoders[config.name]

    def _image_encoder(self, spec: RunConfig) -> ImageEncoder:
        return open_image_encoder(replace(spec.encoder, is_offline=self.is_offline), spec.method)

    def finish(self) -> None:
        """Wait for calls that an interrupted run left in flight: they are paid for, and their answers are kept.

        Another interrupt gives them up.
        """

        async def finish_all() -> None:
            await asyncio.gather(*(lmm.finish() for lmm in self._lmms.values()))

        with suppress(KeyboardInterrupt):
            aio.run(finish_all())

    def run(self, spec: RunConfig, out: Path, progress: CollectProgress | None = None, with_report: bool = True) -> Run:
        """Gather, score, measure and write one run.

        An incomplete run is written too and says so. Raises MissingAnswersError where an offline run lacks
        answers, EncoderUnavailableError before anything is asked, StoreError.
        """
        started, started_at = time.monotonic(), datetime.now(timezone.utc)
        stamp = f"{started_at:%Y%m%d-%H%M%S}"
        method: Method | ImageMethod = open_method(spec.method)
        if isinstance(method, ImageMethod):
            result = self._look(spec, method, progress)
        else:
            result = self._ask(spec, method, progress)
        predictions = abstain(result.scored.predictions, spec.abstain_below, spec.calibration)
        with begin_run(out) as run:
            metrics = measure(predictions)
            record = replace(
                self._record(spec, result, metrics),
                run=free_name(out, name_run(stamp, spec.dataset.name, spec.names.backend, spec.method)),
                created_at=started_at.isoformat(timespec="seconds"),
                wall_s=round(time.monotonic() - started, 3),
            )
            transcripts = result.buffer.transcripts
            attachments: dict[str, Attachment] = {FILE_NAME: encode_calls(facts_of(transcripts))} if transcripts else {}
            finished = run.finish(record, predictions, metrics, attachments)
        if with_report:
            # here, not above: a run without a report does without jinja2
            from tlac.report.files import write_report

            # --limit has drawn the samples already; a dataset is read once more for its thumbnails
            write_report(finished, choose_samples(spec.dataset, spec.limit, spec.seed))
        return finished

    def _record(self, spec: RunConfig, result: _Result, metrics: Metrics) -> RunRecord:
        """The run's record, without its name and times."""
        named, spent = spec.names, result.buffer.ledger.total()
        return RunRecord(
            run="",
            created_at="",
            backend=named.backend,
            model=named.model,
            stage2_backend=named.stage2_backend,
            stage2_model=named.stage2_model,
            matching=named.matching,
            template=named.template,
            prompts=named.prompts,
            prompt=named.prompt,
            dataset=spec.dataset.name,
            split=spec.dataset.split,
            protocol=spec.dataset.protocol,
            method=spec.method,
            encoder=spec.encoder.name,
            is_complete=metrics.failed == 0 and (result.order is None or result.order.failed == 0),
            stopped=result.stopped,
            calls=spent.calls,
            tokens=spent.tokens,
            cost_usd=spent.cost_usd,
            answers_cost_usd=spent.answers_cost_usd,
            wall_s=0.0,
            concurrency=result.concurrency,
            limit=spec.limit,
            seed=spec.seed,
            truncated_texts=result.scored.truncated_texts,
            truncated_classes=result.scored.truncated_classes,
            digests=self.digests(spec),
            versions=installed_versions(),
            classes=spec.dataset.classes,
            shuffle_classes=spec.shuffle_classes,
            order_trials=result.order,
            shortlist_recall=result.shortlist_recall,
            ensemble=tuple(backend.name for backend in spec.ensemble),
            aliases=dict(spec.aliases),
            abstain_below=spec.abstain_below,
            calibration=spec.calibration,
            dataset_notes=notes_of(spec.dataset),
            dataset_details=details_of(spec.dataset),
        )

    def digests(self, spec: RunConfig) -> dict[str, str]:
        """What tells the results of this spec from all others'."""
        method = open_method(spec.method)
        further = {f"prompts {name}": load_prompts(name).digest for name in prompts_of(method)}
        return {**spec.digests(scale_of(method, self.encoder(spec.encoder).fingerprint)), **further}

    def _ask(self, spec: RunConfig, method: Method, progress: CollectProgress | None) -> _Result:
        """Have an LMM asked about every sample, and score its words."""
        if spec.backend is None or spec.stage2_backend is None:
            raise UsageError(f"the method {spec.method} asks an LMM: name one with --backend")
        check_method(spec, method)
        images = None
        if sees_image(method):
            images = ImageVectors(self._image_encoder(spec), self._store, self.is_offline)
        if spec.calibration is not None:
            require_encoder(spec.calibration, scale_of(method, self.encoder(spec.encoder).fingerprint))
        scorer = self._scorer(spec, spec.dataset.classes)
        if not self.is_offline:
            scorer.encode_classes()
        concurrency = self._policy.concurrency or spec.backend.spec.limits.concurrency
        classes = spec.dataset.classes
        order = class_order(len(classes), spec.shuffle_classes)
        rotated = rotations(order, spec.order_trials)

        def finder(shown: Sequence[int]) -> NearestClassFinder:
            # a scorer of its own: what is proposed are places in the list that is shown
            return NearestClassFinder(self._scorer(spec, [classes[place] for place in shown]))

        def prompter(shown: Sequence[int]) -> TwoStagePrompter:
            return build_prompter(spec, shown, self.bound_lmm, finder(shown))

        if self._engine is not None and not self.is_offline:
            self._engine.fetch(spec, order, finder(order))
        samples = choose_samples(spec.dataset, spec.limit, spec.seed)
        digests = ImageDigests(self._store.path, spec.dataset.name)
        buffer = TranscriptBuffer()
        try:
            asking = collect_into(buffer.put, samples, prompter(order), method, concurrency, progress, digests.identify)
            stopped = aio.run(asking)
        finally:
            digests.save()
        buffer.require_answers()
        transcripts: Iterable[Transcript] = buffer.transcripts
        vectors = None
        if images is not None:
            found = images.find(transcripts, samples)
            transcripts, vectors = found.mark(transcripts), found.by_sha256
        scored = scorer.score(restore_choices(transcripts, order), combination_of(method), vectors)
        changes = _try_orders(rotated, buffer, prompter, concurrency, scorer, scored) if stopped is None else None
        shown = [classes[place] for place in order]
        reader = StoredAnswers(self._store)
        stored = build_prompter(spec, order, lambda backend: BoundLMM(backend, reader))
        full = aio.run(recall_shortlists(buffer.transcripts, stored, shown))
        return _Result(scored, buffer, stopped, changes, concurrency, full)

    def _scorer(self, spec: RunConfig, classes: Sequence[str]) -> Scorer:
        return Scorer(classes, self.encoder(spec.encoder), spec.rule, spec.template, spec.aliases)

    def _look(self, spec: RunConfig, method: ImageMethod, progress: CollectProgress | None) -> _Result:
        """Have the images themselves compared with the class names; nobody is asked."""
        scorer = ImageScorer(
            self.encoder(spec.encoder),
            self._image_encoder(spec),
            self._store,
            spec.dataset.classes,
            spec.templates,
            self.is_offline,
        )
        samples = choose_samples(spec.dataset, spec.limit, spec.seed)
        advance = progress.advance if progress else lambda _: None
        return _Result(method.look(samples, scorer, advance), TranscriptBuffer())


def _try_orders(
    orders: Sequence[Sequence[int]],
    buffer: TranscriptBuffer,
    prompter: Callable[[Sequence[int]], TwoStagePrompter],
    concurrency: int,
    scorer: Scorer,
    scored: Scored,
) -> OrderTrials | None:
    """Ask stage 2 again in these orders; None where nobody was asked."""
    trials = []
    for order in orders:
        again = aio.run(choose_again(buffer.transcripts, prompter(order), concurrency))
        trials.append(scorer.score(restore_choices(again, order)).predictions)
        for transcript in again:
            # their first stage is counted already
            buffer.ledger.add(replace(transcript, stage1=None).turns)
    return compare_orders(scored.predictions, trials) if trials and trials[0] else None
