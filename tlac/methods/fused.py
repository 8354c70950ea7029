"""slac-fused: several stage-1 answers about one image, matched together as the mean of their vectors.

Cost: one call with the image for each view; with `image`, a pass of the image encoder too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from tlac.interfaces import Prompter
from tlac.methods.tlac import WithSecondSample
from tlac.types import Combination, Image, Turn


@dataclass(frozen=True, slots=True)
class SLACFused(WithSecondSample):
    """Stage 1 in the run's own words and in those of the prompt set `view`, `samples` times each.

    With `view` empty only the run's own words are asked; more than one sample needs a backend whose parameters
    leave it something to vary. With `image` the image's own vector is scored as well, which takes an encoder that
    has an image side.
    """

    view: str = "name"
    samples: int = 1
    image: bool = False
    name: str = "slac-fused"
    combine: ClassVar[Combination] = "fuse"

    @property
    def further_prompts(self) -> tuple[str, ...]:
        """The prompt sets beside the run's own."""
        return tuple(filter(None, (self.view, self.second)))

    async def ask_own(self, image: Image, prompter: Prompter) -> AsyncIterator[Turn]:
        """See `WithSecondSample`."""
        member = 0
        for prompts in (None, self.view) if self.view else (None,):
            for repeat in range(self.samples):
                yield replace(await prompter.ask_stage1(image, repeat, prompts), member=member)
                member += 1


@dataclass(frozen=True, slots=True)
class WDYS(SLACFused):
    """The method of arXiv:2405.15668 ("What Do You See?"): the vectors of the image, of its description and of a first
    prediction, which is asked for with the image and all class names, are averaged.

    The description is asked for in the run's own words, the prediction in those of `view`. Cost: two calls with the
    image, one of them with all class names, and a pass of the image encoder.
    """

    view: str = "listed"
    image: bool = True
    name: str = "wdys"
    combine: ClassVar[Combination] = "average"
