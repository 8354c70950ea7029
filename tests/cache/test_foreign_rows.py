"""Rows that tlac never writes: nothing in them runs, and no file that they name is touched."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_answers import insert_row
from tlac.cache.sqlite import RowReader, RowWriter, make_database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_database(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def reader(folder: Path) -> Iterator[RowReader]:
    with closing(RowReader(folder)) as opened:
        yield opened


@pytest.fixture
def writer(folder: Path) -> Iterator[RowWriter]:
    with closing(RowWriter(folder)) as opened:
        yield opened


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def texts(reader: RowReader) -> dict[str, bytes | None]:
    return {key: text for key, text, _ in reader.scan()}


def test_text_comes_back_however_long_and_never_in_a_file(folder: Path, reader: RowReader, writer: RowWriter) -> None:
    writer.write([("short", "é"), ("long", "x" * 200_000)])
    assert texts(reader) == {"short": "é".encode(), "long": b"x" * 200_000}
    assert {path.suffix for path in folder.iterdir() if path.name != ".making.lock"} <= {".db", ".db-wal", ".db-shm"}


def test_a_pickled_value_is_not_unpickled_and_can_be_replaced(
    folder: Path, reader: RowReader, writer: RowWriter, tmp_path: Path
) -> None:
    insert_row(folder, key="key", mode=4, value=pickle.dumps(Bomb(tmp_path / "exploded")))
    assert texts(reader) == {"key": None}
    writer.write([("key", "ours")])
    assert texts(reader) == {"key": b"ours"}
    assert not (tmp_path / "exploded").exists()


def test_a_pickled_key_is_not_unpickled(folder: Path, reader: RowReader, tmp_path: Path) -> None:
    insert_row(folder, key=pickle.dumps(Bomb(tmp_path / "exploded")), raw=0)
    assert texts(reader) == {}
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("forget", ["replaced", "deleted"])
def test_a_file_outside_the_folder_is_neither_read_nor_removed(
    folder: Path, reader: RowReader, writer: RowWriter, tmp_path: Path, forget: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    insert_row(folder, key="key", mode=3, filename=str(secret), value=None)
    assert texts(reader) == {"key": None}
    if forget == "replaced":
        writer.write([("key", "ours")])
        assert texts(reader) == {"key": b"ours"}
    else:
        assert writer.delete(["key", "none"]) == 1
        assert texts(reader) == {}
    assert secret.read_text() == "secret"


def test_of_a_write_that_fails_nothing_is_kept_and_the_next_one_is(reader: RowReader, writer: RowWriter) -> None:
    def rows() -> Iterator[tuple[str, str]]:
        yield "first", "1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(rows())
    assert texts(reader) == {}
    writer.write([("second", "2")])
    assert texts(reader) == {"second": b"2"}
