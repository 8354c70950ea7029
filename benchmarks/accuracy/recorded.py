"""What the scripts of this folder share: recorded answers as transcripts, and the encoder of all figures.

The answers lie in FOLDER: for each image, what a large multimodal model said of it in each kind of words, and which of
all class names it chose after that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from tlac.cache.store import Store
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_encoder_config
from tlac.encoders.cached import StoredEncoder
from tlac.runtime.litellm_setup import load_litellm
from tlac.scoring.matching import ClassIndex
from tlac.types import SECOND_SAMPLE, LMMResponse, Outcome, Stage, Transcript, Turn

ROOT = Path(__file__).parents[2]
FOLDER = ROOT.parent / "shared" / "lmm-answers"
KINDS = ("sentence", "name")


def say(text: str = "") -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")


def minilm(store: Store) -> StoredEncoder:
    """The text encoder of all figures, over the store."""
    return StoredEncoder(open_encoder(replace(load_encoder_config("minilm"), is_offline=True)), store)


def count_tokens() -> Callable[[str], int]:
    """Counts tokens as OpenAI's cl100k_base has them; litellm ships its table."""
    load_litellm()
    from litellm.litellm_core_utils.default_encoding import encoding

    return lambda text: len(encoding.encode(text, disallowed_special=()))


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The answers of a file, by image."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def needs_choice(index: ClassIndex, answer: str) -> bool:
    """Whether the ladder asks stage 2 about a first answer."""
    return index.find(answer.strip().rstrip(".")) is None


def transcripts_of(
    answers: Sequence[dict[str, Any]],
    index: ClassIndex,
    kinds: Sequence[str],
    stages: int = 1,
    asks_all: bool = False,
    seconds: Sequence[str] = (),
) -> list[Transcript]:
    """What was said of each image in the first of these kinds of words, with the others as further members.

    With two stages the recorded choice follows, with `asks_all` also where the first answer names a class. `seconds`
    are the answers of second samples, by image.
    """
    made = []
    for place, answer in enumerate(answers):
        members = [_turns(answer, kind, member, index, stages, asks_all) for member, kind in enumerate(kinds)]
        (stage1, *stage2), *others = map(list, members)
        further = list(chain(*others))
        if seconds:
            further.append(_turn("stage1", seconds[place], SECOND_SAMPLE))
        own = stage2[0] if stage2 else None
        made.append(Transcript(str(place), None, answer["label"], stage1, own, further=tuple(further)))
    return made


def _turns(
    answer: dict[str, Any], kind: str, member: int, index: ClassIndex, stages: int, asks_all: bool
) -> Iterator[Turn]:
    said = answer["stage1"][kind]
    yield _turn("stage1", said, member)
    if stages == 2 and (asks_all or needs_choice(index, said)):
        yield _turn("stage2", answer["stage2"][kind], member)


def _turn(stage: Stage, text: str, member: int) -> Turn:
    return Turn(stage, "", LMMResponse(Outcome.ANSWERED, text), member)
