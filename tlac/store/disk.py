"""How diskcache lays a row of the store down: a text key and a text value, in the row itself.

diskcache's own classes unpickle what a row tells them to, and read and delete the files that it names.
Does not know what the texts mean.
"""

from __future__ import annotations

from typing import Any, NoReturn

import diskcache
from diskcache.core import MODE_RAW, UNKNOWN

from tlac.errors import StoreError


class TextDisk(diskcache.Disk):  # type: ignore[misc]
    """Keeps str under str, inline; refuses every other row, and neither reads, writes nor removes files."""

    def put(self, key: Any) -> tuple[str, bool]:
        """The database's key for a str. Raises StoreError for another type."""
        return _text(key, "key"), True

    def get(self, key: Any, raw: Any) -> str:
        """The str of a database key. Raises StoreError for a key that is not raw text."""
        if not raw:
            _refuse("a key that would have to be unpickled")
        return _text(key, "key")

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, None, str]:
        """Size of the file (none), mode, file name (none) and value of a row. Raises StoreError for non-str."""
        if read:
            _refuse("a file as a value")
        return 0, MODE_RAW, None, _text(value, "value")

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> str:
        """The str of a row. Raises StoreError for a row of another mode, type, or with a file name."""
        if mode != MODE_RAW or read:
            _refuse(f"a value of mode {mode!r}")
        if filename is not None:
            _refuse("a value in a file")
        return _text(value, "value")

    def remove(self, file_path: Any) -> None:
        """Remove nothing: the store has no files, so a row that names one is not ours."""


def _text(value: Any, what: str) -> str:
    if type(value) is not str:
        _refuse(f"a {what} of type {type(value).__name__}")
    return str(value)


def _refuse(what: str) -> NoReturn:
    raise StoreError(f"a row of the store holds {what}, which tlac never writes: see `tlac cache verify`")
