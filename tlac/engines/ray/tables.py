"""The tables that go through the cluster: samples in, turns out; choices that were put off in, what was chosen out.

A turn's row is of one sample and member; `about`, `offered` and `chooser` hold a choice that is put off. The schemas
name the columns. What goes in lies in files, which a table of shards lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tlac.engines.ray.logs import KeySet
from tlac.errors import InputError
from tlac.types import Outcome, Sample, Source, Transcript, Turn

_SHARD_BYTES = 16 * 2**20
_LONGEST_SHARD = 2000


@dataclass(frozen=True, slots=True)
class Choice:
    """A stage-2 question that is put off: the answer, the classes that may be chosen, the backend's digest."""

    answer: str
    candidates: tuple[int, ...] | None
    backend: str


# an image is the path of a file, or the file's `content`; `name` is what complaints call it, and `complaint` what its
# dataset complains of where it can't be read
_SAMPLES = ("position", "sample", "path", "content", "label", "name", "complaint")
_CHOICES = ("about", "offered", "chooser")
_CHOSEN = ("stage2_key", "choice_outcome", "choice")
_TURNS = (
    *("position", "sample", "label", "member", "image_sha256", "stage1_key", "outcome", "answer"),
    *(*_CHOSEN, "failure", *_CHOICES),
)


def _schema(columns: Iterable[str]) -> Any:
    import pyarrow as pa

    kinds = {"position": pa.int64(), "label": pa.int32(), "member": pa.int32(), "content": pa.binary()}
    kinds["offered"] = pa.list_(pa.int32())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in columns])


def write_samples(samples: Iterable[Sample], folder: Path, count: int, workers: int) -> list[Path]:
    """Write samples to parquet files of about equal size, several for each worker; returns the files.

    Images that are files stay where they are: their paths are written.
    """
    return _write_shards(_sample_rows(samples), _schema(_SAMPLES), folder, _length(count, workers))


def write_choices(turns: Path, folder: Path, workers: int) -> list[Path]:
    """Write the choices that a folder of turns lacks, each distinct one once, as write_samples does samples."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = _schema(("stage2_key", *_CHOICES))

    def tables(columns: list[str]) -> Iterator[Any]:
        # one by one: as a data set they are read ahead, hundreds of megabytes of a million
        for file in sorted(turns.glob("*.parquet")):
            yield pq.read_table(file, columns=columns, filters=pc.field("chooser").is_valid())

    count = sum(table.num_rows for table in tables(["chooser"]))
    rows = _distinct(row for table in tables(schema.names) for row in table.to_pylist())
    return _write_shards(((row, len(row["about"])) for row in rows), schema, folder, _length(count, workers))


def read_samples(files: Iterable[str | Path]) -> tuple[list[int], list[Sample], list[str]]:
    """Positions and samples of such files, and what complaints call their images: by their paths as the dataset gave
    them."""
    import pyarrow.parquet as pq

    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    samples = [Sample(row["sample"], _source(row), row["label"]) for row in rows]
    return [row["position"] for row in rows], samples, [row["name"] for row in rows]


def sample_at(files: Sequence[Path], position: int) -> str:
    """The id of the sample at a position of the run, whose samples are in these files, in order."""
    import pyarrow.parquet as pq

    for path in files:
        ids = pq.ParquetFile(path)
        if position < ids.metadata.num_rows:
            return str(ids.read(columns=["sample"])["sample"][position])
        position -= ids.metadata.num_rows
    raise IndexError(position)


def _source(row: Mapping[str, Any]) -> Source:
    if row["complaint"] is not None:
        return partial(_complain, row["complaint"])
    return Path(row["path"]) if row["path"] is not None else row["content"]


def _complain(complaint: str) -> bytes:
    raise InputError(complaint)


def turns_table(positions: Sequence[int], transcripts: Sequence[Transcript], put_off: Mapping[str, Choice]) -> Any:
    """Transcripts as a table. Where nobody could be asked, there are no transcripts, and no rows."""
    import pyarrow as pa

    rows = [
        row
        for position, transcript in zip(positions, transcripts, strict=False)
        for row in _turn_rows(position, transcript, put_off)
    ]
    return pa.Table.from_pylist(rows, schema=_schema(_TURNS))


def read_choices(files: Iterable[str]) -> dict[str, Choice]:
    """The choices in such files, by their keys."""
    import pyarrow.parquet as pq

    rows = (row for file in files for row in pq.read_table(file).to_pylist())
    return {
        row["stage2_key"]: Choice(
            row["about"], None if row["offered"] is None else tuple(row["offered"]), row["chooser"]
        )
        for row in rows
    }


def chosen_table(chosen: Mapping[str, Turn]) -> Any:
    """What was chosen, by the keys of the choices, as a table."""
    import pyarrow as pa

    responses = [turn.response for turn in chosen.values()]
    columns = [list(chosen), [one.outcome.value for one in responses], [one.text for one in responses]]
    return pa.table(columns, _schema(_CHOSEN))


def _length(count: int, workers: int) -> int:
    """How many rows a file holds: several files for each worker, and none that a worker has in hand for long."""
    return max(1, min(_LONGEST_SHARD, -(-count // (4 * workers))))


def _write_shards(rows: Iterable[tuple[dict[str, Any], int]], schema: Any, folder: Path, length: int) -> list[Path]:
    """Write rows, each with its size in bytes, to files in a new folder; returns these."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: list[Path] = []
    shard: list[dict[str, Any]] = []
    size_bytes = 0
    folder.mkdir(parents=True)

    def write() -> None:
        files.append(folder / f"{len(files):06d}.parquet")
        pq.write_table(pa.Table.from_pylist(shard, schema=schema), files[-1])

    for row, row_bytes in rows:
        shard.append(row)
        size_bytes += row_bytes
        if len(shard) == length or size_bytes > _SHARD_BYTES:
            write()
            shard, size_bytes = [], 0
    if shard:
        write()
    return files


