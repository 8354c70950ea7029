"""Plans batches in which the row of a text depends on that text alone.

Matrix kernels are chosen by shape, so padding to the longest neighbour, a smaller last batch, or one text at a time
with another number of threads each move the last bits of a row (by up to 2.8e-7, measured). With texts of one exact
token length, in batches of always 32 rows, a row has the same bits in any order, among any neighbours, in any run, with
1 or 2 threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlac.types import BoolArray, Encoding, Float32Array

ROWS = 32
"""Rows of every batch, full or not; on a GPU, of the smallest."""

# what keeps a GPU busy: 16,384 tokens of a CLIP or BERT of 768 numbers each are some hundred megabytes
_GPU_TOKENS = 16_384
_GPU_MAX_ROWS = 1024

_CHARACTERS_PER_TOKEN = 16
# WordPiece takes a word of more than 100 characters for one unknown token, and any other for no more tokens than that
_LONGEST_WORD = 128


@dataclass(frozen=True, slots=True)
class Batch:
    """`rows` index the texts, as many in every batch of that length, all `length` tokens long; the first `count` are
    wanted."""

    length: int
    rows: tuple[int, ...]
    count: int


def plan_batches(lengths: Sequence[int], is_on_gpu: bool = False) -> list[Batch]:
    """Batches that cover every text once, shortest texts first; the last row of a batch fills what is left of it.

    `lengths` holds the number of tokens of each text as the model sees it. A batch has ROWS rows; on a GPU, as many as
    a number of tokens allows.
    """
    buckets: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        buckets.setdefault(length, []).append(index)
    batches = []
    for length, members in sorted(buckets.items()):
        size = max(ROWS, min(_GPU_TOKENS // length, _GPU_MAX_ROWS)) if is_on_gpu and length else ROWS
        for start in range(0, len(members), size):
            wanted = members[start : start + size]
            filled = wanted + wanted[-1:] * (size - len(wanted))
            batches.append(Batch(length, tuple(filled), len(wanted)))
    return batches


def run_batches(
    lengths: Sequence[int], forward: Callable[[Batch], NDArray[Any]], threads: int = 1, is_on_gpu: bool = False
) -> Float32Array:
    """(n, d) float32, rows of length 1: what `forward` gives for each batch, in the order of the texts.

    It gives a row for each of a batch's, or for the first `count` of them. More than one of the `threads` is for a
    `forward` that uses a single one itself. Expects at least one text.
    """
    batches = plan_batches(lengths, is_on_gpu)
    with ThreadPoolExecutor(threads) as pool:
        found = map(forward, batches) if threads == 1 else pool.map(forward, batches)
        parts = [np.asarray(part, np.float32)[: batch.count] for batch, part in zip(batches, found, strict=True)]
    vectors = np.empty((len(lengths), parts[0].shape[1]), dtype=np.float32)
    for batch, part in zip(batches, parts, strict=True):
        vectors[list(batch.rows[: batch.count])] = part
    return normalise(vectors)


def fit_window(texts: Sequence[str], window: int, count_tokens: Callable[[str], int]) -> tuple[list[str], BoolArray]:
    """The texts, cut where less of them fills a model's window of so many tokens in the same way, and which of them
    have more tokens than that."""
    cut = [cut_to_window(text, window, count_tokens) for text in texts]
    # no tokeniser makes more than one token of an ASCII character, and few stand around a text
    is_counted = [len(text) + 3 > window or not text.isascii() for text in cut]
    return cut, np.array(
        [counted and count_tokens(text) > window for text, counted in zip(cut, is_counted, strict=True)]
    )


def cut_to_window(text: str, window: int, count_tokens: Callable[[str], int]) -> str:
    """The text, or a beginning of it that fills a model's window of so many tokens in the same way.

    A tokeniser takes minutes and gigabytes for megabytes of which a model sees some hundred tokens. No number of
    characters is enough by itself: words and spaces of any length may be one token or none.
    """
    size = _CHARACTERS_PER_TOKEN * window
    while size < len(text):
        beginning = text[:size]
        # the last word of a beginning may be cut, and be another one: at most so many tokens of it differ
        if count_tokens(beginning) > window + _LONGEST_WORD:
            return beginning
        size *= 4
    return text


def normalise(vectors: NDArray[Any]) -> Float32Array:
    """Rows scaled to length 1, (n, d) float32; the lengths are taken in float64. A zero row stays as it is."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: Float32Array = (vectors / np.where(norms == 0, 1.0, norms)).astype(np.float32)
    return scaled


def encode_distinct(texts: Sequence[str], encode: Callable[[list[str]], Encoding]) -> Encoding:
    """A row for each text, where `encode` is given each distinct one once, in the order of their first appearance.

    No texts give (0, 0), and `encode` is not called.
    """
    places: dict[str, int] = {}
    inverse = [places.setdefault(text, len(places)) for text in texts]
    if not places:
        return Encoding(np.zeros((0, 0), np.float32), np.zeros(0, np.bool_))
    found = encode(list(places))
    if len(places) == len(texts):
        return found
    return Encoding(found.vectors[inverse], found.is_truncated[inverse])
