"""Read files and URLs that somebody else may have made, and write files whole or not at all.

    run = read_json(folder / "run.json", RunRecord, max_bytes=2**26, within=folder)

A stranger's file may be a pipe that never ends, a device, a link to one's own secrets, 50 GB of nothing, or brackets
a million deep: each of them is refused with one line that names the file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from tlac.errors import InputError, TlacError
from tlac.runtime.redaction import reason_of, redact

MAX_DEPTH = 64
# what is being written, by whoever holds its lock; a leading dot hides it from those who look for runs
UNFINISHED = ".unfinished-"
OWN_FOLDER_MARK = ".tlac-labels"
"""A file in the folders that `tlac label` makes: their links and thumbnails are no further images."""
_SETTLED_S = 60.0
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
# a pipe is opened without waiting for a writer, and a terminal does not become ours
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def is_utf8(name: str) -> bool:
    """Whether a file's name is text: bytes in it that are not UTF-8 come as lone surrogates, which can't be written."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def open_regular(path: Path, *, within: Path | None = None) -> IO[bytes]:
    """Open a regular file for reading bytes.

    With `within`, a folder that somebody else made, the file must lie in it, and no link below it is followed. Raises
    InputError naming the file for what is missing, no regular file, or outside.
    """
    try:
        if within is not None:
            _refuse_links(path, within)
        # looked at before, since opening a device can do something, and after, since it may have been exchanged
        _refuse_special(path, os.stat(path))  # noqa: PTH116 - Path.stat takes three times as long
        file = open(os.open(path, _FLAGS), "rb")  # noqa: PTH123, SIM115 - by descriptor; the caller closes it
        try:
            _refuse_special(path, os.fstat(file.fileno()))
        except InputError:
            file.close()
            raise
    except (OSError, ValueError) as error:
        # ValueError: a null byte in the name
        raise InputError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    return file


def read_file(path: Path, max_bytes: int, *, within: Path | None = None) -> bytes:
    """Read a regular file of at most so many bytes. Raises InputError as open_regular does."""
    with open_regular(path, within=within) as file:
        try:
            if os.fstat(file.fileno()).st_size <= max_bytes:
                # one more is asked for: the file may be growing, or of a kind that tells no size
                content = file.read(max_bytes + 1)
                if len(content) <= max_bytes:
                    return content
        except OSError as error:
            raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    raise InputError(f"{path}: holds more than {max_bytes:,} bytes, the most that is read")


