"""The methods of arXiv:2503.12206 and their variants: which questions are asked about an image.

Matching then makes a class of the answers: see `tlac.scoring`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from tlac.interfaces import Prompter
from tlac.methods.second_sample import WithSecondSample
from tlac.types import Image, Outcome, Turn


@dataclass(frozen=True, slots=True)
class SLAC(WithSecondSample):
    """The single-stage method: what does the image show? Cost: one call with an image per sample."""

    name: ClassVar[str] = "slac"

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        yield await prompter.ask_stage1(image)


@dataclass(frozen=True, slots=True)
class TLAC(WithSecondSample):
    """The two-stage method: stage 1, then stage 2 where the first answer leaves it something to decide.

    Cost: one call with an image per sample, and one text-only call per distinct first answer that is not already a
    class name.
    """

    name: ClassVar[str] = "tlac"

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        described = await prompter.ask_stage1(image)
        yield described
        if needs_stage2(described, prompter):
            yield await prompter.ask_stage2(described.response.text)


@dataclass(frozen=True, slots=True)
class TLACShortlist(WithSecondSample):
    """TLAC whose stage 2 sees only the `k` classes whose names are nearest to the first answer.

    They are listed in class order, which hides what the encoder prefers. Cost: as TLAC, but stage 2's prompt holds `k`
    names in place of all, and no prefix that providers cache. The text encoder works while answers arrive.
    """

    k: int = 25
    name: str = "tlac-shortlist"

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        async for turn in _ask_with_shortlist(image, prompter, self.k, None):
            yield turn


@dataclass(frozen=True, slots=True)
class TLACRelook(WithSecondSample):
    """As tlac-shortlist, and stage 2 sees the image again where the first answer is doubtful.

    For classes that words alone don't tell apart: cars, aircraft, breeds. Doubtful is an answer that names no class
    and whose relative margin (see `NearestClasses`) is below `relook_below`, in [0, 1]: 0 never looks again, 1 always
    does. Cost: as tlac-shortlist, and one more image for each doubtful sample.
    """

    k: int = 25
    relook_below: float = 0.5
    name: str = "tlac-relook"

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        async for turn in _ask_with_shortlist(image, prompter, self.k, self.relook_below):
            yield turn


@dataclass(frozen=True, slots=True)
class TLACCascade(WithSecondSample):
    """Asks for more only where it is in doubt: a class name is taken as it is; else stage 2 chooses from the `k`
    nearest classes; where its choice is not the nearest one, or the lead of that one is small, the image is shown
    again with the `few` that are left, without the first answer.

    Best with hints, with which most first answers are class names. Small is a relative margin (see `NearestClasses`)
    below `relook_below`, as in tlac-relook: 0 leaves disagreement alone. Cost: as tlac-shortlist, and an image and
    `few` names for each sample in doubt.
    """

    k: int = 25
    few: int = 5
    relook_below: float = 0.5
    name: str = "tlac-cascade"
    asks_after_choice: ClassVar[bool] = True

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`. A choice that was looked into again is the second member's."""
        described = await prompter.ask_stage1(image)
        yield described
        if not needs_stage2(described, prompter):
            return
        answer = described.response.text
        near = await prompter.nearest(answer, self.k)
        if not near.indices:
            return
        choice = await prompter.ask_stage2(answer, sorted(near.indices))
        chosen = prompter.read_choice(choice)
        if chosen == near.indices[0] and near.relative_margin >= self.relook_below:
            yield choice
            return
        yield replace(choice, member=1)
        left = list(dict.fromkeys([*([] if chosen is None else [chosen]), *near.indices]))[: self.few]
        yield await prompter.ask_stage2(None, sorted(left), image)


async def _ask_with_shortlist(
    image: Image, prompter: Prompter, k: int, relook_below: float | None
) -> AsyncIterator[Turn]:
    described = await prompter.ask_stage1(image)
    yield described
    if needs_stage2(described, prompter):
        answer = described.response.text
        near = await prompter.nearest(answer, k)
        if near.indices:
            is_doubtful = relook_below is not None and near.relative_margin < relook_below
            yield await prompter.ask_stage2(answer, sorted(near.indices), image if is_doubtful else None)


def needs_stage2(described: Turn, prompter: Prompter) -> bool:
    """Whether a first answer leaves stage 2 something to decide."""
    response = described.response
    return response.outcome is Outcome.ANSWERED and prompter.needs_choice(response.text)
