"""What a run would ask, and which of it the store holds already. Nobody is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.registry import open_encoder
from tlac.encoders.cached import StoredEncoder
from tlac.errors import MissingAnswersError
from tlac.evaluation.collect import collect
from tlac.evaluation.prompter import BoundLMM
from tlac.evaluation.run_config import RunConfig, class_finder, plan_questions
from tlac.images import identify
from tlac.interfaces import ClassFinder, Dataset, Prompter
from tlac.lmms.middleware.cache import OfflineLMM, StoredLMM
from tlac.results.record import ShortlistRecall
from tlac.runtime import aio
from tlac.scoring.matching import ClassIndex
from tlac.types import LMMRequest, LMMResponse, NearestClasses, Outcome, Sample, Transcript


class _Unasked:
    """An LMM that notes what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.asked: list[LMMRequest] = []

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.asked.append(request)
        raise MissingAnswersError(f"the store has no {request.stage} answer")


class _LazyFinder:
    """Opens the run's text encoder for the first answer whose nearest classes are wanted: most methods want none."""

    def __init__(self, config: RunConfig, store: Store) -> None:
        self._config = config
        self._store = store

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        """See `ClassFinder`."""
        return await self._opened.nearest(answer, count)

    @cached_property
    def _opened(self) -> ClassFinder:
        config = self._config.encoder
        return class_finder(self._config, StoredEncoder(open_encoder(config), self._store))


def with_spread_hints(config: RunConfig, store: Store) -> RunConfig:
    """As `RunConfig.with_spread_hints`; the text encoder is opened only where there are any to draw."""
    if not config.spread_hints:
        return config
    return config.with_spread_hints(StoredEncoder(open_encoder(config.encoder), store))


def concerns(dataset: Dataset) -> Callable[[StoredAnswer], bool]:
    """Tells answers about a dataset from others: about one of its images, or a choice from its class list.

    Reads every image of the dataset. Raises InputError.
    """
    images = {identify(sample.source, sample.id).sha256 for sample in dataset}
    # as prompt sets list them, by name and by index
    listings = (
        "\n".join(dict.fromkeys(dataset.classes)),
        "\n".join(f"{index}: {name}" for index, name in enumerate(dataset.classes)),
    )

    def is_about(answer: StoredAnswer) -> bool:
        parts = [part for message in answer.request["messages"] for part in message["parts"]]
        return any(part.get("image_sha256") in images for part in parts) or any(
            listing in part.get("text", "") for part in parts for listing in listings
        )

    return is_about


def dry_run(
    config: RunConfig, samples: Iterable[Sample], store: Store
) -> tuple[tuple[Transcript, ...], tuple[LMMRequest, ...]]:
    """Go through the samples as a run would, with stored answers alone: what there is of their transcripts, and the
    first request of each that the store does not hold. Raises StoreError, UsageError."""
    unasked, config = _Unasked(), with_spread_hints(config, store)
    backend, _ = config.asked
    finder = _LazyFinder(config, store)
    prompter = plan_questions(config, lambda asked: BoundLMM(asked, StoredLMM(unasked, store, asked.name)), finder)
    transcripts, _ = aio.run(collect(samples, prompter, config.asking_method, backend.spec.limits.concurrency))
    return transcripts, tuple(unasked.asked)


def recall_shortlists(transcripts: Iterable[Transcript], config: RunConfig, store: Store) -> ShortlistRecall | None:
    """Compare shortlists with stored choices from the whole list; None where no sample was shown a shortlist."""
    prompter = plan_questions(config, lambda asked: BoundLMM(asked, StoredLMM(OfflineLMM(), store, asked.name)))
    return aio.run(count_recalled(transcripts, config, prompter))


async def count_recalled(
    transcripts: Iterable[Transcript], config: RunConfig, prompter: Prompter
) -> ShortlistRecall | None:
    """As `recall_shortlists`; `prompter` raises MissingAnswersError for what is not stored."""
    index = ClassIndex([config.dataset.classes[place] for place in config.class_order], by_number=config.asks_by_number)
    choices: dict[str, int | None] = {}
    shown = known = inside = 0
    for transcript in transcripts:
        first, second = transcript.stage1, transcript.stage2
        if first is None or second is None or second.candidates is None:
            continue
        shown += 1
        answer = first.response.text
        if answer not in choices:
            choices[answer] = await _recall_choice(answer, prompter, index)
        chosen = choices[answer]
        known += chosen is not None
        inside += chosen in second.candidates
    return ShortlistRecall(known, inside) if shown else None


async def _recall_choice(answer: str, prompter: Prompter, index: ClassIndex) -> int | None:
    try:
        response = (await prompter.ask_stage2(answer)).response
    except MissingAnswersError:
        return None
    return index.read_choice(response.text) if response.outcome is Outcome.ANSWERED else None