def numbered_lines(file: IO[bytes], path: Path, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of an open file with their numbers from 1, line ends included.

    Raises InputError naming file and line for one of more than `max_bytes`, and where the file can't be read.
    """
    number = 1
    try:
        while line := file.readline(max_bytes + 1):
            if len(line) > max_bytes:
                raise InputError(f"{path}: line {number}: longer than {max_bytes:,} bytes, the most that is read")
            yield number, line
            number += 1
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


def is_url(name: str) -> bool:
    """Whether something is named by a URL, such as s3://BUCKET/FOLDER, and not by a path."""
    return "://" in name


def read_url(url: str, max_bytes: int = 2**28) -> bytes:
    """Read at most so many bytes behind a URL that fsspec reads. Raises InputError."""
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read(max_bytes + 1)
    except Exception as error:
        # file systems are of many makers, and their errors have no common kind
        raise InputError(f"{redact(url)}: can't be read: {reason_of(error)}") from error
    if len(content) > max_bytes:
        raise InputError(f"{redact(url)}: holds more than {max_bytes:,} bytes, the most that is read")
    return content


def list_url(url: str) -> dict[str, str]:
    """The URLs of the files below a URL, or of the one that it names, sorted, by their path below it.

    Raises InputError.
    """
    import fsspec

    try:
        system, place = fsspec.url_to_fs(url)
        return {path[len(place) :]: str(system.unstrip_protocol(path)) for path in sorted(system.find(place))}
    except Exception as error:
        raise InputError(f"{redact(url)}: can't be listed: {reason_of(error)}") from error


def read_json(
    path: Path, schema: Any, max_bytes: int, *, within: Path | None = None, max_depth: int = MAX_DEPTH
) -> Any:
    """Read a JSON file as a type that msgspec knows. Raises InputError naming the file."""
    content = read_file(path, max_bytes, within=within)
    try:
        return parse_json(content, schema, max_depth=max_depth)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_json(text: bytes, schema: Any, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON text (UTF-8) as a type that msgspec knows: no NaN, no infinity, no deeper nesting than `max_depth`.

    Raises InputError with the parser's complaint.
    """
    try:
        found = msgspec.json.decode(text, type=schema, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"not as expected: {error}") from error
    # what goes through the document later would run out of stack; few documents have so many brackets
    if text.count(b"[") + text.count(b"{") > max_depth:
        depth = 0
        # only now: in text that is no JSON, a string without an end makes the search take for ever
        for bracket in _BRACKET.findall(_STRING.sub(b"", text)):
            depth += 1 if bracket in b"[{" else -1
            if depth > max_depth:
                raise InputError(f"not as expected: nested more than {max_depth} deep")
    return found


@contextmanager
def naming_failure(
    path: Path, remedy: str = "", subject: str = "", kind: type[TlacError] = TlacError
) -> Iterator[None]:
    """Raise one line that names the path, in place of the OSError of whatever is written meanwhile.

    `subject` says what can't be written there, such as "the page ", and `remedy` what to do, such as "; choose another
    -o".
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: {subject}can't be written: {error.strerror or error}{remedy}") from error


@contextmanager
def replacing(path: Path, *, is_synced: bool = False, is_private: bool = False) -> Iterator[IO[bytes]]:
    """Open a file to write bytes to that takes the place of `path` at the end, or leaves no trace.

    `is_synced` waits until the disk has it. `is_private` lets nobody else read it, whatever the umask. A pipe or device
    (/dev/stdout) is written to as it is. Raises OSError.
    """
    if not path.name:
        # a path that is a dot or a root, from which no name could be made
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if is_special(path):
        with open(path, "wb") as file:  # noqa: PTH123 - as below
            yield file
        return
    temporary = path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}-{path.name}"[:200])
    mode = 0o600 if is_private else 0o666
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            hold(file.fileno())
            yield file
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_special(path: Path) -> bool:
    """Whether something is there that no file may take the place of: a pipe, a socket or a device."""
    with suppress(OSError):
        mode = path.stat().st_mode
        return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
    return False


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in `parent`, to be filled and then renamed; one that is not renamed leaves no trace.

    What processes left in `parent` that were killed is removed first. Raises OSError.
    """
    sweep_unfinished(parent)
    folder = parent / f"{UNFINISHED}{secrets.token_hex(4)}"
    folder.mkdir()
    held = _open_to_hold(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def sweep_unfinished(parent: Path) -> None:
    """Remove the unfinished files and folders of processes that were killed; those of living ones stay."""
    with suppress(OSError):
        for path in parent.glob(f"{UNFINISHED}*"):
            # a moment after it was made, a living process may not hold it yet
            if path.is_symlink() or time.time() - path.stat().st_mtime < _SETTLED_S:
                continue
            held = _open_to_hold(path)
            if held is None:
                continue
            os.close(held)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _open_to_hold(path: Path) -> int | None:
    """Lock a path until the descriptor is closed or the process dies; None where another process has the lock."""
    if os.name == "nt":
        # no folder can be locked there: nothing is held, and nothing is swept
        return None
    descriptor = os.open(path, _FLAGS)
    if hold(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def hold(descriptor: int) -> bool:
    """Lock a file or folder until the descriptor is closed or the process dies; False where another process has it,
    and where there are no such locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _refuse_special(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: can't be read: it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: can't be read: it is no regular file, but a pipe, a socket or a device")


def _refuse_links(path: Path, within: Path) -> None:
    inner = Path(os.path.relpath(path, within))
    if inner.is_absolute() or ".." in inner.parts:
        raise InputError(f"{path}: lies outside of {within}, and is not read")
    place = within
    for part in inner.parts:
        place /= part
        if place.is_symlink():
            raise InputError(f"{place}: is a link, and links in {within} are not followed")
