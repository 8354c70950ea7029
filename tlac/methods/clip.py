"""Zero-shot CLIP (arXiv:2103.00020): the image's own vector is compared with those of the class names.

What an LMM adds shows against it. Cost: no call; one pass of the image encoder per image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tlac.interfaces import ImageScorer, ScoredT_co
from tlac.types import Sample, Transcript


@dataclass(frozen=True, slots=True)
class CLIP:
    """Image against class names, and nothing else. `templates` names those of the class names: paper (the run's own
    template), coop (CoOp's for the dataset) or imagenet (the 80 of ImageNet)."""

    name: str = "clip"
    templates: str = "paper"

    def look(
        self, samples: Iterable[Sample], scorer: ImageScorer[ScoredT_co], advance: Callable[[Transcript], None]
    ) -> ScoredT_co:
        """See `ImageMethod`."""
        return scorer.score(samples, advance)
