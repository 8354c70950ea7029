"""tlac-relook: the second stage is shown the image again, with a shortlist, where the first answer leaves a doubt.

For classes that words alone don't tell apart: cars, aircraft, breeds. Cost: as tlac-shortlist, and one more
image for each doubtful sample. Does not know how the encoder compares.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from tlac.asking.interview import Interview
from tlac.types import Image, Outcome, Turn


@dataclass(frozen=True, slots=True)
class TLACRelook:
    """Stage 1; then stage 2 over the `k` nearest classes, with the image where the answer is doubtful.

    Doubtful is an answer that names no class and whose relative margin (see tlac.asking.proposing.Nearness) is below
    `relook_below`, in [0, 1]: 0 never looks again, 1 always does.
    """

    k: int = 25
    relook_below: float = 0.5
    name: str = "tlac-relook"

    async def ask(self, image: Image, interview: Interview) -> AsyncIterator[Turn]:
        """See tlac.asking.interview.Method."""
        described = await interview.describe(image)
        yield described
        answer = described.response.text
        if described.response.outcome is Outcome.ANSWERED and interview.needs_choice(answer):
            near = await interview.nearest(answer, self.k)
            if near.indices:
                is_doubtful = near.relative_margin < self.relook_below
                yield await interview.choose(answer, sorted(near.indices), image if is_doubtful else None)
