"""The tables that go through the cluster: samples in, turns out.

A turn's row is of one sample and member; `group`, `about`, `offered` and `chooser` hold a choice that is put off. The
schemas name the columns. Samples lie in files, which a table of shards lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlac.engines.ray.job import GROUP
from tlac.errors import InputError
from tlac.types import Outcome, Sample, Transcript, Turn

_SHARD_BYTES = 16 * 2**20
_LONGEST_SHARD = 2000


@dataclass(frozen=True, slots=True)
class Choice:
    """A stage-2 question that is put off: the answer, the classes that may be chosen, the backend's digest."""

    answer: str
    candidates: tuple[int, ...] | None
    backend: str


def _sample_schema() -> Any:
    import pyarrow as pa

    # an image is the path of a file, or the file's bytes
    image = [("path", pa.string()), ("content", pa.binary())]
    return pa.schema([("position", pa.int64()), ("sample", pa.string()), *image, ("label", pa.int32())])


def _turn_schema() -> Any:
    import pyarrow as pa

    texts = ("image_sha256", "stage1_key", "outcome", "answer", "stage2_key", "choice_outcome", "choice", "failure")
    return pa.schema(
        [
            ("position", pa.int64()),
            ("sample", pa.string()),
            ("label", pa.int32()),
            ("member", pa.int32()),
            *((name, pa.string()) for name in texts),
            (GROUP, pa.string()),
            ("about", pa.string()),
            ("offered", pa.list_(pa.int32())),
            ("chooser", pa.string()),
        ]
    )


def write_samples(samples: Iterable[Sample], folder: Path, count: int, workers: int) -> list[Path]:
    """Write samples to parquet files of about equal size, several for each worker; returns the files.

    Images that are files stay where they are: their paths are written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    longest = max(1, min(_LONGEST_SHARD, -(-count // (4 * workers))))
    files: list[Path] = []
    folder.mkdir(parents=True)
    for rows in _shards(samples, longest):
        files.append(folder / f"{len(files):06d}.parquet")
        pq.write_table(pa.Table.from_pylist(rows, schema=_sample_schema()), files[-1])
    return files


def read_samples(files: Iterable[str]) -> tuple[list[int], list[Sample]]:
    """Positions and samples of such files."""
    import pyarrow.parquet as pq

    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    samples = [
        Sample(row["sample"], Path(row["path"]) if row["path"] is not None else row["content"], row["label"])
        for row in rows
    ]
    return [row["position"] for row in rows], samples


def turns_table(positions: Sequence[int], transcripts: Sequence[Transcript], put_off: Mapping[str, Choice]) -> Any:
    """Transcripts as a table. Where nobody could be asked, there are no transcripts, and no rows."""
    import pyarrow as pa

    rows = [
        row
        for position, transcript in zip(positions, transcripts, strict=False)
        for row in _turn_rows(position, transcript, put_off)
    ]
    return pa.Table.from_pylist(rows, schema=_turn_schema())


def read_choices(table: Any) -> dict[str, Choice]:
    """The choices that a table of turns lacks, by their keys."""
    columns = table.select(["stage2_key", "choice_outcome", "about", "offered", "chooser"]).to_pylist()
    return {
        row["stage2_key"]: Choice(
            row["about"], None if row["offered"] is None else tuple(row["offered"]), row["chooser"]
        )
        for row in columns
        if row["chooser"] is not None and row["choice_outcome"] is None
    }


def fill_choices(table: Any, chosen: Mapping[str, Turn]) -> Any:
    """A table of turns with the choices filled in, those that there are."""
    import pyarrow as pa

    rows = table.to_pylist()
    for row in rows:
        turn = chosen.get(row["stage2_key"])
        if turn is not None and row["choice_outcome"] is None:
            row["choice_outcome"], row["choice"] = turn.response.outcome.value, turn.response.text
    return pa.Table.from_pylist(rows, schema=_turn_schema())


def _shards(samples: Iterable[Sample], longest: int) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size_bytes = 0
    for position, sample in enumerate(samples):
        content = None if isinstance(sample.source, Path) else _content(sample.source)
        # a worker has another working directory; links are not followed
        path = os.path.abspath(sample.source) if isinstance(sample.source, Path) else None  # noqa: PTH100
        rows.append(
            {"position": position, "sample": sample.id, "path": path, "content": content, "label": sample.label}
        )
        size_bytes += len(content or b"")
        if len(rows) == longest or size_bytes > _SHARD_BYTES:
            yield rows
            rows, size_bytes = [], 0
    if rows:
        yield rows


def _content(source: bytes | Callable[[], bytes]) -> bytes:
    try:
        return source if isinstance(source, bytes) else source()
    except InputError:
        # it fails by name where the driver looks at it
        return b""


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
            "failure": transcript.failure.reason if transcript.failure else None,
            GROUP: second.key if second else first.key if first else transcript.sample,
            "about": waits.answer if waits else None,
            "offered": list(waits.candidates) if waits and waits.candidates is not None else None,
            "chooser": waits.backend if waits else None,
        }
