from __future__ import annotations

import numpy as np
import pytest

from tlac.scoring.similarity import fuse_scores, standardise

WORDS = np.array([[0.9, 0.7, 0.75, 0.3], [0.1, 0.1, 0.1, 0.1]])
IMAGES = np.array([[0.2, 0.2, 0.26, 0.2], [0.3, 0.2, 0.25, 0.28]])


def test_rows_have_mean_zero_and_variance_one_and_depend_on_no_other_row() -> None:
    found = standardise(IMAGES)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=1), 1)
    np.testing.assert_array_equal(found[1:], standardise(IMAGES[1:]))


def test_scale_and_level_of_either_source_change_nothing() -> None:
    np.testing.assert_allclose(fuse_scores(WORDS, IMAGES), fuse_scores(WORDS * 0.1 - 3, IMAGES * 7), atol=2e-6)


def test_both_weigh_the_same_where_cosines_averaged_would_not() -> None:
    # by spread the words would win an average of cosines
    assert ((WORDS + IMAGES) / 2)[0].argmax() == 0
    assert fuse_scores(WORDS, IMAGES)[0].argmax() == 2
    np.testing.assert_array_equal(fuse_scores(WORDS, IMAGES), fuse_scores(IMAGES, WORDS))


def test_a_row_of_equal_scores_says_nothing() -> None:
    assert standardise(np.full((1, 7), 0.1)).tolist() == [[0.0] * 7]
    assert fuse_scores(WORDS, IMAGES)[1].argmax() == 0
    assert fuse_scores(WORDS[1:], WORDS[1:]).tolist() == [[0.0] * 4]


def test_values_are_worked_out_by_hand() -> None:
    words, images = np.array([[1.0, 0.0, -1.0]]), np.array([[0.0, 0.0, 3.0]])
    one, half = np.sqrt(1.5), 1 / np.sqrt(2)
    expected = [(one - half) / 2, -half / 2, (-one + 2 * half) / 2]
    assert fuse_scores(words, images)[0].tolist() == pytest.approx(expected, abs=1e-6)
