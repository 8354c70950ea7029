"""Fetches one file over HTTP; a download that broke off goes on where it stopped."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx

from tlac.errors import TlacError, TransientError, one_line

OnBytes: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that are there, and the bytes in all where the server says how many."""

_TIMEOUT = httpx.Timeout(60.0, connect=20.0)
_CHUNK_BYTES = 1 << 18
_MAX_FRUITLESS_TRIES = 5
_FIRST_PAUSE_S = 0.5
# the server is busy or restarting
_TRANSIENT_STATUSES = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to fetch: its address, where to put it, and its checksum (hex) with the algorithm, if one is known."""

    url: str
    path: Path
    algorithm: str = ""
    checksum: str = ""

    @property
    def part(self) -> Path:
        """What is there of a broken download."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def version_file(self) -> Path:
        """Holds the server's mark of the version that the part is of."""
        return self.path.with_name(f"{self.path.name}.part.version")


def fetch_file(file: RemoteFile, on_bytes: OnBytes | None = None, pause: Callable[[float], None] = time.sleep) -> None:
    """Put the file in its place, unless it is there already with the right checksum.

    What is there of a broken download is continued if the server still has the same version, and begun anew if
    not. A connection that breaks is tried again, with growing pauses, until five tries in a row gain no byte.
    The content is stored as it is sent. Raises TlacError for an address that is not http or https, a server's
    refusal, a full disk, or a checksum that is another; for this last alone, what was fetched is removed.
    """
    if not file.url.startswith(("http://", "https://")):
        raise TlacError(f"{file.url}: only http and https addresses are fetched: correct the dataset file")
    if file.path.is_file() and _is_right(file, file.path):
        return
    with _disk_errors(file):
        file.path.parent.mkdir(parents=True, exist_ok=True)
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
            _fetch_part(client, file, on_bytes, pause)
        if not _is_right(file, file.part):
            _forget_part(file)
            raise TlacError(
                f"{file.url}: its {file.algorithm} is not {file.checksum}: what was fetched is removed; run the "
                f"command again, or put the right file at {file.path}"
            )
        file.version_file.unlink(missing_ok=True)
        file.part.replace(file.path)


def _fetch_part(
    client: httpx.Client, file: RemoteFile, on_bytes: OnBytes | None, pause: Callable[[float], None]
) -> None:
    fruitless = 0
    while True:
        before = _size(file.part)
        try:
            _ask(client, file, on_bytes)
        except (httpx.TransportError, TransientError) as error:
            if isinstance(error, httpx.UnsupportedProtocol):
                raise TlacError(f"{file.url}: leads to an address that is neither http nor https: refused") from error
            fruitless = 0 if _size(file.part) > before else fruitless + 1
            if fruitless >= _MAX_FRUITLESS_TRIES:
                raise TlacError(
                    f"{file.url}: {one_line(error)}: run the command again, which goes on from {_size(file.part):,} "
                    f"bytes, or put the file at {file.path}"
                ) from error
            pause(_FIRST_PAUSE_S * 2**fruitless)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TlacError(f"{file.url}: {one_line(error)}: or put the file at {file.path}") from error
        else:
            return


def _ask(client: httpx.Client, file: RemoteFile, on_bytes: OnBytes | None) -> None:
    """One request for what is missing, and its answer written behind what is there."""
    start = _continuable_bytes(file)
    with client.stream("GET", file.url, headers=_headers(file, start)) as response:
        status = response.status_code
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if start and _whole_size(response.headers) == start:
                return  # all was there, but not yet in its place
            _forget_part(file)
            raise TransientError(f"HTTP {status}")
        if status in _TRANSIENT_STATUSES:
            raise TransientError(f"HTTP {status}")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise TlacError(
                f"{file.url}: HTTP {status}: check whether it has moved, or fetch it in another way and put it at "
                f"{file.path}"
            )
        if status == httpx.codes.OK:
            # the whole file: the server can't or won't continue, or has another version by now
            start = 0
        elif _first_byte(response.headers) != start or not _is_same_version(file, response.headers):
            _forget_part(file)
            raise TransientError("the server sent another part than the one asked for")
        _write(file, response, start, on_bytes)


def _write(file: RemoteFile, response: httpx.Response, start: int, on_bytes: OnBytes | None) -> None:
    if start == 0:
        _forget_part(file)
        file.version_file.write_text(_version(response.headers), encoding="utf-8")
    total, done = _total_bytes(response, start), start
    free = shutil.disk_usage(file.path.parent).free
    if total is not None and total - start > free:
        raise OSError(errno.ENOSPC, f"{total - start:,} bytes are to come and {free:,} are free")
    with file.part.open("ab") as part:
        # not decoded, as some servers call a .tar.gz a compressed .tar; as it comes, so that a break loses nothing
        for chunk in response.iter_raw():
            part.write(chunk)
            done += len(chunk)
            if on_bytes:
                on_bytes(file.path.name, done, total)
    if total is not None and done < total:
        raise TransientError(f"the connection ended after {done:,} of {total:,} bytes")


def _continuable_bytes(file: RemoteFile) -> int:
    """How much of the part can be kept: nothing where neither a version nor a checksum could tell a mixture."""
    if not file.part.is_file():
        return 0
    return _size(file.part) if file.checksum or _known_version(file) else 0


def _headers(file: RemoteFile, start: int) -> dict[str, str]:
    headers = {"User-Agent": "tlac", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version := _known_version(file):
            headers["If-Range"] = version
    return headers


def _known_version(file: RemoteFile) -> str:
    return file.version_file.read_text(encoding="utf-8") if file.version_file.is_file() else ""


def _is_same_version(file: RemoteFile, headers: Mapping[str, str]) -> bool:
    """False where a server heeds Range, but not If-Range, and has another version."""
    known, sent = _known_version(file), _version(headers)
    return not known or not sent or known == sent


def _version(headers: Mapping[str, str]) -> str:
    """What If-Range may hold (RFC 9110, 13.1.5): a strong entity tag, else the date of the last change."""
    tag = headers.get("etag", "")
    return tag if tag.startswith('"') else headers.get("last-modified", "")


def _first_byte(headers: Mapping[str, str]) -> int | None:
    match = re.match(r"bytes (\d+)-", headers.get("content-range", ""))
    return int(match[1]) if match else None


def _whole_size(headers: Mapping[str, str]) -> int | None:
    match = re.fullmatch(r"bytes .*/(\d+)", headers.get("content-range", ""))
    return int(match[1]) if match else None


def _total_bytes(response: httpx.Response, start: int) -> int | None:
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        return _whole_size(response.headers)
    length = response.headers.get("content-length", "")
    return start + int(length) if length.isdecimal() else None


def _is_right(file: RemoteFile, path: Path) -> bool:
    if not file.checksum:
        return True
    # md5 is what most datasets are published with: it tells damage here, not malice
    digest = hashlib.new(file.algorithm, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.checksum


def _forget_part(file: RemoteFile) -> None:
    file.part.unlink(missing_ok=True)
    file.version_file.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def _disk_errors(file: RemoteFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room" if error.errno == errno.ENOSPC else "check the folder"
        raise TlacError(
            f"{file.path}: {error.strerror or error}: {remedy} and run the command again, which keeps what is there"
        ) from error
