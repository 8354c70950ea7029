"""Scores of words and scores of the image itself, made comparable without labels and averaged.

Does not know where the scores come from.
"""

from __future__ import annotations

import numpy as np

from tlac.types import Float64Array

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


def fuse_scores(words: Float64Array, images: Float64Array, places: int) -> Float64Array:
    """The mean of two (n, c) arrays, each standardised by rows, rounded to `places`: both weigh the same."""
    # + 0.0 turns -0.0 into 0.0, which prints otherwise
    fused: Float64Array = np.round((standardise(words) + standardise(images)) / 2, places) + 0.0
    return fused
