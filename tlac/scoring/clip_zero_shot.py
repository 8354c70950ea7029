"""Zero-shot CLIP: images to predictions by the similarity of their vectors with those of the class names.

No LMM is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tlac.encoders.cached import BATCH, ImageVectors
from tlac.errors import UnknownNameError
from tlac.interfaces import TextEncoder
from tlac.scoring.matching import apply_template
from tlac.scoring.predictions import TOP, Decisions, PredictionTable
from tlac.scoring.scorer import Scored, place_classes
from tlac.scoring.similarity import rank, similarities
from tlac.types import FailureKind, Float32Array, Float64Array, MatchDecision, Outcome, Sample, Transcript

_TEXTS = 8192


class ImageScorer:
    """Scores images against one class list, each class by the mean vector of all templates (arXiv:2103.00020)."""

    def __init__(
        self,
        text_encoder: TextEncoder,
        images: ImageVectors,
        classes: Sequence[str],
        templates: Sequence[str],
    ) -> None:
        self._texts = text_encoder
        self._vectors = images
        self._classes = tuple(classes)
        self._templates = tuple(templates)

    def score(self, samples: Iterable[Sample], advance: Callable[[Transcript], None]) -> Scored:
        """The predictions for these samples, in their order. A sample whose image can't be read has failed.

        `advance` is told of each as it is done. Raises EncoderUnavailableError, and MissingAnswersError offline
        for an image that was never encoded.
        """
        classes, truncated = self._encoded_classes
        table, decided = PredictionTable(), list[MatchDecision]()
        width = min(TOP, len(self._classes))
        nearest: list[tuple[NDArray[np.int64], Float64Array]] = []
        pending = iter(samples)
        while batch := list(islice(pending, BATCH)):
            for seen in self._vectors.look(batch):
                sha256 = seen.image.sha256 if seen.image else None
                table.put((seen.sample.id, sha256, seen.sample.label), len(table))
                if seen.vector is None:
                    decided.append(MatchDecision(Outcome.FAILED, reason=seen.complaint))
                else:
                    decided.append(MatchDecision(Outcome.ANSWERED, decided_by="similarity"))
                    nearest.append(rank(similarities(seen.vector[None], classes), width))
                failure: FailureKind | None = "sample" if seen.complaint else None
                told = Transcript(seen.sample.id, sha256, seen.sample.label, failure=failure, reason=seen.complaint)
                advance(told)
        decisions, count = Decisions.unscored(decided), len(decided)
        if nearest:
            is_answered = np.array([one.outcome is Outcome.ANSWERED for one in decided], np.bool_)
            rows = np.where(is_answered, np.cumsum(is_answered) - 1, -1)
            found = np.concatenate([indices for indices, _ in nearest]), np.concatenate([one for _, one in nearest])
            decisions = place_classes(decisions, rows, np.full(count, -1, np.int64), found, np.zeros(count))
        return Scored(table.finish(decisions), (), truncated)

    @cached_property
    def _encoded_classes(self) -> tuple[Float32Array, int]:
        """(c, d) rows of length 1, and how many names were cut in at least one template."""
        names = [name.replace("_", " ") for name in self._classes]
        total = np.zeros((0, 0), np.float64)
        is_cut = np.zeros(len(names), np.bool_)
        # many templates at once fill the encoder's batches; all of them for 1,000 classes would fill the memory
        size = max(1, _TEXTS // len(names))
        for start in range(0, len(self._templates), size):
            templates = self._templates[start : start + size]
            encoded = self._texts.encode([apply_template(template, name) for template in templates for name in names])
            vectors = encoded.vectors.astype(np.float64).reshape(len(templates), len(names), -1).sum(axis=0)
            total = total + vectors if total.size else vectors
            is_cut |= encoded.is_truncated.reshape(len(templates), len(names)).any(axis=0)
        means: Float32Array = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
        return means, int(is_cut.sum())


NAMES = ("paper", "coop", "imagenet")
# https://github.com/KaiyangZhou/CoOp, trainers/zsclip.py
_COOP = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "flowers102": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "food101": "a photo of {}, a type of food.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}
_COOP_DEFAULT = "a photo of a {}."


def find_templates(name: str, prompt: str, template: str) -> tuple[str, ...]:
    """The templates of that name, each with {} where the class goes.

    "paper" is `template` alone, by default the paper's; "coop" CoOp's for the stage-1 prompt `prompt`;
    "imagenet" the 80 that CLIP's authors chose for ImageNet. Raises UnknownNameError.
    """
    if name == "paper":
        return (template,)
    if name == "coop":
        return (_COOP.get(prompt, _COOP_DEFAULT),)
    if name == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(make("{}") for make in OPENAI_IMAGENET_TEMPLATES)
    raise UnknownNameError("set of CLIP templates", name, NAMES)
