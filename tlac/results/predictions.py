"""predictions.jsonl: one line for each prediction, in the order of the samples.

It holds nothing that differs between two runs of equal answers, so equal answers give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np

from tlac.errors import InputError
from tlac.runtime.safe_files import numbered_lines, open_regular
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Decisions, Digests, Predictions, digest_texts
from tlac.types import Outcome, Prediction, Stage

PREDICTIONS = "predictions.jsonl"
_BLOCK = 4096
# an answer has at most 16 MiB
_MOST_LINE_BYTES = 2**26
LineT = TypeVar("LineT")

# two fields have had other names in files since the first version
RENAMED = {"decided_by": "rung", "stage2_with_image": "looked_again"}
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Index = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
# cosines, and standard deviations of a method that scores the image too
_Score = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]


class PredictionLine(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, rename=RENAMED):
    """What a line holds, in this order; the last ones only where a method or an option has them to say."""

    sample: str
    image_sha256: _Digest | None
    label: _Index | None
    outcome: Outcome
    answer: str | None
    choice: str | None
    decided_by: Literal["exact", "choice", "similarity"] | None
    predicted: _Index | None
    score: _Score | None
    margin: _Score | None
    top5: tuple[tuple[_Index, _Score], ...]
    stage1_key: _Digest | None
    stage2_key: _Digest | None
    words: tuple[_Index, ...]
    reason: str
    shortlist: tuple[_Index, ...] = ()
    stage2_with_image: bool = False
    further: tuple[tuple[int, Stage, _Digest], ...] = ()
    votes: tuple[_Index | None, ...] = ()
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    second: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    logprob: Annotated[float, msgspec.Meta(ge=-1e9, le=0)] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a class without what it was chosen by, which every run writes."""
        if self.predicted is not None and (self.score is None or self.margin is None):
            raise ValueError("a predicted class without score and margin")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all answers behind it."""
        first = tuple(key for key in (self.stage1_key, self.stage2_key) if key is not None)
        return (*first, *(key for _, _, key in self.further))


_ENCODER = msgspec.json.Encoder()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write all predictions, a line each. Raises OSError."""
    with path.open("wb") as file:
        lines = encode_predictions(predictions)
        while block := list(islice(lines, _BLOCK)):
            file.writelines(block)


def encode_predictions(predictions: Predictions) -> Iterator[bytes]:
    """The lines of predictions.jsonl with their line breaks.

    What equal answers share is encoded once: samples outnumber distinct answers by far in large runs.
    """
    decisions, encode = predictions.decisions, _ENCODER.encode
    shared = [_encode_decision(decisions, row) for row in range(len(decisions))]
    lists = [encode(shortlist) for shortlist in predictions.shortlists]
    no_label = -1
    columns = zip(
        predictions.samples,
        _encoded_digests(predictions.image_sha256),
        predictions.label.tolist(),
        predictions.decision.tolist(),
        _encoded_digests(predictions.stage1_key),
        _encoded_digests(predictions.stage2_key),
        predictions.shortlist.tolist(),
        predictions.stage2_with_image.tolist(),
        predictions.further.tolist(),
        strict=True,
    )
    for sample, image, label, decision, stage1, stage2, shortlist, with_image, further in columns:
        head, middle, tail = shared[decision]
        known = b"null" if label == no_label else b"%d" % label
        yield b"".join(
            (
                b'{"sample":%b,"image_sha256":%b,"label":%b,' % (encode(sample), image, known),
                head,
                b'"stage1_key":%b,"stage2_key":%b,' % (stage1, stage2),
                middle,
                b',"shortlist":%b' % lists[shortlist] if shortlist else b"",
                b',"looked_again":true' if with_image else b"",
                b',"further":%b' % encode(predictions.furthers[further]) if further else b"",
                tail,
                b"}\n",
            )
        )


def _encode_decision(decisions: Decisions, row: int) -> tuple[bytes, bytes, bytes]:
    """The parts of a line that belong to its decision: before the keys, behind them, and at the end."""
    code, predicted = int(decisions.decided_by[row]), int(decisions.predicted[row])
    head = {
        "outcome": OUTCOMES[decisions.outcome[row]],
        "answer": decisions.answer[row],
        "choice": decisions.choice[row],
        "rung": DECISIONS[code] if code >= 0 else None,
        "predicted": predicted if predicted >= 0 else None,
        # msgspec writes NaN as null
        "score": float(decisions.score[row]),
        "margin": float(decisions.margin[row]),
        "top5": decisions.top(row),
    }
    tail: dict[str, Any] = {"votes": decisions.votes[row]} if decisions.votes[row] else {}
    for name in ("confidence", "second", "logprob"):
        if not np.isnan(value := getattr(decisions, name)[row]):
            tail[name] = float(value)
    middle = {"words": decisions.words[row], "reason": decisions.reason[row]}
    inside_head, inside_middle, inside_tail = (_ENCODER.encode(part)[1:-1] for part in (head, middle, tail))
    return inside_head + b",", inside_middle, b"," + inside_tail if inside_tail else b""


def _encoded_digests(digests: Digests) -> Iterator[bytes]:
    return (b"null" if text is None else b'"%b"' % text.encode() for text in digest_texts(digests))


def read_predictions(path: Path) -> Predictions:
    """The predictions in a predictions.jsonl, in order. Raises InputError naming file and line."""
    return Predictions.of(Prediction(*msgspec.structs.astuple(line)) for line in read_lines(path))


def read_lines(path: Path) -> Iterator[PredictionLine]:
    """The lines of a predictions.jsonl. Raises InputError naming file and line."""
    return decode_lines(path, PredictionLine)


def decode_lines(path: Path, schema: type[LineT]) -> Iterator[LineT]:
    """The lines of a file of JSON objects in a run folder, which somebody else may have made.

    Raises InputError naming file and line, also for a line that no run writes: of many megabytes, or nested deep.
    """
    decoder = msgspec.json.Decoder(schema)
    with open_regular(path, within=path.parent) as file:
        for number, line in numbered_lines(file, path, _MOST_LINE_BYTES):
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise InputError(f"{path}: line {number}: {error}") from error
