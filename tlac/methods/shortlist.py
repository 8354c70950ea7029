"""tlac-shortlist: TLAC whose second stage sees only the classes whose names are nearest to the first answer.

Cost: as TLAC, but stage 2's prompt holds `k` names in place of all, and no prefix that providers cache. The
text encoder works while answers arrive. Does not know how the encoder compares.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from tlac.asking.interview import Interview
from tlac.types import Image, Outcome, Turn


@dataclass(frozen=True, slots=True)
class TLACShortlist:
    """Stage 1; the `k` classes nearest to it, listed in class order, which hides what the encoder prefers; stage 2."""

    k: int = 25
    name: str = "tlac-shortlist"

    async def ask(self, image: Image, interview: Interview) -> AsyncIterator[Turn]:
        """See tlac.asking.interview.Method."""
        described = await interview.describe(image)
        yield described
        answer = described.response.text
        if described.response.outcome is Outcome.ANSWERED and interview.needs_choice(answer):
            near = await interview.nearest(answer, self.k)
            if near.indices:
                yield await interview.choose(answer, sorted(near.indices))
