"""Zero-shot CLIP (arXiv:2103.00020): the image's own vector is compared with those of the class names.

What an LMM adds shows against it. Cost: no call; one pass of the image encoder per image. Does not know encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tlac.scoring.clip_zero_shot import ImageScorer
from tlac.scoring.scorer import Scored
from tlac.types import Sample, Transcript


class CLIP:
    """Image against class names, and nothing else."""

    name = "clip"

    def look(self, samples: Iterable[Sample], scorer: ImageScorer, advance: Callable[[Transcript], None]) -> Scored:
        """See tlac.scoring.clip_zero_shot.ImageMethod."""
        return scorer.score(samples, advance)
