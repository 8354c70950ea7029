"""What a run would ask, and which of it the store holds already. Asks nobody.

Does not know scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.method_options import open_method
from tlac.config.prompts import PromptSet
from tlac.config.schemas import Backend
from tlac.errors import MissingAnswersError
from tlac.evaluation.collect import collect
from tlac.hashing import response_key
from tlac.images import identify
from tlac.interfaces import Dataset
from tlac.lmms.middleware.cache import StoredLMM
from tlac.methods.base import BoundLMM, Method, TwoStagePrompter
from tlac.results.record import ShortlistRecall
from tlac.runtime import aio
from tlac.scoring.matching import ClassIndex, MatchingRule
from tlac.types import LMMRequest, LMMResponse, Outcome, Sample, Transcript


@dataclass(frozen=True, slots=True)
class DryRun:
    """Who would be asked what: a run without a text encoder."""

    backend: Backend
    stage2_backend: Backend
    method: str
    prompts: PromptSet
    rule: MatchingRule


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the store holds of an inquiry, and the first request of each sample that it does not hold."""

    transcripts: tuple[Transcript, ...]
    missing: tuple[LMMRequest, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all answers that were found."""
        return frozenset(turn.key for transcript in self.transcripts for turn in transcript.turns)


class _Listener:
    """An LMM that notes what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.asked: list[LMMRequest] = []

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.asked.append(request)
        raise MissingAnswersError(f"the store has no {request.stage} answer")


def concerns(dataset: Dataset) -> Callable[[StoredAnswer], bool]:
    """Tells answers about a dataset from others: about one of its images, or a choice from its class list.

    Reads every image of the dataset. Raises InputError.
    """
    images = {identify(sample.source, sample.id).sha256 for sample in dataset}
    # as prompt sets list them, by name and by index
    listings = ("\n".join(dict.fromkeys(dataset.classes)), "\n".join(map(": ".join, _numbered(dataset.classes))))

    def is_about(answer: StoredAnswer) -> bool:
        parts = [part for message in answer.request["messages"] for part in message["parts"]]
        return any(part.get("image_sha256") in images for part in parts) or any(
            listing in part.get("text", "") for part in parts for listing in listings
        )

    return is_about


def _numbered(classes: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((str(index), name) for index, name in enumerate(classes))


def recall(inquiry: DryRun, dataset: Dataset, samples: Iterable[Sample], store: Store) -> Recalled:
    """Go through the samples as a run would, with stored answers alone. Raises StoreError."""
    listener = _Listener()
    # one for both stages: the request says which model it is for
    lmm = StoredLMM(listener, store, inquiry.backend.name)
    prompter = TwoStagePrompter(
        BoundLMM(inquiry.backend, lmm),
        BoundLMM(inquiry.stage2_backend, lmm),
        inquiry.prompts,
        dataset.classes,
        dataset.prompt,
        inquiry.rule.skips_stage2_on_exact,
    )
    method: Method = open_method(inquiry.method)
    gathered = aio.run(collect(samples, prompter, method, inquiry.backend.spec.limits.concurrency))
    return Recalled(gathered.transcripts, tuple(listener.asked))


class StoredAnswers:
    """An LMM that reads the store and can't be asked for more."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The stored answer. Raises MissingAnswersError."""
        found = self._store.get_response(response_key(request))
        if found is None:
            raise MissingAnswersError(f"the store has no {request.stage} answer from {request.model}")
        return found


async def recall_shortlists(
    transcripts: Iterable[Transcript], prompter: TwoStagePrompter, classes: Sequence[str]
) -> ShortlistRecall | None:
    """Compare shortlists with stored choices from the whole list; None where no sample was shown a shortlist.

    `prompter` asks StoredAnswers; `classes` are in the order in which they were shown.
    """
    index = ClassIndex(classes)
    choices: dict[str, int | None] = {}
    shown = known = inside = 0
    for transcript in transcripts:
        first, second = transcript.stage1, transcript.stage2
        if first is None or second is None or second.candidates is None:
            continue
        shown += 1
        answer = first.response.text
        if answer not in choices:
            choices[answer] = await _recall(answer, prompter, index)
        chosen = choices[answer]
        known += chosen is not None
        inside += chosen in second.candidates
    return ShortlistRecall(known, inside) if shown else None


async def _recall(answer: str, prompter: TwoStagePrompter, index: ClassIndex) -> int | None:
    try:
        response = (await prompter.ask_stage2(answer)).response
    except MissingAnswersError:
        return None
    return index.read_choice(response.text) if response.outcome is Outcome.ANSWERED else None
