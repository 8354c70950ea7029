"""A second sample: stage 1 asked once more, in other words; a witness for confidence, which never changes the class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from msgspec.structs import replace

from tlac.interfaces import Prompter
from tlac.types import SECOND_SAMPLE, Image, Turn


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
