"""The methods of arXiv:2503.12206 and their variants: which questions are asked about an image.

Matching then makes a class of the answers: see `tlac.scoring`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import ClassVar

from msgspec.structs import replace

from tlac.interfaces import Prompter
from tlac.types import SECOND_SAMPLE, Combination, Image, Outcome, Turn

LOOK_BELOW = 0.5
"""A choice that the model itself gave no more than this probability leaves a doubt: all else was likelier."""
_LOOK_CLASSES = 5


@dataclass(frozen=True, slots=True)
class WithSecondSample(ABC):
    """With `second`, the name of a prompt set, stage 1 is asked once more, in its words: a witness for confidence.

    It changes no class. What one answer names clearly and wrongly, it can't show; another answer may. Cost: one more
    call with the image per sample.
    """

    second: str = field(default="", kw_only=True)

    @property
    def further_prompts(self) -> tuple[str, ...]:
        """The prompt sets beside the run's own."""
        return (self.second,) if self.second else ()

    async def ask(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `Method`. The second sample comes last."""
        async for turn in self.ask_own(image, prompter):
            yield turn
        if self.second:
            yield replace(await prompter.ask_stage1(image, prompts=self.second), member=SECOND_SAMPLE)

    @abstractmethod
    def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """The turns that decide, as `Method.ask` yields them."""
        ...


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

    They are listed in class order, which hides what the encoder prefers; a list of no more than twice `k` classes is
    shown whole. Cost: as TLAC, but stage 2's prompt holds `k` names in place of all, and no prefix that providers
    cache. The text encoder works while answers arrive.
    """

    k: int = 25
    name: str = "tlac-shortlist"

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        async for turn in _choose(await prompter.ask_stage1(image), image, prompter, self.k):
            yield turn


@dataclass(frozen=True, slots=True)
class TLACRelook(TLACShortlist):
    """As tlac-shortlist, and stage 2 sees the image again where the first answer is doubtful.

    For classes that words alone don't tell apart: cars, aircraft, breeds. Doubtful is an answer that names no class
    and whose relative margin (see `NearestClasses`) is below `relook_below`, in [0, 1]: 0 never looks again, 1 always
    does. Cost: as tlac-shortlist, and one more image for each doubtful sample.
    """

    relook_below: float = 0.5
    name: str = "tlac-relook"

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        async for turn in _choose(await prompter.ask_stage1(image), image, prompter, self.k, self.relook_below):
            yield turn


@dataclass(frozen=True, slots=True)
class TLACCascade(WithSecondSample):
    """A first answer that is a class name is taken as it is; any other image is described in the words of the prompt
    set `view`, and stage 2 chooses from the description as in tlac-shortlist.

    Best with hints, with which most first answers are class names. One that is none leaves out what tells classes
    apart ("sailboat" of a ketch and of a schooner), and no later step on the same word brings it back. Cost: one call
    with the image per sample; one more, and a text-only call, for each whose first answer is no class name.

    With `relook`, where the choice leaves a doubt, the image is shown again with the few classes that are left, and
    without the first words. Doubtful is a choice that is not the nearest class, or whose probability is below
    0.5, where that is known. Cost: one more call with the image for each doubt.
    """

    k: int = 25
    relook: bool = False
    view: str = "default"
    name: str = "tlac-cascade"
    is_sequential: ClassVar[bool] = True
    # so many of the nearest classes are left for a second look, and the one that was chosen
    look_classes: ClassVar[int] = _LOOK_CLASSES

    @property
    def further_prompts(self) -> tuple[str, ...]:
        """The prompt sets beside the run's own."""
        return (self.view, *((self.second,) if self.second else ()))

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`. Where the image was described, the first answer is the second member's. Of a choice
        and a second look the one that does not decide is the fourth member's."""
        named = await prompter.ask_stage1(image)
        if not needs_stage2(named, prompter):
            yield named
            return
        yield replace(named, member=1)
        described = await prompter.ask_stage1(image, prompts=self.view)
        if described.response.outcome is not Outcome.ANSWERED:
            yield replace(described, member=2)
            described = named
        async for turn in _choose(described, image, prompter, self.k):
            if not self.relook or turn.stage == "stage1":
                yield turn
                continue
            async for one in _look_in_doubt(turn, described.response.text, image, prompter, self.k):
                yield one


async def _look_in_doubt(choice: Turn, answer: str, image: Image, prompter: Prompter, k: int) -> AsyncIterator[Turn]:
    """The choice, and the second look that decides in its place where it leaves a doubt and the look names a class."""
    near = (await prompter.nearest(answer, k)).indices
    chosen, logprob = _read(choice, prompter), choice.response.logprob
    if chosen == near[0] and (logprob is None or logprob >= math.log(LOOK_BELOW)):
        yield choice
        return
    few = {*near[:_LOOK_CLASSES], *(() if chosen is None else (chosen,))}
    try:
        looked = await prompter.ask_stage2("", sorted(few), image)
    except Exception:
        yield choice
        raise
    is_read = _read(looked, prompter) is not None
    yield replace(choice, member=3) if is_read else choice
    yield looked if is_read else replace(looked, member=3)


def _read(choice: Turn, prompter: Prompter) -> int | None:
    return prompter.read_choice(choice.response.text) if choice.response.outcome is Outcome.ANSWERED else None


async def _choose(
    described: Turn, image: Image, prompter: Prompter, k: int, relook_below: float = 0.0
) -> AsyncIterator[Turn]:
    """The first answer, and stage 2 over the `k` nearest classes where it leaves something to decide."""
    yield described
    if needs_stage2(described, prompter):
        answer = described.response.text
        near = await prompter.nearest(answer, k)
        if near.indices:
            if near.relative_margin < relook_below:
                yield await prompter.ask_stage2(answer, sorted(near.indices), image)
            else:
                # half of a list saves little, and loses what the encoder misses; the whole is a prefix that is cached
                is_short = len(prompter.classes) <= 2 * len(near.indices)
                yield await prompter.ask_stage2(answer, None if is_short else sorted(near.indices))


def needs_stage2(described: Turn, prompter: Prompter) -> bool:
    """Whether a first answer leaves stage 2 something to decide."""
    response = described.response
    return response.outcome is Outcome.ANSWERED and prompter.needs_choice(response.text)


class Vote:
    """Several backends are asked as TLAC asks, and the class that most of them name is taken. Cost: TLAC with each."""

    name = "vote"
    combine: Combination = "vote"

    async def ask(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `Method`."""
        for member, asked in enumerate((prompter, *prompter.ensemble)):
            described = await asked.ask_stage1(image)
            yield replace(described, member=member)
            if needs_stage2(described, asked):
                yield replace(await asked.ask_stage2(described.response.text), member=member)
