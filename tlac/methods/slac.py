"""SLAC, the single-stage method of arXiv:2503.12206: one question about the image, the words are matched.

Cost: one call with an image per sample. Does not know how words are matched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from tlac.asking.interview import Interview
from tlac.types import Image, Turn


class SLAC:
    """Stage 1 alone."""

    name = "slac"

    async def ask(self, image: Image, interview: Interview) -> AsyncIterator[Turn]:
        """See tlac.asking.interview.Method."""
        yield await interview.describe(image)
