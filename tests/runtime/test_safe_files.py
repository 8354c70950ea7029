"""Files that strangers made, and files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlac.errors import InputError
from tlac.results.table_files import writing_part
from tlac.runtime.safe_files import list_url, open_regular, parse_json, read_file, read_json, read_url, replacing


def test_a_file_is_read_whole_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(InputError, match="more than 4 bytes"):
        read_file(path, 4)


def test_a_sparse_file_of_fifty_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 50 * 2**30)
    with pytest.raises(InputError, match="holds more than 1,000 bytes"):
        read_file(path, 1000)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a file that tells no size is Linux's /proc")
def test_a_file_that_tells_no_size_is_bounded_all_the_same() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert b"Pid:" in read_file(Path("/proc/self/status"), 100_000)
    with pytest.raises(InputError, match="more than 10 bytes"):
        read_file(Path("/proc/self/status"), 10)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, complaint in (
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path, "a folder"),
        (tmp_path / "missing", "No such file"),
        (tmp_path / "a\0b", "null (byte|character)"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(InputError, match=complaint) as refusal:
            read_file(path, 1000)
        assert "\n" not in str(refusal.value)


def test_in_a_strangers_folder_no_link_is_followed_and_nothing_outside_is_read(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", tmp_path / "id_rsa"
    folder.mkdir()
    secret.write_text("secret")
    (folder / "own.txt").write_text("own")
    (folder / "link").symlink_to(secret)
    (folder / "out").symlink_to(tmp_path)
    assert read_file(folder / "own.txt", 10, within=folder) == b"own"
    for path in (folder / "link", folder / "out" / "id_rsa"):
        with pytest.raises(InputError, match="is a link"):
            read_file(path, 10, within=folder)
    for path in (secret, folder / ".." / "id_rsa"):
        with pytest.raises(InputError, match="outside"):
            read_file(path, 10, within=folder)
    # one's own links are followed
    assert read_file(folder / "link", 10) == b"secret"


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "by-link").symlink_to(tmp_path / "real")
    assert read_file(tmp_path / "by-link" / "file", 10, within=tmp_path / "by-link") == b"x"


def test_an_open_file_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"a\nb\n")
    with open_regular(tmp_path / "lines") as file:
        assert list(file) == [b"a\n", b"b\n"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"NaN", "not as expected"),
        (b"[Infinity]", "not as expected"),
        (b"1e999", "out of range"),
        (b'{"a": 1', "not as expected"),
        (b'"\xff"', "not as expected"),
        (b"[" * 65 + b"]" * 65, "more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "more than 64 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "not as expected"),
        (b'"' + b'\\"' * 500_000 + b"[" * 100, "not as expected"),
    ],
)
def test_json_that_is_no_plain_document_is_refused(text: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_json(text, Any)


@given(st.text(st.sampled_from('[]{}"\\a\n'), max_size=400), st.integers(1, 60))
def test_brackets_in_text_are_no_depth(text: str, depth: int) -> None:
    document: Any = [text, {text: text}] * 40
    for _ in range(depth):
        document = [document]
    assert parse_json(json.dumps(document).encode(), Any) == document


def test_text_is_not_taken_for_a_number_nor_a_number_for_text() -> None:
    for text, schema in ((b'"1"', int), (b"1", str), (b'"true"', bool), (b"1", bool)):
        with pytest.raises(InputError, match="Expected"):
            parse_json(text, schema)


def test_a_json_file_is_named_in_the_complaint(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"a": 1}')
    assert read_json(path, dict[str, int], 100) == {"a": 1}
    with pytest.raises(InputError, match=r"run\.json: not as expected: .*str"):
        read_json(path, dict[str, str], 100)


def test_a_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("/"), tmp_path):
        with pytest.raises(IsADirectoryError), replacing(folder):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert path.read_bytes() == b"old"
    with replacing(path, is_synced=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask of this kind")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("writing", [replacing, writing_part])
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path, writing: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        with writing(tmp_path / "pipe") as file:
            file.write(b"text")
        assert reader.read() == b"text"
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_written_file_keeps_to_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with replacing(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "read", [read_url, lambda url: read_url(url, 3), lambda url: list_url(url.replace("memory", "none"))]
)
def test_a_password_in_a_url_stands_in_no_complaint(read: Callable[[str], object]) -> None:
    there = fsspec.filesystem("memory")
    url = "memory://me:correct-horse-battery@here/photo.png"
    if read is not read_url:
        there.pipe_file(url, b"four")
    try:
        with pytest.raises(InputError, match=r"here/photo\.png: (?:can't be|holds more than 3 bytes)") as refusal:
            read(url)
        assert "correct-horse" not in str(refusal.value)
    finally:
        there.rm("/", recursive=True)
