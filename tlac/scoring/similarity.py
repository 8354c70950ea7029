"""Cosines of texts and class names, and the classes nearest to each text.

A cosine is a float64 product rounded to 6 places, whatever the processor; ties go to the lower class index. Does not
know where vectors come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tlac.types import Float32Array, Float64Array

PLACES = 6
# rows of similarities held at once: 512 x 1,000 float32 are 2 MB, and stay in the processor's cache
_CHUNK_ROWS = 512
_PAIRS = 256
_LONG = 1e6

IntArray: TypeAlias = NDArray[np.int64]
_FloatT = TypeVar("_FloatT", np.float32, np.float64)


def similarities(texts: Float32Array, classes: Float32Array) -> Float64Array:
    """Cosines of (t, d) and (c, d) rows of length 1: (t, c) float64 in [-1, 1], rounded to 6 places."""
    return _rounded(texts.astype(np.float64) @ classes.astype(np.float64).T)


def rank(scores: Float64Array, count: int) -> tuple[IntArray, Float64Array]:
    """The `count` best columns of each row and their scores, best first, ties to the lower index."""
    columns = scores.shape[1]
    count = min(count, columns)
    # distinct whole numbers, exact in float64, that order by score, then by lower index, and hold their column:
    # partitioning such numbers is much faster than partitioning places
    ordered = np.rint(scores * 10**PLACES) * columns - np.arange(columns)
    ordered.partition(columns - count, axis=1)
    best = -np.sort(-ordered[:, columns - count :], axis=1)
    indices = (-best % columns).astype(np.int64)
    return indices, np.take_along_axis(scores, indices, axis=1)


def mean_vectors(vectors: Sequence[Float32Array]) -> Float32Array:
    """The mean of arrays (n, d) with rows of length 1, its rows of length 1 again. One array stays as it is."""
    if len(vectors) == 1:
        return vectors[0]
    total = np.sum([array.astype(np.float64) for array in vectors], axis=0)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    # opposite vectors have no mean direction; their zero row is equally far from every class
    unit: Float32Array = (total / np.where(length > 0, length, 1.0)).astype(np.float32)
    return unit


class ClassVectors:
    """The vectors of all names of the classes: (m, d) float32, in class order; `owners` (m,) are their classes."""

    def __init__(self, vectors: Float32Array, owners: Sequence[int]) -> None:
        self._vectors = vectors
        self._exact = vectors.astype(np.float64)
        self._starts = np.flatnonzero(np.diff(owners, prepend=-1))
        self._names = np.diff(self._starts, append=len(owners))
        self._has_aliases = len(self._starts) < len(owners)
        self._longest = _longest(vectors)

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self._starts)

    def similarities(self, texts: Float32Array) -> Float64Array:
        """(n, d) texts against the classes: (n, c), each class by the nearest of its names."""
        return self._by_class(similarities(texts, self._vectors))

    def nearest(self, texts: Float32Array, count: int) -> tuple[IntArray, Float64Array]:
        """The `count` nearest classes of each of (n, d) texts, and their cosines, as `rank` of all cosines has them.

        A float32 product takes half of the time of a float64 one. Its error is bounded, so it tells which few classes
        may be among the nearest; only their cosines are taken exactly.
        """
        count = min(count, len(self))
        chunks = [
            self._nearest(texts[start : start + _CHUNK_ROWS], count) for start in range(0, len(texts), _CHUNK_ROWS)
        ]
        return np.concatenate([indices for indices, _ in chunks]), np.concatenate([scores for _, scores in chunks])

    def cosines(self, texts: Float32Array, rows: IntArray, classes: IntArray) -> Float64Array:
        """The cosines of texts[rows] with these classes, pair by pair: (p,)."""
        if not self._has_aliases:
            return self._pairs(texts, rows, classes)
        counts = self._names[classes]
        starts = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - np.repeat(starts, counts)
        names = np.repeat(self._starts[classes], counts) + within
        nearest: Float64Array = np.maximum.reduceat(self._pairs(texts, np.repeat(rows, counts), names), starts)
        return nearest

    def _nearest(self, texts: Float32Array, count: int) -> tuple[IntArray, Float64Array]:
        classes, longest = len(self), _longest(texts) * self._longest
        # vectors are of length 1, but for what a damaged store may hold: products that overflow tell nothing
        if not longest < _LONG:
            return rank(self.similarities(texts), count)
        rough = self._by_class(texts @ self._vectors.T)
        last = np.partition(rough, classes - count, axis=1)[:, classes - count]
        # `count` classes lie at or above last - error; another that equals one of them once both are rounded lies
        # less than a place below, and its product at most another error below that
        margin = np.float32(2 * _error(texts.shape[1]) * longest + 1.1 * 10**-PLACES)
        found = np.flatnonzero(rough >= np.nextafter(last - margin, np.float32(-np.inf))[:, None])
        # many names that are nearly equal leave nothing to gain
        if len(found) > rough.size / 4:
            return rank(self.similarities(texts), count)
        rows, columns = np.divmod(found, classes)
        scores = self.cosines(texts, rows, columns)
        order = np.lexsort((columns, -scores, rows))
        counts = np.bincount(rows, minlength=len(texts))
        best = order[(np.cumsum(counts) - counts)[:, None] + np.arange(count)]
        return columns[best], scores[best]

    def _pairs(self, texts: Float32Array, rows: IntArray, names: IntArray) -> Float64Array:
        scores = np.empty(len(rows))
        for start in range(0, len(rows), _PAIRS):
            part = slice(start, start + _PAIRS)
            exact = texts[rows[part]].astype(np.float64)
            np.einsum("pd,pd->p", exact, self._exact[names[part]], out=scores[part])
        return _rounded(scores)

    def _by_class(self, scores: NDArray[_FloatT]) -> NDArray[_FloatT]:
        return np.maximum.reduceat(scores, self._starts, axis=1) if self._has_aliases else scores


def _rounded(product: Float64Array) -> Float64Array:
    rounded: Float64Array = np.round(product, PLACES, out=product)
    # turns -0.0 into 0.0, which prints otherwise
    rounded += 0.0
    return rounded


def _longest(vectors: Float32Array) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64).max(initial=0.0)))


def _error(dimensions: int) -> float:
    """How far a float32 product of vectors of length 1 can be off, in whatever order it is summed up.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition (2002), section 3.1.
    """
    products = dimensions * 2.0**-24
    return products / (1 - products)


# with two classes every standardised row is +1 and -1: which is nearer would be left, and by how much be lost
MIN_CLASSES = 3


def standardise(scores: Float64Array) -> Float64Array:
    """(n, c) scores in standard deviations above the mean of their own row; a row of equal scores gives zeros.

    Z-score normalisation (Jain, Nandakumar and Ross, Pattern Recognition 38, 2005), each sample by itself: no
    other sample and no label takes part. The values lie within the square root of c - 1 on either side of 0.
    """
    deviation = scores.std(axis=1, keepdims=True)
    # rounding leaves equal scores a deviation that is not quite 0
    is_flat = scores.max(axis=1, keepdims=True) == scores.min(axis=1, keepdims=True)
    standard: Float64Array = (scores - scores.mean(axis=1, keepdims=True)) / np.where(is_flat, 1.0, deviation)
    return np.where(is_flat, 0.0, standard)


def fuse_scores(words: Float64Array, images: Float64Array) -> Float64Array:
    """The mean of two (n, c) arrays, each standardised by rows, rounded to 6 places: both weigh the same."""
    return _rounded((standardise(words) + standardise(images)) / 2)
