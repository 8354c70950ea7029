"""Reads the lines of a response pack, plain or zstd, within bounds on memory.

Does not know what a line says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tlac.errors import InputError

MAX_LINE_BYTES = 16 * 2**20
MAX_PACK_BYTES = 8 * 2**30
ZSTD_SUFFIX = ".zst"
_MAX_WINDOW_BYTES = 128 * 2**20


class PackError(InputError):
    """A response pack that can't be used; names the file and the line."""

    def __init__(self, path: Path, number: int, problem: str) -> None:
        super().__init__(f"{path}: line {number}: {problem}")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a pack with their numbers from 1, line ends included.

    Raises InputError naming file and line for a file that can't be read, a line without an end or over
    MAX_LINE_BYTES, and more than MAX_PACK_BYTES in all (uncompressed).
    """
    try:
        with _opened(path) as file:
            total_bytes = 0
            number = 1
            while line := _read_line(file, path, number):
                total_bytes += len(line)
                if total_bytes > MAX_PACK_BYTES:
                    raise PackError(path, number, f"the pack holds more than {MAX_PACK_BYTES:,} bytes")
                yield number, line
                number += 1
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.suffix == ZSTD_SUFFIX:
            # plain packs do without this import
            import zstandard

            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
            stream = stack.enter_context(decompressor.stream_reader(file, read_across_frames=True))
            file = stack.enter_context(io.BufferedReader(stream, 2**20))
        yield file


def _read_line(file: IO[bytes], path: Path, number: int) -> bytes:
    try:
        line = file.readline(MAX_LINE_BYTES + 1)
    except _decompression_error() as error:
        raise PackError(path, number, f"can't be decompressed: {error}") from error
    if len(line) > MAX_LINE_BYTES:
        raise PackError(path, number, f"is longer than {MAX_LINE_BYTES:,} bytes")
    if line and not line.endswith(b"\n"):
        raise PackError(path, number, "has no end: the file is cut short")
    return line


def _decompression_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError
