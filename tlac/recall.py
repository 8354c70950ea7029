"""What a run would ask, and which of it the store holds already. Asks nobody.

Does not know scoring.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tlac import loop
from tlac.calls.stored import StoredLMM
from tlac.config import Backend
from tlac.errors import MissingAnswersError
from tlac.gather import gather
from tlac.interfaces import Dataset
from tlac.interview import Interview, Method, Respondent
from tlac.matching import MatchingRule
from tlac.prompts import PromptSet
from tlac.registry import load_plugin
from tlac.store import Store
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
        turns = [turn for transcript in self.transcripts for turn in (transcript.stage1, transcript.stage2)]
        return frozenset(turn.key for turn in turns if turn is not None)


class _Listener:
    """An LMM that notes what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.asked: list[LMMRequest] = []

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.asked.append(request)
        raise MissingAnswersError(f"the store has no {request.stage} answer")


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
    method: Method = load_plugin("tlac.methods", inquiry.method)()
    gathered = loop.run(gather(samples, interview, method, inquiry.backend.spec.limits.concurrency))
    return Recalled(gathered.transcripts, tuple(listener.asked))
