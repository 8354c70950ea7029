"""vote: several backends are asked as TLAC asks, and the class that most of them name is taken.

Cost: that of TLAC with each backend. Does not know how votes are counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from tlac.methods.base import TwoStagePrompter
from tlac.types import Combination, Image, Outcome, Turn


class Vote:
    """Both stages with each backend of the run."""

    name = "vote"
    combine: Combination = "vote"

    async def ask(self, image: Image, prompter: TwoStagePrompter) -> AsyncIterator[Turn]:
        """See tlac.methods.base.Method."""
        for member, seat in enumerate((prompter, *prompter.ensemble)):
            described = await seat.ask_stage1(image)
            yield replace(described, member=member)
            answer = described.response.text
            if described.response.outcome is Outcome.ANSWERED and seat.needs_choice(answer):
                yield replace(await seat.ask_stage2(answer), member=member)
