"""How often the choice from the whole class list stands in a shortlist: known where such answers are stored.

Asks nobody. Does not know how shortlists are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlac.asking.interview import Interview
from tlac.errors import MissingAnswersError
from tlac.keys import response_key
from tlac.scoring.matching import ClassIndex
from tlac.store import Store
from tlac.types import LMMRequest, LMMResponse, Outcome, Transcript


@dataclass(frozen=True, slots=True)
class FullChoices:
    """Of the samples that were shown a shortlist, `known` have a stored choice from the whole list as well, and
    `inside` of these choices stand in the shortlist."""

    known: int
    inside: int


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


async def recall_full_choices(
    transcripts: Iterable[Transcript], interview: Interview, classes: Sequence[str]
) -> FullChoices | None:
    """Compare shortlists with stored choices from the whole list; None where no sample was shown a shortlist.

    `interview` asks StoredAnswers; `classes` are in the order in which they were shown.
    """
    index = ClassIndex(classes)
    choices: dict[str, int | None] = {}
    shown = known = inside = 0
    for transcript in transcripts:
        first, second = transcript.stage1, transcript.stage2
        if first is None or second is None or second.offered is None:
            continue
        shown += 1
        answer = first.response.text
        if answer not in choices:
            choices[answer] = await _recall(answer, interview, index)
        chosen = choices[answer]
        known += chosen is not None
        inside += chosen in second.offered
    return FullChoices(known, inside) if shown else None


async def _recall(answer: str, interview: Interview, index: ClassIndex) -> int | None:
    try:
        response = (await interview.choose(answer)).response
    except MissingAnswersError:
        return None
    return index.read_choice(response.text) if response.outcome is Outcome.ANSWERED else None
