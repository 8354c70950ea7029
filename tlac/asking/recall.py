"""What a run would ask, and which of it the store holds already. Asks nobody.

Does not know scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tlac import loop
from tlac.asking.gather import gather
from tlac.asking.interview import Interview, Method, Respondent
from tlac.calls.stored import StoredLMM
from tlac.config import Backend
from tlac.errors import MissingAnswersError
from tlac.images import identify
from tlac.interfaces import Dataset
from tlac.method_names import open_method
from tlac.prompts import PromptSet
from tlac.scoring.matching import MatchingRule
from tlac.store import Store, StoredAnswer
from tlac.types import LMMRequest, LMMResponse, Sample, Transcript


@dataclass(frozen=True, slots=True)
class Inquiry:
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


def recall(inquiry: Inquiry, dataset: Dataset, samples: Iterable[Sample], store: Store) -> Recalled:
    """Go through the samples as a run would, with stored answers alone. Raises StoreError."""
    listener = _Listener()
    # one for both stages: the request says which model it is for
    lmm = StoredLMM(listener, store, inquiry.backend.name)
    interview = Interview(
        Respondent(inquiry.backend, lmm),
        Respondent(inquiry.stage2_backend, lmm),
        inquiry.prompts,
        dataset.classes,
        dataset.prompt,
        inquiry.rule.skips_stage2_on_exact,
    )
    method: Method = open_method(inquiry.method)
    gathered = loop.run(gather(samples, interview, method, inquiry.backend.spec.limits.concurrency))
    return Recalled(gathered.transcripts, tuple(listener.asked))