def _distinct(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen = KeySet()
    for row in rows:
        if row["stage2_key"] not in seen:
            seen.add(row["stage2_key"])
            yield row


def _sample_rows(samples: Iterable[Sample]) -> Iterator[tuple[dict[str, Any], int]]:
    for position, sample in enumerate(samples):
        content, complaint = (None, None) if isinstance(sample.source, Path) else _content(sample.source)
        # a worker has another working directory; links are not followed
        path = os.path.abspath(sample.source) if isinstance(sample.source, Path) else None  # noqa: PTH100
        row = {
            "position": position,
            "sample": sample.id,
            "path": path,
            "content": content,
            "label": sample.label,
            "name": sample.source_name,
            "complaint": complaint,
        }
        yield row, len(content or b"")


def _content(source: bytes | Callable[[], bytes]) -> tuple[bytes | None, str | None]:
    try:
        return source if isinstance(source, bytes) else source(), None
    except InputError as error:
        return None, str(error)


def _turn_rows(position: int, transcript: Transcript, put_off: Mapping[str, Choice]) -> Iterator[dict[str, Any]]:
    for member in sorted({turn.member for turn in transcript.turns} | {0}):
        turns = {turn.stage: turn for turn in transcript.turns if turn.member == member}
        first, second = turns.get("stage1"), turns.get("stage2")
        waits = put_off.get(second.key) if second else None
        yield {
            "position": position,
            "sample": transcript.sample,
            "label": transcript.label,
            "member": member,
            "image_sha256": transcript.image_sha256,
            "stage1_key": first.key if first else None,
            "outcome": (first.response.outcome if first else Outcome.FAILED).value,
            "answer": first.response.text if first else None,
            "stage2_key": second.key if second else None,
            "choice_outcome": second.response.outcome.value if second and not waits else None,
            "choice": second.response.text if second and not waits else None,
            "failure": transcript.reason if transcript.failure else None,
            "about": waits.answer if waits else None,
            "offered": list(waits.candidates) if waits and waits.candidates is not None else None,
            "chooser": waits.backend if waits else None,
        }
