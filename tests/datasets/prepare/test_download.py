from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.file_server import FileServer, running_file_server
from tlac.datasets.prepare.download import RemoteFile, fetch_file
from tlac.errors import TlacError

CONTENT = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(30_000))
OTHER = CONTENT[::-1]
HALF = len(CONTENT) // 2


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running_file_server() as told:
        told.files["/set.tar.gz"] = CONTENT
        yield told


@pytest.fixture
def file(server: FileServer, tmp_path: Path) -> RemoteFile:
    digest = hashlib.md5(CONTENT).hexdigest()
    return RemoteFile(f"{server.base}/set.tar.gz", tmp_path / "archives" / "set.tar.gz", "md5", digest)


class _StoppedError(Exception):
    """A person stops the download."""


def stop(name: str, done: int, total: int | None) -> None:
    raise _StoppedError


def fetch(file: RemoteFile) -> list[float]:
    """Fetches without waiting, and gives the pauses that were asked for."""
    pauses: list[float] = []
    fetch_file(file, pause=pauses.append)
    return pauses


def leftovers(file: RemoteFile) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir() if path != file.path)


def test_a_file_is_fetched_and_nothing_else_is_left(server: FileServer, file: RemoteFile) -> None:
    buffer = []
    fetch_file(file, on_bytes=lambda *told: buffer.append(told))
    assert file.path.read_bytes() == CONTENT
    assert leftovers(file) == []
    assert buffer[-1] == ("set.tar.gz", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in buffer] == sorted(done for _, done, _ in buffer)


def test_a_file_that_is_right_is_not_asked_for_again(server: FileServer, file: RemoteFile) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(CONTENT)
    fetch(file)
    assert server.ranges == []
    file.path.write_bytes(OTHER)
    fetch(file)
    assert file.path.read_bytes() == CONTENT


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: FileServer, file: RemoteFile) -> None:
    server.cuts = [HALF, 100_000]
    assert fetch(file) == [0.5, 0.5]
    assert file.path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 100_000}-"]
    assert sum(server.sent) == len(CONTENT)


def test_a_download_that_was_stopped_goes_on_in_the_next_call(server: FileServer, file: RemoteFile) -> None:
    server.cuts = [HALF]
    with pytest.raises(_StoppedError):
        fetch_file(file, on_bytes=stop)
    kept = file.part.stat().st_size
    assert 0 < kept < len(CONTENT)
    assert not file.path.exists()
    fetch(file)
    assert file.path.read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={kept}-"
    assert server.sent[1:] == [len(CONTENT) - kept]


class Behaviour(NamedTuple):
    """How a server treats the second request for a file whose first half is there."""

    has_checksum: bool = True
    has_tags: bool = True
    heeds_range: bool = True
    heeds_if_range: bool = True
    is_changed: bool = False


@pytest.mark.parametrize(
    ("behaviour", "is_continued"),
    [
        (Behaviour(), True),
        (Behaviour(has_checksum=False), True),
        (Behaviour(has_tags=False), True),
        (Behaviour(has_checksum=False, has_tags=False), False),
        (Behaviour(heeds_range=False), False),
        (Behaviour(is_changed=True), False),
        (Behaviour(is_changed=True, heeds_if_range=False), False),
    ],
)
def test_what_is_there_is_continued_only_where_it_is_of_the_same_file(
    server: FileServer, file: RemoteFile, behaviour: Behaviour, is_continued: bool
) -> None:
    server.has_tags, server.cuts = behaviour.has_tags, [HALF]
    content = OTHER if behaviour.is_changed else CONTENT
    digest = hashlib.md5(content).hexdigest() if behaviour.has_checksum else ""
    file = RemoteFile(file.url, file.path, "md5", digest)
    with pytest.raises(_StoppedError):
        fetch_file(file, on_bytes=stop)
    kept = file.part.stat().st_size
    server.heeds_range, server.heeds_if_range = behaviour.heeds_range, behaviour.heeds_if_range
    server.files["/set.tar.gz"] = content
    fetch(file)
    assert file.path.read_bytes() == content
    assert leftovers(file) == []
    assert (server.sent[-1] == len(content) - kept) == is_continued


