"""predictions.jsonl: one line for each prediction, in the order of the samples; or the same as parquet shards.

It holds nothing that differs between two runs of equal answers, so equal answers give equal bytes. A run that a cluster
has scored holds shards in its place, predictions/00000-of-00002.parquet and so on: a row holds what a line does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Annotated, Any, Literal, TypeVar

import msgspec

from tlac.errors import InputError
from tlac.results.table_files import open_pyarrow
from tlac.runtime.safe_files import numbered_lines, open_regular
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Decisions, Int32Array, Predictions, digest_texts
from tlac.types import Float64Array, Outcome, Prediction, Stage

PREDICTIONS = "predictions.jsonl"
SHARDS = "predictions"
"""The folder that stands in place of predictions.jsonl."""

_BLOCK = 4096
# an answer has at most 16 MiB
_MOST_LINE_BYTES = 2**26
LineT = TypeVar("LineT")
_RowT = TypeVar("_RowT", bound=msgspec.Struct)

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


def encode_predictions(predictions: Predictions) -> Iterator[bytes]:
    """The content of predictions.jsonl, some thousand lines at a time."""
    return map(_ENCODER.encode_lines, _line_blocks(predictions))


def _line_blocks(predictions: Predictions) -> Iterator[list[PredictionLine]]:
    """What the lines of predictions.jsonl hold, some thousand at a time."""
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
        yield list(lines)


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
    """The predictions in a predictions.jsonl, in order, or in the shards that a run has in its place.

    Raises InputError naming file and line, or shard and row; ConfigError for shards without the package pyarrow.
    """
    return Predictions.of(Prediction(*msgspec.structs.astuple(line)) for line in _read(path, PredictionLine))


def read_asked(path: Path) -> Iterator[AskedLine]:
    """Which answers are behind these predictions. Raises as `read_predictions` does."""
    return _read(path, AskedLine)


def _read(path: Path, schema: type[_RowT]) -> Iterator[_RowT]:
    shards = path.with_suffix("")
    if not os.path.lexists(shards):
        return decode_lines(path, schema)
    if os.path.lexists(path):
        raise InputError(f"{path}: stands beside the folder {shards.name}: remove the one that is not this run's")
    return (line for shard in list_shards(shards) for line in _read_shard(shard, schema))


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


_SHARD = re.compile(r"([0-9]{5,9})-of-([0-9]{5,9})\.parquet")
# rows that are read at once, and bytes of them where answers are long
_GROUP_ROWS, _GROUP_BYTES = 1024, 2**26
_MOST_GROUP_BYTES, _MOST_FOOTER_BYTES = 2**29, 2**26
# in a line of predictions.jsonl these are pairs and triples
_PARTS = {"top5": ("class", "score"), "further": ("member", "stage", "key")}
_OMITTED = frozenset(one.encode_name for one in msgspec.structs.fields(PredictionLine) if not one.required)
_PYARROW = "'tlac[ray]'"
_REMEDY = "have the run made or copied again"


def name_shard(place: int, count: int) -> str:
    """The name of one shard of so many, by its place from 0."""
    return f"{place:05d}-of-{count:05d}.parquet"


def write_shard(file: IO[bytes], predictions: Predictions) -> None:
    """Write predictions as parquet. Raises OSError."""
    pyarrow = open_pyarrow("a shard of predictions: parquet", _PYARROW)
    # no dictionaries: then what a file says of its size bounds what reading it takes
    options = {"use_dictionary": False, "compression": "zstd", "store_schema": False, "write_statistics": False}
    schema = _shard_schema(pyarrow)
    with pyarrow.parquet.ParquetWriter(file, schema, **options) as writer:
        for group in _groups(chain.from_iterable(_line_blocks(predictions))):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _groups(lines: Iterable[PredictionLine]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size_bytes = 0
    for line in lines:
        row = msgspec.to_builtins(line)
        for name, parts in _PARTS.items():
            row[name] = [dict(zip(parts, one, strict=True)) for one in row.get(name, ())]
        rows.append(row)
        size_bytes += sum(len(text) for text in (line.answer, line.choice, line.reason) if text)
        if len(rows) == _GROUP_ROWS or size_bytes > _GROUP_BYTES:
            yield rows
            rows, size_bytes = [], 0
    if rows:
        yield rows


def _shard_schema(pyarrow: Any) -> Any:
    text, number, index = pyarrow.string(), pyarrow.float64(), pyarrow.int32()
    pairs = {
        "top5": pyarrow.struct([("class", index), ("score", number)]),
        "further": pyarrow.struct([("member", index), ("stage", text), ("key", text)]),
    }
    lists = {name: pyarrow.list_(kind) for name, kind in (pairs | dict.fromkeys(_INDEX_LISTS, index)).items()}
    types = lists | dict.fromkeys(_NUMBERS, number) | {"label": index, "predicted": index}
    types |= {"looked_again": pyarrow.bool_()}
    names = [one.encode_name for one in msgspec.structs.fields(PredictionLine)]
    return pyarrow.schema([(name, types.get(name, text)) for name in names])


_INDEX_LISTS = ("words", "shortlist", "votes")
_NUMBERS = ("score", "margin", "confidence", "second", "logprob")


def list_shards(folder: Path) -> list[Path]:
    """The shards in a run's folder of predictions, in order. Raises InputError where one is missing, or for what is
    none."""
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: is no folder of predictions, or a link, which is not followed; {_REMEDY}")
    names = sorted(path.name for path in folder.iterdir())
    if wrong := [name for name in names if not _SHARD.fullmatch(name)]:
        raise InputError(f"{folder}: {wrong[0]!r} is no shard of predictions: move it away")
    counts = {int(match[2]) for match in map(_SHARD.fullmatch, names) if match}
    # a run without its last shards would look whole
    count = max(counts, default=1)
    for place, name in enumerate(map(name_shard, range(count), [count] * count)):
        if names[place : place + 1] != [name]:
            raise InputError(f"{folder / name}: is missing; {_REMEDY}")
    if len(names) > count:
        raise InputError(f"{folder}: {names[count]!r} is of another run: move it away")
    return [folder / name for name in names]


def _read_shard(path: Path, schema: type[_RowT]) -> Iterator[_RowT]:
    """What a schema knows of the rows of a shard, which somebody else may have made.

    Raises InputError naming file and row.
    """
    pyarrow = open_pyarrow(f"{path}: parquet", _PYARROW)
    names = [one.encode_name for one in msgspec.structs.fields(schema)]
    number = 0
    with open_regular(path, within=path.parent.parent) as file:
        try:
            _refuse_types(file)
            opened = pyarrow.parquet.ParquetFile(file)
            _refuse_schema(opened.schema_arrow, _shard_schema(pyarrow))
            for place in range(opened.num_row_groups):
                _refuse_group(opened.metadata.row_group(place))
                group = opened.read_row_group(place, names)
                columns = [_cells(group.column(name), _PARTS.get(name)) for name in group.column_names]
                for row in zip(*columns, strict=True):
                    number += 1
                    cells = zip(group.column_names, row, strict=True)
                    said = {name: cell for name, cell in cells if cell is not None or name not in _OMITTED}
                    yield msgspec.convert(said, schema)
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, InputError, msgspec.MsgspecError) as error:
            where = f"row {number}: " if isinstance(error, msgspec.MsgspecError) else ""
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path}: {where}not as a run writes it: {reason}; {_REMEDY}") from error


def _cells(column: Any, parts: Sequence[str] | None) -> list[Any]:
    """The cells of a column; those of one with `parts` as tuples of tuples."""
    if parts is None:
        cells: list[Any] = column.to_pylist()
        return cells
    # ten times as fast as a dict for each
    lists = column.combine_chunks()
    values = lists.flatten()
    if lists.null_count or values.null_count:
        raise InputError("a null among tuples")
    items = zip(*(values.field(part).to_pylist() for part in parts), strict=True)
    return [tuple(islice(items, length)) for length in lists.value_lengths().to_pylist()]


def _refuse_types(file: IO[bytes]) -> None:
    """Refuse a file that brings types of its own: a package that knows them may run what they hold as it opens it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or not 0 < length <= min(size - 12, _MOST_FOOTER_BYTES):
        raise InputError("it is no parquet file")
    file.seek(size - 8 - length)
    if b"ARROW:schema" in file.read(length):
        raise InputError("it holds a schema of its own (ARROW:schema)")
    file.seek(0)


def _refuse_schema(found: Any, ours: Any) -> None:
    types = {name: str(kind) for name, kind in zip(found.names, found.types, strict=True)}
    for name, kind in zip(ours.names, ours.types, strict=True):
        if name not in types:
            raise InputError(f"the column {name} is missing")
        if not found.field(name).type.equals(kind):
            raise InputError(f"the column {name} holds {types[name]}, and not {kind}")
    if more := [name for name in found.names if name not in ours.names]:
        raise InputError(f"the column {more[0]!r} is none of a run's")


def _refuse_group(group: Any) -> None:
    columns = [group.column(place) for place in range(group.num_columns)]
    if not 0 <= group.total_byte_size <= _MOST_GROUP_BYTES or max(one.num_values for one in columns) > _GROUP_BYTES:
        raise InputError(f"a row group holds more than {_MOST_GROUP_BYTES:,} bytes, the most that is read")
    if any("DICTIONARY" in encoding for one in columns for encoding in one.encodings):
        raise InputError("a column is encoded by a dictionary")
