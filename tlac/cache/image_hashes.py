"""Remember the sha256 of image files, so that a run whose answers are stored reads no image.

A file counts as unchanged while its size and both of its times are.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from tlac.cache.serialization import Sha256
from tlac.errors import InputError
from tlac.images import identify
from tlac.runtime.safe_files import is_utf8, read_json, replacing
from tlac.types import Image, Source

FOLDER = "image-digests"
_MAX_BYTES = 2**30
# hashing this much takes less time than handing it to a thread
_SMALL_BYTES = 2**16
# a file may change again within one tick of the file system's clock
_SETTLED_NS = 2 * 10**9

# size in bytes, time of the last write and of the last change of the file's entry (ns)
_State: TypeAlias = tuple[int, int, int]
_Known: TypeAlias = tuple[int, int, int, Sha256]


class ImageDigests:
    """The digests of one dataset's files, kept in a file of their own in the store's folder.

    Losing the file costs time alone: one that can't be read, or is not as tlac writes it, counts as empty.
    """

    def __init__(self, store: Path, dataset: str) -> None:
        self._path = store / FOLDER / f"{hashlib.sha256(os.fsencode(dataset)).hexdigest()[:32]}.json"
        self._known: dict[str, _Known] = {}
        self._is_changed = False
        with suppress(InputError):
            self._known = read_json(self._path, dict[str, _Known], _MAX_BYTES, within=store)

    async def identify(self, source: Source, name: str) -> Image:
        """Do as tlac.images.identify, off the event loop; a file that has not changed is not read."""
        if isinstance(source, bytes) and len(source) <= _SMALL_BYTES:
            return identify(source, name)
        if not isinstance(source, Path):
            return await asyncio.to_thread(identify, source, name)
        path = os.path.abspath(source)  # noqa: PTH100 - links are not followed
        # the file of digests is text, and so can't hold every name
        state = _state(source) if is_utf8(path) else None
        known = self._known.get(path)
        if known is not None and known[:3] == state:
            return Image(known[3], source)
        image = await asyncio.to_thread(identify, source, name)
        # the same state before and after: these are the bytes that belong to it
        if state is not None and state == _state(source) and time.time_ns() - max(state[1:]) > _SETTLED_NS:
            self._known[path] = (*state, image.sha256)
            self._is_changed = True
        return image

    def save(self) -> None:
        """Write what is new. Where the folder can't be written, the digests are forgotten."""
        if not self._is_changed:
            return
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with replacing(self._path, is_private=True) as file:
                file.write(msgspec.json.encode(self._known))
            self._is_changed = False


def _state(source: Path) -> _State | None:
    try:
        found = os.stat(source)  # noqa: PTH116 - Path.stat takes three times as long
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
