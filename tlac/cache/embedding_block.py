"""Many embeddings of one encoder in one file that is mapped into memory: 50,000 take as long as np.load.

A copy of rows of the store, which stays the truth: one that is gone or broken is made anew. Since no embedding in the
store is ever replaced by another, what a block holds does not grow old.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tlac.runtime.safe_files import replacing
from tlac.types import BoolArray, Encoding, Float32Array

# fewer are read from the database in 5 ms
MIN_ROWS = 512
# what a block must grow by, as a share of its rows: it is written anew as a whole
_MIN_GROWTH = 1 / 16

Keys: TypeAlias = NDArray[np.uint64]
"""(n, 4): a sha256 in each row."""


@dataclass(frozen=True, slots=True)
class EmbeddingBlock:
    """n embeddings: keys (n, 4), vectors (n, d) float32, is_truncated (n,)."""

    keys: Keys
    vectors: Float32Array
    is_truncated: BoolArray

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The row of each of (m, 4) keys, -1 for one that is not there."""
        if np.array_equal(self.keys[: len(keys)], keys):
            return np.arange(len(keys))
        order = np.argsort(self.keys[:, 0])
        # no two digests agree in their first 64 bits; one that did would be taken for missing
        places = np.searchsorted(self.keys[order, 0], keys[:, 0])
        rows = order[np.minimum(places, len(order) - 1)]
        found: NDArray[np.int64] = np.where((self.keys[rows] == keys).all(axis=1), rows, -1)
        return found

    def take(self, rows: NDArray[np.int64]) -> Encoding:
        """These rows; no copy where they are the first ones in order, as in a second run on the same texts."""
        if np.array_equal(rows, np.arange(len(rows))):
            return Encoding(self.vectors[: len(rows)], self.is_truncated[: len(rows)])
        return Encoding(self.vectors[rows], self.is_truncated[rows])

    def is_worth_adding(self, rows: int) -> bool:
        """Whether so many more rows are worth writing the block anew."""
        return rows >= max(MIN_ROWS, _MIN_GROWTH * len(self.keys))

    def joined(self, added: EmbeddingBlock) -> EmbeddingBlock:
        """This block with another behind it."""
        return EmbeddingBlock(
            np.concatenate([self.keys, added.keys]),
            np.concatenate([self.vectors, added.vectors]),
            np.concatenate([self.is_truncated, added.is_truncated]),
        )


def block_keys(keys: Iterable[str]) -> Keys:
    """Keys in hex as a block holds them."""
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint64).reshape(-1, 4)


def read_block(folder: Path, encoder: str) -> EmbeddingBlock | None:
    """The block of the encoder with that fingerprint, its vectors mapped; None where there is none that can be read."""
    try:
        with _path(folder, encoder).open("rb") as file:
            keys, is_truncated = np.load(file), np.load(file)
            vectors = np.memmap(file, np.float32, "r", file.tell()).reshape(len(is_truncated), -1)
    except (OSError, ValueError, EOFError):
        return None
    if keys.dtype != np.uint64 or keys.shape != (len(vectors), 4):
        return None
    return EmbeddingBlock(keys, vectors, is_truncated.astype(np.bool_))


def write_block(folder: Path, encoder: str, block: EmbeddingBlock) -> None:
    """Write the block in place of the one that is there; nothing is written where the disk is full or read-only."""
    with suppress(OSError), replacing(_path(folder, encoder), is_private=True) as file:
        np.save(file, block.keys)
        # 4 bytes each, so that the vectors behind them are aligned
        np.save(file, block.is_truncated.astype(np.uint32))
        np.ascontiguousarray(block.vectors, np.float32).tofile(file)


def remove_blocks(folder: Path) -> None:
    """Remove all blocks in a folder. Raises OSError."""
    for path in folder.glob("block-*"):
        path.unlink(missing_ok=True)


def _path(folder: Path, encoder: str) -> Path:
    return folder / f"block-{hashlib.sha256(encoder.encode()).hexdigest()[:16]}"
