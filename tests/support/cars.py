"""A dataset of six cars, and what an LMM says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.fakes import make_png
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, BackendSpec, EncoderConfig, EncoderSpec
from tlac.evaluation.runner import RunConfig
from tlac.types import LMMRequest, Sample

BACKEND = Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m"))


@dataclass(frozen=True)
class Cars:
    name: str = "cars"
    split: str = "all"
    protocol: str = "ours"
    prompt: str = "default"
    classes: tuple[str, ...] = ("red car", "old car", "lorry")
    size: int = 9

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self.size):
            yield Sample(f"{number}.png", make_png(number), number % 3)


SPEC = RunConfig(
    BACKEND,
    BACKEND,
    Cars(),
    "tlac",
    EncoderConfig("letters", "letters", EncoderSpec(adapter="letters", model="letters")),
    load_prompts("default"),
    "ladder",
)


def answer(request: LMMRequest) -> str:
    # three distinct first answers for nine images, one of them a class name
    if request.stage == "stage2":
        return "old car" if "ancient" in request.choice.answer else "lorry"
    (image,) = request.images
    place = [make_png(number) for number in range(9)].index(image.source)
    return ("Red car.", "an ancient vehicle", "a big truck")[place % 3]
