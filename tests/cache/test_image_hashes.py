from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

import tlac.images
from tests.support.fakes import make_png
from tlac.cache.image_hashes import FOLDER, ImageDigests
from tlac.errors import InputError
from tlac.runtime.safe_files import read_file


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    found: list[str] = []

    def counted(path: Path, max_bytes: int) -> bytes:
        found.append(path.name)
        return read_file(path, max_bytes)

    monkeypatch.setattr(tlac.images, "read_file", counted)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(make_png(1))
    settle(path)
    return path


def settle(path: Path) -> None:
    os.utime(path, ns=(10**18, 10**18))


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes after every change."""
    monkeypatch.setattr("tlac.cache.image_hashes.time.time_ns", lambda: 2**62)


def digest(store: Path, image: Path) -> str:
    digests = ImageDigests(store, "dataset")
    found = asyncio.run(digests.identify(image, image.name))
    digests.save()
    return found.sha256


def test_an_unchanged_file_is_read_once(tmp_path: Path, image: Path, reads: list[str]) -> None:
    first, second = digest(tmp_path, image), digest(tmp_path, image)
    assert first == second == tlac.images.identify(make_png(1), "").sha256
    assert reads == ["image.png"]


def test_a_changed_file_is_read_again(tmp_path: Path, image: Path, reads: list[str]) -> None:
    first = digest(tmp_path, image)
    image.write_bytes(make_png(2))
    assert digest(tmp_path, image) != first
    assert len(reads) == 2


def test_a_file_of_the_same_size_and_time_but_other_bytes_is_read_again(
    tmp_path: Path, image: Path, reads: list[str]
) -> None:
    first = digest(tmp_path, image)
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(bytes(content))
    settle(image)
    assert digest(tmp_path, image) != first


@pytest.mark.parametrize(("later_ns", "times_read"), [(1, 2), (2_000_000_000, 2), (2_000_000_001, 1)])
def test_a_file_that_changed_in_the_last_two_seconds_is_not_remembered(
    tmp_path: Path, image: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, later_ns: int, times_read: int
) -> None:
    changed = image.stat().st_ctime_ns
    monkeypatch.setattr("tlac.cache.image_hashes.time.time_ns", lambda: changed + later_ns)
    digest(tmp_path, image)
    digest(tmp_path, image)
    assert len(reads) == times_read


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = image.read_bytes()

    def read_and_change(path: Path, max_bytes: int) -> bytes:
        content = read_file(path, max_bytes)
        path.write_bytes(bytes(10))
        return content

    with monkeypatch.context() as patched:
        patched.setattr(tlac.images, "read_file", read_and_change)
        assert digest(tmp_path, image) == hashlib.sha256(original).hexdigest()
    assert digest(tmp_path, image) == hashlib.sha256(bytes(10)).hexdigest()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": [1, 2, 3, "not a digest"]}', b"\xff", b"[" * 10_000])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, image: Path, content: bytes) -> None:
    expected = digest(tmp_path, image)
    (kept,) = (tmp_path / FOLDER).iterdir()
    kept.write_bytes(content)
    assert digest(tmp_path, image) == expected


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path, image: Path) -> None:
    (tmp_path / FOLDER).write_text("a file stands in the way")
    assert digest(tmp_path, image) == digest(tmp_path, image)


def test_bytes_and_missing_files_are_as_without_a_memory(tmp_path: Path) -> None:
    digests = ImageDigests(tmp_path, "dataset")
    large = bytes(10**5)
    for content in (b"small", large):
        assert asyncio.run(digests.identify(content, "x")) == tlac.images.identify(content, "x")
    with pytest.raises(InputError, match="No such file"):
        asyncio.run(digests.identify(tmp_path / "gone.png", "gone.png"))
    digests.save()
    assert not (tmp_path / FOLDER).exists()
