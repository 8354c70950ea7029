"""vote: several backends are asked as TLAC asks, and the class that most of them name is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from tlac.interfaces import Prompter
from tlac.methods.tlac import needs_stage2
from tlac.types import Combination, Image, Turn


class Vote:
    """Both stages with each backend of the run. Cost: that of TLAC with each."""

    name = "vote"
    combine: Combination = "vote"

    async def ask(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `Method`."""
        for member, asked in enumerate((prompter, *prompter.ensemble)):
            described = await asked.ask_stage1(image)
            yield replace(described, member=member)
            if needs_stage2(described, asked):
                yield replace(await asked.ask_stage2(described.response.text), member=member)
