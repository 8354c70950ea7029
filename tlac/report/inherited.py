"""What a run that is scored again takes over from its parent's folder for the report.

Does not know what a page shows, nor how it is made: scoring again makes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tlac.errors import InputError
from tlac.report.calls import FILE_NAME
from tlac.report.thumbnails import FOLDER


def inherited_files(parent: Path) -> dict[str, bytes | Iterator[bytes]]:
    """What a run that is scored again takes over from its parent's folder, by path: thumbnails and what the
    answers took, so that `tlac report` shows them. Raises InputError."""
    try:
        found: dict[str, bytes | Iterator[bytes]] = {
            path.relative_to(parent).as_posix(): path.read_bytes() for path in (parent / FOLDER).glob("*.webp")
        }
    except OSError as error:
        raise InputError(f"{error.filename}: can't be read: {error.strerror}; is {parent} a run folder?") from error
    if (parent / FILE_NAME).is_file():
        found[FILE_NAME] = _pieces(parent / FILE_NAME)
    return found


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                yield piece
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; is {path.parent} a run folder?") from error
