"""TLAC, the two-stage method of arXiv:2503.12206: say what the image shows, then name the class.

Cost: one call with an image per sample, and one text-only call per distinct first answer that is not
already a class name. Does not know how words are matched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from tlac.methods.base import TwoStagePrompter
from tlac.types import Image, Outcome, Turn


class TLAC:
    """Stage 1, then stage 2 where the first answer leaves it something to decide."""

    name = "tlac"

    async def ask(self, image: Image, prompter: TwoStagePrompter) -> AsyncIterator[Turn]:
        """See tlac.methods.base.Method."""
        described = await prompter.ask_stage1(image)
        yield described
        if described.response.outcome is Outcome.ANSWERED and prompter.needs_choice(described.response.text):
            yield await prompter.ask_stage2(described.response.text)


class SLAC:
    """Stage 1 alone."""

    name = "slac"

    async def ask(self, image: Image, prompter: TwoStagePrompter) -> AsyncIterator[Turn]:
        """See tlac.methods.base.Method."""
        yield await prompter.ask_stage1(image)


@dataclass(frozen=True, slots=True)
class TLACShortlist:
    """Stage 1; the `k` classes nearest to it, listed in class order, which hides what the encoder prefers; stage 2."""

    k: int = 25
    name: str = "tlac-shortlist"

    async def ask(self, image: Image, prompter: TwoStagePrompter) -> AsyncIterator[Turn]:
        """See tlac.methods.base.Method."""
        described = await prompter.ask_stage1(image)
        yield described
        answer = described.response.text
        if described.response.outcome is Outcome.ANSWERED and prompter.needs_choice(answer):
            near = await prompter.nearest(answer, self.k)
            if near.indices:
                yield await prompter.ask_stage2(answer, sorted(near.indices))


@dataclass(frozen=True, slots=True)
class TLACRelook:
    """Stage 1; then stage 2 over the `k` nearest classes, with the image where the answer is doubtful.

    Doubtful is an answer that names no class and whose relative margin (see tlac.methods.base.NearestClasses) is below
    `relook_below`, in [0, 1]: 0 never looks again, 1 always does.
    """

    k: int = 25
    relook_below: float = 0.5
    name: str = "tlac-relook"

    async def ask(self, image: Image, prompter: TwoStagePrompter) -> AsyncIterator[Turn]:
        """See tlac.methods.base.Method."""
        described = await prompter.ask_stage1(image)
        yield described
        answer = described.response.text
        if described.response.outcome is Outcome.ANSWERED and prompter.needs_choice(answer):
            near = await prompter.nearest(answer, self.k)
            if near.indices:
                is_doubtful = near.relative_margin < self.relook_below
                yield await prompter.ask_stage2(answer, sorted(near.indices), image if is_doubtful else None)
