from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tlac.encoders.batching import ROWS, Batch, encode_distinct, normalise, plan_batches, run_batches
from tlac.types import Encoding

LENGTHS = [5, 3, 5, 4] * 20 + [7]


def test_every_text_is_wanted_exactly_once():
    wanted = Counter(row for batch in plan_batches(LENGTHS) for row in batch.rows[: batch.count])
    assert wanted == Counter(range(len(LENGTHS)))


def test_every_batch_has_the_same_number_of_rows_and_one_length():
    batches = plan_batches(LENGTHS)
    assert {len(batch.rows) for batch in batches} == {ROWS}
    assert all(LENGTHS[row] == batch.length for batch in batches for row in batch.rows)


def test_a_lone_text_fills_its_batch_with_itself():
    assert plan_batches([9]) == [Batch(9, (0,) * ROWS, 1)]


def test_no_texts_need_no_batches():
    assert plan_batches([]) == []


def test_rows_come_back_in_the_order_of_the_texts_without_the_surplus():
    table = np.random.default_rng(0).normal(size=(len(LENGTHS), 6))
    vectors = run_batches(LENGTHS, lambda batch: table[list(batch.rows)])
    np.testing.assert_array_equal(vectors, normalise(table.astype(np.float32)))
    assert vectors.dtype == np.float32


def test_normalised_rows_have_length_one_and_a_zero_row_stays_zero():
    rows = normalise(np.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]]))
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0], [1.0, 0.0]]


def test_distinct_texts_are_encoded_once_in_their_first_order_and_lead_back_to_all_texts():
    asked = []

    def encode(texts: list[str]) -> Encoding:
        asked.append(texts)
        return Encoding(
            np.array([[ord(text)] for text in texts], np.float32), np.array([text == "b" for text in texts])
        )

    found = encode_distinct(["b", "a", "b", "c", "a"], encode)
    assert asked == [["b", "a", "c"]]
    assert found.vectors.tolist() == [[98.0], [97.0], [98.0], [99.0], [97.0]]
    assert found.is_truncated.tolist() == [True, False, True, False, False]
    assert encode_distinct([], encode).vectors.shape == (0, 0)
    assert len(asked) == 1


def test_a_gpu_gets_batches_by_tokens() -> None:
    lengths = [77] * 300 + [4] * 1100 + [2000] * 40 + [0] * 40
    planned = [(batch.length, len(batch.rows), batch.count) for batch in plan_batches(lengths, is_on_gpu=True)]
    assert planned == [
        (0, 32, 32),
        (0, 32, 8),
        (4, 1024, 1024),
        (4, 1024, 76),
        (77, 212, 212),
        (77, 212, 88),
        (2000, 32, 32),
        (2000, 32, 8),
    ]
