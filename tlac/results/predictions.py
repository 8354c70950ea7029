"""predictions.jsonl: one line for each prediction, in the order of the samples.

It holds nothing that differs between two runs of equal answers, so equal answers give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from tlac.errors import InputError
from tlac.runtime.safe_files import numbered_lines, open_regular
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Decisions, Int32Array, Predictions, digest_texts
from tlac.types import Float64Array, Outcome, Prediction, Stage

PREDICTIONS = "predictions.jsonl"
_BLOCK = 4096
# an answer has at most 16 MiB
_MOST_LINE_BYTES = 2**26
LineT = TypeVar("LineT")

# two fields have had other names in files since the first version
RENAMED = {"decided_by": "rung", "stage2_with_image": "looked_again"}
# whether it is hexadecimal shows when it is made 32 bytes: a pattern would take half of the time of reading a line
_Digest = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
_Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
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
    further: tuple[tuple[int, Stage, _Key], ...] = ()
    votes: tuple[_Index | None, ...] = ()
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    second: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    logprob: Annotated[float, msgspec.Meta(ge=-1e9, le=0)] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a class without what it was chosen by, which every run writes."""
        if self.predicted is not None and (self.score is None or self.margin is None):
            raise ValueError("a predicted class without score and margin")


class AskedLine(msgspec.Struct, frozen=True, gc=False, rename=RENAMED):
    """What of a line says which answers are behind it: it is read in a third of the time of the whole."""

    sample: str
    image_sha256: _Digest | None
    label: _Index | None
    outcome: Outcome
    stage1_key: _Digest | None
    stage2_key: _Digest | None
    reason: str
    shortlist: tuple[_Index, ...] = ()
    stage2_with_image: bool = False
    further: tuple[tuple[int, Stage, _Key], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all answers."""
        first = tuple([key for key in (self.stage1_key, self.stage2_key) if key is not None])
        return (*first, *(key for _, _, key in self.further)) if self.further else first


_ENCODER = msgspec.json.Encoder()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write all predictions, a line each. Raises OSError."""
    with path.open("wb") as file:
        file.writelines(encode_predictions(predictions))


def encode_predictions(predictions: Predictions) -> Iterator[bytes]:
    """The content of predictions.jsonl, some thousand lines at a time."""
    first, between, last = _decided_columns(predictions.decisions)
    for start in range(0, len(predictions), _BLOCK):
        part = slice(start, start + _BLOCK)
        decision = predictions.decision[part].tolist()

        def spread(columns: Iterable[Sequence[Any]], rows: Sequence[int] = decision) -> Iterator[Iterator[Any]]:
            return (map(column.__getitem__, rows) for column in columns)

        # columns all the way: a tuple of fields for each line would take as long as to encode it
        lines = map(
            PredictionLine,
            predictions.samples[part],
            digest_texts(predictions.image_sha256[part]),
            _indices(predictions.label[part]),
            *spread(first),
            digest_texts(predictions.stage1_key[part]),
            digest_texts(predictions.stage2_key[part]),
            *spread(between),
            *spread([predictions.shortlists], predictions.shortlist[part].tolist()),
            predictions.stage2_with_image[part].tolist(),
            *spread([predictions.furthers], predictions.further[part].tolist()),
            *spread(last),
        )
        yield _ENCODER.encode_lines(list(lines))


def _decided_columns(decisions: Decisions) -> tuple[list[Sequence[Any]], ...]:
    """What lines of equal decisions share, as columns: outcome to top5; words and reason; votes to the last."""
    # lists of Python's own numbers: to take one number out of an array takes as long as to encode it
    ranked = (decisions.top_classes, decisions.top_scores, (decisions.top_classes >= 0).sum(axis=1))
    top5 = [
        tuple(zip(classes[:count], scores))  # noqa: B905 - a row that names fewer classes is filled up with zeros
        for classes, scores, count in zip(*(column.tolist() for column in ranked), strict=True)
    ]
    first = [
        [OUTCOMES[code] for code in decisions.outcome.tolist()],
        decisions.answer,
        decisions.choice,
        [DECISIONS[code] if code >= 0 else None for code in decisions.decided_by.tolist()],
        _indices(decisions.predicted),
        _numbers(decisions.score),
        _numbers(decisions.margin),
        top5,
    ]
    last = [decisions.votes, *map(_numbers, (decisions.confidence, decisions.second, decisions.logprob))]
    return first, [decisions.words, decisions.reason], last


def _indices(column: Int32Array) -> list[int | None]:
    """The values of a column, None for -1."""
    return [None if value < 0 else value for value in column.tolist()]


def _numbers(column: Float64Array) -> list[float | None]:
    """The values of a column, None for NaN."""
    return [None if value != value else value for value in column.tolist()]  # noqa: PLR0124 - NaN alone differs from itself


def read_predictions(path: Path) -> Predictions:
    """The predictions in a predictions.jsonl, in order. Raises InputError naming file and line."""
    return Predictions.of(Prediction(*msgspec.structs.astuple(line)) for line in decode_lines(path, PredictionLine))


def read_asked(path: Path) -> Iterator[AskedLine]:
    """Which answers are behind the predictions in a predictions.jsonl. Raises InputError naming file and line."""
    return decode_lines(path, AskedLine)


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
