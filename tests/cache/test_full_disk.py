"""The rows that diskcache may write and read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest

from tests.support.fake_answers import insert_row
from tlac.cache.sqlite import TextDisk
from tlac.errors import StoreError


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[diskcache.Cache]:
    with diskcache.Cache(str(tmp_path / "cache"), disk=TextDisk) as opened:
        yield opened


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_text_comes_back_however_long_and_never_in_a_file(cache: diskcache.Cache) -> None:
    cache.set("short", "é")
    cache.set("long", "x" * 200_000)
    assert (cache.get("short"), len(cache.get("long"))) == ("é", 200_000)
    assert {path.name for path in Path(cache.directory).iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}


@pytest.mark.parametrize("key", [1, b"key", ("a",), None])
def test_only_text_is_a_key(cache: diskcache.Cache, key: object) -> None:
    with pytest.raises(StoreError, match="key of type"):
        cache.set(key, "value")


@pytest.mark.parametrize("value", [1, b"value", ["a"], None, 1.5])
def test_only_text_is_a_value(cache: diskcache.Cache, value: object) -> None:
    with pytest.raises(StoreError, match="value of type"):
        cache.set("key", value)


def test_a_pickled_value_is_not_unpickled(cache: diskcache.Cache, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    insert_row(Path(cache.directory), key="key", mode=4, value=bomb)
    with pytest.raises(StoreError, match="mode 4"):
        cache.get("key")
    assert not (tmp_path / "exploded").exists()


def test_a_pickled_key_is_not_unpickled(cache: diskcache.Cache, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    insert_row(Path(cache.directory), key=bomb, raw=0)
    with pytest.raises(StoreError, match="unpickled"):
        list(cache)
    assert not (tmp_path / "exploded").exists()


def test_a_file_outside_the_folder_is_neither_read_nor_removed(cache: diskcache.Cache, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    insert_row(Path(cache.directory), key="key", mode=3, filename=str(secret), value=None)
    with pytest.raises(StoreError):
        cache.get("key")
    cache.set("key", "ours")
    assert cache.get("key") == "ours"
    assert secret.read_text() == "secret"
