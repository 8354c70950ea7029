"""predictions.jsonl: one line for each prediction, in the order of the samples.

Holds nothing that differs between two runs of equal answers. Does not know what a run is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from tlac.errors import InputError
from tlac.types import Outcome, Prediction, Stage

PREDICTIONS = "predictions.jsonl"
_BLOCK = 512

LineT = TypeVar("LineT")


# two fields have had other names in files since the first version
RENAMED = {"decided_by": "rung", "stage2_with_image": "looked_again"}


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, rename=RENAMED):
    """What a line holds, in this order; the last ones only where a method or an option has them to say."""

    sample: str
    image_sha256: str | None
    label: int | None
    outcome: Outcome
    answer: str | None
    choice: str | None
    decided_by: str | None
    predicted: int | None
    score: float | None
    margin: float | None
    top5: tuple[tuple[int, float], ...]
    stage1_key: str | None
    stage2_key: str | None
    words: tuple[int, ...]
    reason: str
    shortlist: tuple[int, ...] = ()
    stage2_with_image: bool = False
    further: tuple[tuple[int, Stage, str], ...] = ()
    votes: tuple[int | None, ...] = ()
    confidence: float | None = None


_ENCODER = msgspec.json.Encoder()


def prediction_line(prediction: Prediction) -> str:
    """One line of predictions.jsonl, without its line break."""
    return _ENCODER.encode(_line(prediction)).decode()


def _line(prediction: Prediction) -> _Line:
    return _Line(
        prediction.sample,
        prediction.image_sha256,
        prediction.label,
        prediction.outcome,
        prediction.answer,
        prediction.choice,
        prediction.decided_by,
        prediction.predicted,
        prediction.score,
        prediction.margin,
        prediction.top5,
        prediction.stage1_key,
        prediction.stage2_key,
        prediction.words,
        prediction.reason,
        prediction.shortlist,
        prediction.stage2_with_image,
        prediction.further,
        prediction.votes,
        prediction.confidence,
    )


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Write predictions as they are gone through, and give them on. Raises OSError."""
    pending = iter(predictions)
    with path.open("wb") as lines:
        while block := list(islice(pending, _BLOCK)):
            lines.write(_ENCODER.encode_lines([_line(prediction) for prediction in block]))
            yield from block


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The predictions in a predictions.jsonl, in order. Raises InputError naming file and line."""
    for line in read_lines(path, msgspec.json.Decoder(_Line)):
        yield Prediction(*msgspec.structs.astuple(line))


def read_lines(path: Path, decoder: msgspec.json.Decoder[LineT]) -> Iterator[LineT]:
    """The lines of a predictions.jsonl as the decoder has them. Raises InputError naming file and line."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield decoder.decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise InputError(f"{path}: line {number}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; is this a run folder?") from error
