"""Lists of records that spill to disk: what a run has gathered so far may be more than memory holds."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from tlac.errors import TlacError, UsageError

_BLOCK = 256
_IN_MEMORY_BYTES = 16 * 2**20

ItemT = TypeVar("ItemT")


class SpilledList(Generic[ItemT]):
    """Records of one type, in the order in which they were put, to be iterated as often as wanted, also while more are
    put. A few megabytes stay in memory, more goes to a temporary file.
    """

    def __init__(self, kind: type[ItemT]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the list
        weakref.finalize(self, self._file.close)
        self._ends: list[int] = [0]
        self._block: list[ItemT] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, item: ItemT) -> None:
        """Append a record. Raises TlacError where the disk is full, UsageError for text that is not valid Unicode."""
        self._block.append(item)
        self._count += 1
        if len(self._block) == _BLOCK:
            self._write(self._block)
            self._block = []

    def __iter__(self) -> Iterator[ItemT]:
        """Yield all records. Raises TlacError."""
        place = 0
        while place < len(self._ends) - 1:
            yield from self._read(place)
            place += 1
        yield from self._block

    def _write(self, block: Sequence[ItemT]) -> None:
        try:
            content = self._encoder.encode(block)
            self._file.seek(self._ends[-1])
            self._file.write(content)
        except UnicodeEncodeError as error:
            raise UsageError(f"text holds a lone surrogate: it is not valid Unicode ({error.object[:40]!r})") from error
        except OSError as error:
            raise _complaint(error) from error
        self._ends.append(self._ends[-1] + len(content))

    def _read(self, place: int) -> list[ItemT]:
        start, end = self._ends[place : place + 2]
        try:
            self._file.seek(start)
            content = self._file.read(end - start)
        except OSError as error:
            raise _complaint(error) from error
        return self._decoder.decode(content)


def spill(items: Iterable[ItemT], kind: type[ItemT]) -> SpilledList[ItemT]:
    """Put all items, which are of one type, into a list that spills to disk."""
    spilled = SpilledList(kind)
    for item in items:
        spilled.put(item)
    return spilled


def _complaint(error: OSError) -> TlacError:
    return TlacError(
        f"{tempfile.gettempdir()}: what a run has gathered so far can't be kept there: {error.strerror}; "
        "free space, or set TMPDIR to another folder"
    )
