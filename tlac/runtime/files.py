"""Reads files that others made: regular ones only, and no more of them than is wanted."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular_file(path: Path, most_bytes: int) -> bytes:
    """The content of a file. Raises OSError for what is no regular file, or holds more than `most_bytes`.

    A pipe without a writer, a device and a huge sparse file would else be waited for or read into memory for ever.
    """
    # a pipe's open would wait for a writer; Windows has neither the pipe nor the flag
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(None, "Is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise OSError(None, "not a regular file")
        if found.st_size > most_bytes:
            raise OSError(None, f"{found.st_size:,} bytes are more than the {most_bytes:,} that are read")
        return file.read(most_bytes)
