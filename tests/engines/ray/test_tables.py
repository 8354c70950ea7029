from __future__ import annotations

from pathlib import Path

from tlac.engines.ray.tables import read_samples, write_samples
from tlac.errors import InputError
from tlac.types import Sample


def test_samples_go_to_workers_as_paths_or_as_bytes_also_those_that_are_fetched(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise InputError("s3://bucket/gone.png: can't be read: not found")

    samples = [
        Sample("a", Path("a.png"), 1),
        Sample("b", b"bytes"),
        Sample("c", lambda: b"fetched"),
        # it fails by name where the driver looks at it
        Sample("d", fail),
    ]
    files = write_samples(samples, tmp_path / "samples", len(samples), 1)
    positions, found = read_samples(map(str, files))
    assert positions == [0, 1, 2, 3]
    assert [sample.source for sample in found] == [Path("a.png").absolute(), b"bytes", b"fetched", b""]
    assert [sample.label for sample in found] == [1, None, None, None]
