"""A run, from dataset to run folder: collect answers, score them, measure, write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import structs

from tlac.cache.image_hashes import ImageDigests
from tlac.cache.store import Store
from tlac.config.registry import open_encoder, open_image_encoder, open_lmm
from tlac.config.schemas import Backend, EncoderConfig
from tlac.encoders.cached import ImageVectors, StoredEncoder
from tlac.errors import EncoderUnavailableError
from tlac.evaluation.class_order import choose_again, compare_orders, restore_choices, rotations
from tlac.evaluation.collect import INTERRUPTED, CollectProgress, TranscriptBuffer, collect_into
from tlac.evaluation.dry_run import recall_shortlists
from tlac.evaluation.prompter import BoundLMM, NearestClassFinder, TwoStagePrompter
from tlac.evaluation.run_config import RunConfig, RunEngine, RunResult, ScoringEngine, class_finder, plan_questions
from tlac.interfaces import LMM, Dataset, ImageMethod, combination_of, sees_image
from tlac.lmms.middleware.cache import OfflineLMM, StoredLMM
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.stack import build_stack
from tlac.results.folder import write_run
from tlac.results.record import OrderTrials, Run
from tlac.results.usage import CALLS, encode_calls, facts_of
from tlac.runtime import aio
from tlac.scoring.clip_zero_shot import ImageScorer
from tlac.scoring.confidence import abstain
from tlac.scoring.metrics import Counts, hinted_classes, measure_counts
from tlac.scoring.predictions import Predictions, describe_twins, find_twins
from tlac.scoring.scorer import Scored, Scorer
from tlac.types import Outcome, Sample, Transcript

_IMAGES_AT_ONCE = 256
_WITH_IMAGE_SIDE = "or give a file with --encoder open_clip:MODEL/FILE"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What it takes to ask about samples of one class list, and to score what was said. `encoding` ends when the class
    names are encoded, and is None offline; `images` are there for a method that scores the image too."""

    config: RunConfig
    prompter: TwoStagePrompter
    finder: NearestClassFinder
    scorer: Scorer
    concurrency: int
    encoding: Future[Any] | None
    images: ImageVectors | None


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
        engine: RunEngine | None = None,
    ) -> None:
        self._store = store
        self.is_offline = is_offline
        self._policy = policy or CallPolicy()
        self._retry = retry
        self._engine = engine
        self._is_interrupted = False
        self._said: set[str] = set()
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
            self._encoders[config.name] = StoredEncoder(open_encoder(config), self._store)
        return self._encoders[config.name]

    def _note_interrupt(self) -> None:
        if not self._is_interrupted:
            self._policy.on_message("stopping; waiting for the calls in flight (Ctrl-C again gives them up)")
        self._is_interrupted = True

    def finish(self) -> None:
        """Wait for calls that an interrupted run left in flight: they are paid for, and their answers are kept.

        Another interrupt gives them up, and so does one that has been waited for already.
        """

        async def finish_all() -> None:
            finished = asyncio.gather(*(lmm.finish() for lmm in self._lmms.values()))
            await asyncio.wait_for(finished, 0 if self._is_interrupted else None)

        with suppress(KeyboardInterrupt, asyncio.TimeoutError):
            aio.run(finish_all())

    def run(self, config: RunConfig, out: Path, progress: CollectProgress | None = None) -> Run:
        """Collect, score, measure and write one run.

        An incomplete run is written too and says so. Raises MissingAnswersError where an offline run lacks
        answers, EncoderUnavailableError while the first calls are in flight, StoreError.
        """
        started, started_at = time.monotonic(), datetime.now(timezone.utc)
        config = self.resolve(config)
        with ExitStack() as stack:
            if isinstance(config.opened_method, ImageMethod):
                result = self._look(config, config.opened_method, progress)
            else:
                prepared = self.prepare(config)
                fetched = stack.enter_context(self._fetching(prepared))
                result = self._score_apart(prepared, fetched) or self._ask(prepared, fetched, progress)
            metrics = measure_counts(result.counts, hinted_classes(config.dataset.classes, config.hints))
            self._tell(config, result.notes)
            record = config.record(result, metrics, started_at, time.monotonic() - started)
            attachments = {} if result.calls is None else {CALLS: result.calls}
            return write_run(out, record, result.predictions, metrics, attachments)

    def resolve(self, config: RunConfig) -> RunConfig:
        """The config as it is run (see `RunConfig.resolve`). Raises UsageError for what does not go together."""
        return config.resolve(self.encoder(config.encoder))

    def _tell(self, config: RunConfig, notes: Sequence[str]) -> None:
        """Say each note of a dataset once."""
        for said in (f"{config.dataset.name}: {note}" for note in notes):
            if said not in self._said:
                self._said.add(said)
                self._policy.on_message(said)

    def prepare(self, config: RunConfig) -> Prepared:
        """Open all that asking and scoring takes; nobody is asked. The text encoder is loaded meanwhile and beyond.

        Raises UsageError for what does not go together, ConfigError where a key is missing; EncoderUnavailableError
        comes from asking or scoring, or from here where an engine asks.
        """
        method, (backend, _) = config.asking_method, config.asked
        config, encoder = self.resolve(config), self.encoder(config.encoder)
        self._tell(config, config.alias_notes)
        images = self._image_vectors(config) if sees_image(method) else None
        concurrency = self._policy.concurrency or backend.spec.limits.concurrency
        finder = class_finder(config, encoder)
        scorer = Scorer(
            config.dataset.classes, encoder, config.rule, config.template, config.aliases, config.asks_by_number
        )
        prompter = plan_questions(config, self.bound_lmm, finder)
        encoding = None if self.is_offline else scorer.encode_classes()
        if encoding is not None and self._engine is not None:
            # an engine is asked about all samples at once, and paid for them
            encoding.result()
        return Prepared(config, prompter, finder, scorer, concurrency, encoding, images)

    @contextmanager
    def _fetching(self, prepared: Prepared) -> Iterator[str | None]:
        """Have the engine, where there is one, fetch answers, and tell why it stopped; what it scores lies there until
        the block ends."""
        if self._engine is None or self.is_offline:
            yield None
            return
        with self._engine.fetch(prepared.config, prepared.finder) as fetched:
            self._is_interrupted |= fetched == INTERRUPTED
            yield fetched

    def _score_apart(self, prepared: Prepared, fetched: str | None) -> RunResult | None:
        """Have the engine score what it has fetched, where it does."""
        if self.is_offline or not isinstance(self._engine, ScoringEngine):
            return None
        result = self._engine.score(prepared.config)
        if result is None:
            return None
        return replace(result, stopped=result.stopped or fetched, concurrency=prepared.concurrency)

    def _ask(self, prepared: Prepared, fetched: str | None, progress: CollectProgress | None) -> RunResult:
        """Have an LMM asked about every sample, and score its words."""
        config, buffer = prepared.config, TranscriptBuffer()
        rotated = rotations(config.class_order, config.order_trials)
        with self._collecting(prepared, config.samples, fetched, progress) as collecting:
            stopped = aio.run(collecting(buffer.put), self._note_interrupt)
        buffer.require_answers()
        scored = _score(prepared, buffer.transcripts, config.samples)
        trials = self._try_orders(prepared, rotated, buffer, scored) if rotated and stopped is None else None
        recall = recall_shortlists(buffer.transcripts, config, self._store)
        calls = encode_calls(facts_of(buffer.transcripts)) if buffer.transcripts else None
        return replace(
            _result(config, scored),
            ledger=buffer.ledger,
            calls=calls,
            stopped=stopped,
            order=trials,
            concurrency=prepared.concurrency,
            shortlist_recall=recall,
        )

    def stream(
        self, prepared: Prepared, samples: Sequence[Sample] | Dataset, progress: CollectProgress | None = None
    ) -> Generator[tuple[list[Transcript], Predictions], None, None]:
        """Ask about every sample; give what was said, and what it was taken for, as it comes, in the samples' order.

        It asks on while a block is worked on; closing the iterator waits for the calls in flight. An offline run's
        samples without answers have failed. Raises KeyboardInterrupt when interrupted, after all that was decided.
        """
        stopped: list[str | None] = []
        # only images that are scored themselves are looked at again
        order = iter(samples if prepared.images is not None else ())
        with (
            self._fetching(prepared) as fetched,
            self._collecting(prepared, samples, fetched, progress) as collecting,
        ):

            async def collect_all(keep: Callable[[Transcript], None]) -> None:
                stopped.append(await collecting(keep))

            with closing(aio.stream(collect_all, self._note_interrupt)) as blocks:
                for block in blocks:
                    seen = list(islice(order, len(block)))
                    # what an interrupt has left unasked is not decided; an engine calls that a failed call
                    left = {"stopped", "call" if self._engine else ""} if self._is_interrupted else set()
                    decided = [one for one in block if one.failure not in left]
                    yield decided, _score(prepared, decided, seen).predictions
        if stopped == [INTERRUPTED]:
            raise KeyboardInterrupt

    @contextmanager
    def _collecting(
        self,
        prepared: Prepared,
        samples: Sequence[Sample] | Dataset,
        fetched: str | None,
        progress: CollectProgress | None,
    ) -> Iterator[Callable[[Callable[[Transcript], None]], Coroutine[Any, Any, str | None]]]:
        """Give what asks about samples, once told who keeps the transcripts; keep the files' digests afterwards.

        `fetched` is why an engine has stopped, if it did.
        """
        digests = ImageDigests(self._store.path, prepared.config.dataset.name)
        asked, method = _while_sound(samples, prepared.encoding), prepared.config.asking_method

        async def collecting(keep: Callable[[Transcript], None]) -> str | None:
            how = (method, prepared.concurrency, progress, digests.identify, self._engine is None)
            return await collect_into(keep, asked, prepared.prompter, *how) or fetched

        try:
            yield collecting
        finally:
            digests.save()

    def _try_orders(
        self, prepared: Prepared, orders: Sequence[Sequence[int]], buffer: TranscriptBuffer, scored: Scored
    ) -> OrderTrials | None:
        """Ask stage 2 again in these orders; None where nobody was asked."""
        trials = []
        for order in orders:
            prompter = plan_questions(prepared.config, self.bound_lmm, order=order)
            choosing = choose_again(buffer.transcripts, prompter, prepared.concurrency)
            again = aio.run(choosing)
            trials.append(prepared.scorer.score(restore_choices(again, order, prepared.scorer.index)).predictions)
            for transcript in again:
                # their first stage is counted already
                buffer.ledger.add(structs.replace(transcript, stage1=None).turns)
        return compare_orders(scored.predictions, trials) if trials[0] else None

    def _look(self, config: RunConfig, method: ImageMethod, progress: CollectProgress | None) -> RunResult:
        """Have the images themselves compared with the class names; nobody is asked."""
        on_seen = progress.advance if progress else lambda _: None
        try:
            scorer = self._image_scorer(config)
            scored = method.look(config.samples, scorer, on_seen)
        except EncoderUnavailableError as error:
            # the alternative for texts has no image side
            raise EncoderUnavailableError(error.message, _WITH_IMAGE_SIDE) from error
        return _result(config, scored)

    def look(
        self, config: RunConfig, method: ImageMethod, progress: CollectProgress | None = None
    ) -> Iterator[tuple[list[Transcript], Predictions]]:
        """As `stream`, by a method that asks no LMM."""
        scorer, pending = self._image_scorer(config), iter(config.samples)
        while block := list(islice(pending, _IMAGES_AT_ONCE)):
            seen: list[Transcript] = []
            predictions = method.look(block, scorer, seen.append).predictions
            if progress is not None:
                for transcript in seen:
                    progress.advance(transcript)
            yield seen, predictions

    def _image_scorer(self, config: RunConfig) -> ImageScorer:
        encoder, images = self.encoder(config.encoder), self._image_vectors(config)
        return ImageScorer(encoder, images, config.dataset.classes, config.templates)

    def _image_vectors(self, config: RunConfig) -> ImageVectors:
        opened = replace(config.encoder, is_offline=self.is_offline)
        return ImageVectors(open_image_encoder(opened, config.method), self._store, self.is_offline)


def _result(config: RunConfig, scored: Scored) -> RunResult:
    """What was scored here, counted."""
    predictions = abstain(scored.predictions, config.abstain_below, config.calibration)
    twins = describe_twins(*find_twins(predictions.samples, predictions.image_sha256, predictions.label))
    notes = (twins,) if twins else ()
    return RunResult(predictions, Counts.of(predictions), len(scored.cut_texts), scored.truncated_classes, notes)


def _while_sound(samples: Iterable[Sample], encoding: Future[Any] | None) -> Iterator[Sample]:
    """The samples, until the encoder turns out not to be had: raises that, and no further sample is asked about."""
    for sample in samples:
        if encoding is not None and encoding.done():
            encoding.result()
        yield sample


def _score(prepared: Prepared, transcripts: Iterable[Transcript], samples: Iterable[Sample]) -> Scored:
    """Make predictions of transcripts; `samples` are theirs, for the images that the store has no vector of."""
    vectors = None
    if prepared.images is not None:
        vectors, transcripts = prepared.images.find(transcripts, samples)
    restored = restore_choices(transcripts, prepared.config.class_order, prepared.scorer.index)
    return prepared.scorer.score(restored, combination_of(prepared.config.opened_method), vectors)
