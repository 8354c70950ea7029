from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlac.scoring.similarity import ClassVectors, rank


def vectors(random: np.random.Generator, count: int, dimensions: int, spread: float, centre: np.ndarray) -> np.ndarray:
    found = (centre + spread * random.standard_normal((count, dimensions))).astype(np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.float32(1e-30))


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 600),
    st.integers(1, 60),
    st.integers(1, 8),
    st.sampled_from([1e-6, 1e-4, 1e-2, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_the_nearest_classes_are_those_of_all_exact_cosines(  # noqa: PLR0917 - drawn
    seed: int, dimensions: int, names: int, count: int, spread: float, repeats: bool, has_aliases: bool
) -> None:
    """Bit for bit, with clusters narrower than float32 can tell apart, equal names and aliases."""
    random = np.random.default_rng(seed)
    centre = random.standard_normal(dimensions) * random.choice([0.0, 1.0])
    known = vectors(random, names, dimensions, spread, centre)
    if repeats:
        known = known[random.integers(0, names, names)]
    owners = np.unique(np.sort(random.integers(0, names, names)), return_inverse=True)[1]
    classes = ClassVectors(known, owners.tolist() if has_aliases else range(names))
    texts = vectors(random, int(random.integers(1, 700)), dimensions, spread, centre)
    indices, scores = classes.nearest(texts, count)
    expected, best = rank(classes.similarities(texts), count)
    assert indices.tolist() == expected.tolist()
    assert scores.tobytes() == best.tobytes()
    rows = random.integers(0, len(texts), 20)
    some = random.integers(0, len(classes), 20)
    assert classes.cosines(texts, rows, some).tolist() == classes.similarities(texts)[rows, some].tolist()


@pytest.mark.parametrize("length", [1e3, 1e4])
def test_vectors_far_from_length_1_are_ranked_by_exact_products(length: float) -> None:
    classes = ClassVectors(np.array([[length, 0], [0, length]], np.float32), range(2))
    indices, products = classes.nearest(np.array([[0, length]], np.float32), 2)
    assert (indices.tolist(), products.tolist()) == ([[1, 0]], [[length**2, 0.0]])


@pytest.mark.parametrize("length", [1e19, 3e38])
def test_vectors_whose_products_overflow_raise_nothing_and_warn_of_nothing(length: float) -> None:
    """They tell nothing; only a damaged store holds such."""
    classes = ClassVectors(np.array([[length, 0], [0, length]], np.float32), range(2))
    indices, products = classes.nearest(np.array([[0, length]], np.float32), 2)
    assert indices.shape == products.shape == (1, 2)
