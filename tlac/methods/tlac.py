"""TLAC, the two-stage method of arXiv:2503.12206: say what the image shows, then name the class.

Cost: one call with an image per sample, and one text-only call per distinct first answer that is not
already a class name. Does not know how words are matched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from tlac.asking.interview import Interview
from tlac.types import Image, Outcome, Turn


class TLAC:
    """Stage 1, then stage 2 where the first answer leaves it something to decide."""

    name = "tlac"

    async def ask(self, image: Image, interview: Interview) -> AsyncIterator[Turn]:
        """See tlac.asking.interview.Method."""
        described = await interview.describe(image)
        yield described
        if described.response.outcome is Outcome.ANSWERED and interview.needs_choice(described.response.text):
            yield await interview.choose(described.response.text)
