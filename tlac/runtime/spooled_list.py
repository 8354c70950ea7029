"""Keeps records of a run on disk while it is made, and gives them again in order, as often as they are asked for.

Does not know what the records mean. A small run's never leave memory.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar, overload

import msgspec

from tlac.errors import TlacError, UsageError

_BLOCK = 256
_IN_MEMORY_BYTES = 16 * 2**20

ItemT = TypeVar("ItemT")


class LazySequence(Sequence[ItemT]):
    """A sequence whose items are made anew whenever it is gone through, and not held.

    `play` gives `count` items, equal ones each time.
    """

    def __init__(self, count: int, play: Callable[[], Iterator[ItemT]]) -> None:
        self._count = count
        self._play = play

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ItemT]:
        return self._play()

    @overload
    def __getitem__(self, place: int) -> ItemT: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[ItemT]: ...

    def __getitem__(self, place: int | slice) -> ItemT | Sequence[ItemT]:
        """Goes through the items up to that place."""
        if isinstance(place, slice):
            return tuple(self)[place]
        wanted = range(self._count)[place]
        return next(islice(self, wanted, None))

    def __eq__(self, other: object) -> bool:
        """Whether the other sequence has equal items."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class SpilledList(Generic[ItemT]):
    """Records of one type, in the order in which they were put; they may be gone through while more are put."""

    def __init__(self, kind: type[ItemT]) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the spool
        weakref.finalize(self, self._file.close)
        self._ends: list[int] = [0]
        self._block: list[ItemT] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, item: ItemT) -> None:
        """Keep one more. Raises TlacError where the disk is full, UsageError for text that is not valid Unicode."""
        self._block.append(item)
        self._count += 1
        if len(self._block) == _BLOCK:
            self._write(self._block)
            self._block = []

    def __iter__(self) -> Iterator[ItemT]:
        """All records. Raises TlacError."""
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
    """All items of one type in a spool, to be gone through again and again."""
    spool = SpilledList(kind)
    for item in items:
        spool.put(item)
    return spool


def _complaint(error: OSError) -> TlacError:
    return TlacError(
        f"{tempfile.gettempdir()}: what a run has gathered so far can't be kept there: {error.strerror}; "
        "free space, or set TMPDIR to another folder"
    )
