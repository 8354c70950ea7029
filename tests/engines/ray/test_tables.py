from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tlac.engines.ray.tables import (
    Choice,
    read_choices,
    read_samples,
    turns_table,
    write_choices,
    write_samples,
)
from tlac.errors import InputError
from tlac.images import identify
from tlac.types import LMMResponse, Outcome, Sample, Transcript, Turn


def test_samples_go_to_workers_as_paths_or_as_bytes_also_those_that_are_fetched(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise InputError("s3://bucket/gone.png: can't be read: not found")

    samples = [
        Sample("a", Path("a.png"), 1),
        Sample("b", b"bytes"),
        Sample("c", lambda: b"fetched"),
        Sample("d", fail),
    ]
    files = write_samples(samples, tmp_path / "samples", len(samples), 1)
    positions, found, names = read_samples(files)
    assert positions == [0, 1, 2, 3]
    assert [sample.source for sample in found[:3]] == [Path("a.png").absolute(), b"bytes", b"fetched"]
    # it fails in the words of its dataset, and others under the names that this gave them
    with pytest.raises(InputError, match=r"^s3://bucket/gone\.png: can't be read: not found$"):
        identify(found[3].source, "d")
    assert names == ["a.png", "b", "c", "d"]
    assert [sample.label for sample in found] == [1, None, None, None]


def turns_file(folder: Path, name: str, answers: list[str]) -> None:
    """The turns of a shard whose samples got these answers, each of which stage 2 is to be asked about."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="it comes with the extra: pip install 'tlac[ray]'")
    folder.mkdir(exist_ok=True)
    said = LMMResponse(Outcome.ANSWERED, "")
    keys = {answer: hashlib.sha256(answer.encode()).hexdigest() for answer in answers}
    transcripts = [
        Transcript(f"{name}-{place}", None, 0, Turn("stage1", "", said), Turn("stage2", keys[answer], said))
        for place, answer in enumerate(answers)
    ]
    put_off = {key: Choice(answer, (2, 5) if answer == "a cat" else None, "b") for answer, key in keys.items()}
    parquet.write_table(turns_table(range(len(answers)), transcripts, put_off), folder / f"{name}.parquet")


def test_a_choice_that_many_samples_wait_for_is_written_once(tmp_path: Path) -> None:
    turns_file(tmp_path / "turns", "first", ["a dog", "a cat", "a dog"])
    turns_file(tmp_path / "turns", "second", ["a cat", "a bird"])
    files = write_choices(tmp_path / "turns", tmp_path / "put-off", 1)
    # so that each worker has something to do
    assert len(files) == 2
    choices = [choice for file in files for choice in read_choices([str(file)]).values()]
    assert [(choice.answer, choice.candidates) for choice in choices] == [
        ("a dog", None),
        ("a cat", (2, 5)),
        ("a bird", None),
    ]
    assert not write_choices(tmp_path / "nothing", tmp_path / "none", 1)
