"""Means, ranks and nearest classes against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tlac.scoring.similarity import ClassVectors, mean_vectors, rank, similarities


def unit(random: np.random.Generator, count: int, dimensions: int) -> np.ndarray:
    found = random.standard_normal((count, dimensions))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def best_of(scores: np.ndarray, count: int) -> np.ndarray:
    """By score, highest first, and ties by index: numpy's stable sort."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("arrays", [2, 3, 80])
@pytest.mark.parametrize("dimensions", [1, 2, 384])
def test_a_mean_of_unit_vectors_has_their_direction_and_length_1(arrays: int, dimensions: int) -> None:
    random = np.random.default_rng(arrays * dimensions)
    # odd numbers of +1 and -1 never cancel
    vectors = [unit(random, 20, dimensions) for _ in range(arrays + 1 - arrays % 2 if dimensions == 1 else arrays)]
    mean = mean_vectors(vectors)
    assert mean.dtype == np.float32
    assert np.linalg.norm(mean.astype(np.float64), axis=1) == pytest.approx(1.0, abs=1e-6)
    expected = np.mean(vectors, axis=0, dtype=np.float64)
    cosines = np.sum(mean * expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines == pytest.approx(1.0, abs=1e-6)


def test_opposite_vectors_have_a_zero_row_and_no_warning() -> None:
    vectors = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    mean = mean_vectors([vectors, np.array([[-0.6, -0.8], [0.0, 1.0]], np.float32)])
    assert mean[0].tolist() == [0.0, 0.0]
    assert mean[1] == pytest.approx([2**-0.5, 2**-0.5])


def test_one_array_keeps_its_bits() -> None:
    vectors = np.array([[3.0, 4.0]], np.float32)
    assert mean_vectors([vectors]).tobytes() == vectors.tobytes()


def test_cosines_are_rounded_to_six_places_and_never_minus_zero() -> None:
    texts = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    classes = np.array([[1.0, 0.0], [-0.0, 1.0], [-1e-7, 1.0], [0.28, -0.96]], np.float32)
    found = similarities(texts, classes)
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.28], [0.6, 0.8, 0.8, -0.6]]
    assert not np.signbit(found[0, 1:3]).any()


# numpy sorts a short row whole, wherever it is asked to part it
@pytest.mark.parametrize("columns", [7, 300])
@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_ranks_are_numpys_and_ties_go_to_the_lower_index(count: int, columns: int) -> None:
    scores = np.random.default_rng(0).integers(-300, 400, (200, columns)) / 400
    indices, best = rank(scores, count)
    expected = best_of(scores, count)
    assert indices.tolist() == expected.tolist()
    assert best.tolist() == np.take_along_axis(scores, expected, axis=1).tolist()


def test_scores_a_millionth_apart_are_told_apart() -> None:
    scores = np.array([[0.499999, 0.5, 0.500001, -1.0, 1.0, 0.5]])
    assert rank(scores, 6)[0].tolist() == [[4, 2, 1, 5, 0, 3]]


@pytest.mark.parametrize("dimensions", [8, 384, 1024])
def test_classes_that_a_float32_product_would_order_otherwise_come_in_their_exact_order(dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    texts = unit(random, 300, dimensions)
    # forty classes that differ in the sixth place and below
    near = unit(random, 1, dimensions) + 2e-6 * random.standard_normal((40, dimensions)) / dimensions**0.5
    known = np.concatenate([near, unit(random, 160, dimensions)]).astype(np.float32)
    exact = np.round(texts.astype(np.float64) @ known.astype(np.float64).T, 6)
    expected = best_of(exact, 5)
    rough = best_of((texts @ known.T).astype(np.float64), 5)
    # so float32 alone would be wrong here
    assert (rough != expected).any()
    indices, scores = ClassVectors(known, range(len(known))).nearest(texts, 5)
    assert indices.tolist() == expected.tolist()
    assert scores.tolist() == (np.take_along_axis(exact, expected, axis=1) + 0.0).tolist()


def test_a_class_is_as_near_as_the_nearest_of_its_names() -> None:
    random = np.random.default_rng(5)
    texts, names = unit(random, 50, 16), unit(random, 12, 16)
    owners = [0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 6, 6]
    exact = np.round(texts.astype(np.float64) @ names.astype(np.float64).T, 6)
    by_class = np.stack([exact[:, [o == c for o in owners]].max(axis=1) for c in range(7)], axis=1)
    classes = ClassVectors(names, owners)
    assert len(classes) == 7
    assert classes.similarities(texts).tolist() == (by_class + 0.0).tolist()
    indices, _ = classes.nearest(texts, 3)
    assert indices.tolist() == best_of(by_class, 3).tolist()
    rows, columns = np.array([0, 7, 49, 7]), np.array([6, 0, 2, 5])
    assert classes.cosines(texts, rows, columns).tolist() == (by_class[rows, columns] + 0.0).tolist()


def test_more_texts_than_are_compared_at_once_come_in_their_order() -> None:
    random = np.random.default_rng(6)
    texts, known = unit(random, 1500, 8), unit(random, 30, 8)
    expected = best_of(np.round(texts.astype(np.float64) @ known.astype(np.float64).T, 6), 2)
    indices, _ = ClassVectors(known, range(30)).nearest(texts, 2)
    assert indices.tolist() == expected.tolist()