def test_the_date_of_the_last_change_marks_a_version_too(server: FileServer, file: RemoteFile) -> None:
    server.has_tags, server.headers = False, {"Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}
    server.cuts, server.heeds_if_range = [HALF], False
    file = RemoteFile(file.url, file.path)
    fetch(file)
    assert file.path.read_bytes() == CONTENT
    assert sum(server.sent) == len(CONTENT)


def test_a_part_that_is_whole_already_needs_no_byte_more(server: FileServer, file: RemoteFile) -> None:
    file.path.parent.mkdir()
    file.part.write_bytes(CONTENT)
    fetch(file)
    assert (file.path.read_bytes(), sum(server.sent)) == (CONTENT, 0)


def test_a_part_that_is_too_long_is_begun_anew(server: FileServer, file: RemoteFile) -> None:
    file.path.parent.mkdir()
    file.part.write_bytes(CONTENT + b"more")
    fetch(file)
    assert file.path.read_bytes() == CONTENT


def test_a_server_that_is_busy_is_asked_again_and_more_slowly(server: FileServer, file: RemoteFile) -> None:
    server.statuses = [503, 429, 500]
    assert fetch(file) == [1.0, 2.0, 4.0]
    assert file.path.read_bytes() == CONTENT


def test_a_server_that_stays_away_is_given_up_and_what_is_there_kept(server: FileServer, file: RemoteFile) -> None:
    server.statuses, server.cuts = [200, *[503] * 5], [HALF]
    with pytest.raises(TlacError, match=r"set.tar.gz: HTTP 503: run the command again, which goes on from \d"):
        fetch(file)
    assert file.part.stat().st_size > 0
    assert len(server.ranges) == 6


def test_no_server_at_all_is_one_clear_error(tmp_path: Path) -> None:
    with running_file_server() as told:
        gone = told.base
    with pytest.raises(TlacError, match=r"run the command again, which goes on from 0 bytes"):
        fetch(RemoteFile(f"{gone}/set.tar", tmp_path / "set.tar"))


def test_what_is_not_there_is_said_at_once(server: FileServer, file: RemoteFile) -> None:
    del server.files["/set.tar.gz"]
    with pytest.raises(TlacError, match=r"HTTP 404: check whether it has moved.* put it at .*archives/set\.tar\.gz"):
        fetch(file)
    assert len(server.ranges) == 1


def test_wrong_bytes_are_removed_and_named(server: FileServer, file: RemoteFile) -> None:
    server.files["/set.tar.gz"] = OTHER
    with pytest.raises(TlacError, match=f"its md5 is not {file.checksum}: what was fetched is removed"):
        fetch(file)
    assert list(file.path.parent.iterdir()) == []


def test_content_is_stored_as_it_is_sent(server: FileServer, file: RemoteFile) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    fetch(file)
    assert file.path.read_bytes() == CONTENT


def test_a_length_that_is_not_told_is_no_hindrance(server: FileServer, file: RemoteFile) -> None:
    server.has_lengths = False
    buffer = []
    fetch_file(file, on_bytes=lambda *told: buffer.append(told))
    assert file.path.read_bytes() == CONTENT
    assert buffer[-1] == ("set.tar.gz", len(CONTENT), None)


def test_a_redirect_is_followed_but_not_out_of_the_web(server: FileServer, tmp_path: Path) -> None:
    server.redirects = {"/old": "/set.tar.gz", "/evil": "file:///etc/passwd", "/round": "/round"}
    target = tmp_path / "set"
    fetch(RemoteFile(f"{server.base}/old", target))
    assert target.read_bytes() == CONTENT
    for name, complaint in (("evil", "neither http nor https: refused"), ("round", "redirects")):
        with pytest.raises(TlacError, match=complaint):
            fetch(RemoteFile(f"{server.base}/{name}", tmp_path / name))
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/set.tar", "/etc/passwd", ""])
def test_only_addresses_of_the_web_are_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(TlacError, match="only http and https addresses"):
        fetch(RemoteFile(url, tmp_path / "set"))


def test_a_full_disk_is_noticed_before_it_is_full(
    server: FileServer, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6 - 5, 5))
    with pytest.raises(TlacError, match=r"960,000 bytes are to come and 5 are free: make room and run the command"):
        fetch(file)
    assert not file.path.exists()


def test_a_folder_that_cannot_be_written_is_named(file: RemoteFile) -> None:
    file.path.parent.write_text("a file")
    with pytest.raises(TlacError, match=r"archives.*: check the folder and run the command again"):
        fetch(file)
