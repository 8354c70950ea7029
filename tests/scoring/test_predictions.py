"""Predictions as columns: what goes in row by row comes out as it was, and columns say what rows say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlac.errors import InputError
from tlac.scoring.predictions import (
    DECISIONS,
    OUTCOMES,
    Predictions,
    describe_twins,
    digest_bytes,
    digest_texts,
    find_twins,
)
from tlac.types import Outcome, Prediction

KEYS = st.none() | st.sampled_from(["0" * 63 + "1", "ab" * 32, "f" * 64])
CLASSES = st.none() | st.integers(0, 2_000)
# few values of each, so that equal decisions and equal shortlists are common
SHARES = st.none() | st.sampled_from([0.0, 0.25, 1.0])
ROWS = st.lists(
    st.builds(
        Prediction,
        sample=st.sampled_from(["a.png", "b.png", "c/\u732b.png"]),
        image_sha256=KEYS,
        label=CLASSES,
        outcome=st.sampled_from(list(Outcome)),
        answer=st.none() | st.sampled_from(["", "a cat"]),
        choice=st.none() | st.sampled_from(["", "cat"]),
        decided_by=st.none() | st.sampled_from(DECISIONS),
        predicted=CLASSES,
        score=SHARES,
        margin=st.none() | st.sampled_from([-0.5, 0.0, 0.5]),
        top5=st.lists(st.tuples(st.integers(0, 999), st.sampled_from([0.5, -0.25])), max_size=5).map(tuple),
        stage1_key=KEYS,
        stage2_key=KEYS,
        words=st.sampled_from([(), (7,), (7, 1_000)]),
        reason=st.sampled_from(["", "why"]),
        shortlist=st.sampled_from([(), (3,), (1_000, 3)]),
        stage2_with_image=st.booleans(),
        further=st.sampled_from([(), ((1, "stage1", "k"),), ((-1, "stage1", "k"), (2, "stage2", "l"))]),
        votes=st.sampled_from([(), (1, None), (None, 1_000)]),
        confidence=SHARES,
        second=SHARES,
        logprob=st.none() | st.sampled_from([0.0, -1.5]),
    ),
    max_size=12,
)
ONE = Prediction("1.png", None, 3, Outcome.ANSWERED, "a", None, "exact", 3, 0.8, 0.1, ((3, 0.8),), None, None)


@given(ROWS)
def test_rows_come_out_as_they_went_in_and_columns_say_the_same(rows: list[Prediction]) -> None:
    found = Predictions.of(rows)
    assert list(found) == rows
    assert [found[place] for place in range(len(rows))] == rows
    assert (len(found), found[1:-1], found[::-2]) == (len(rows), tuple(rows[1:-1]), tuple(rows[::-2]))
    assert [OUTCOMES[code] for code in found.outcome.tolist()] == [row.outcome for row in rows]
    assert found.predicted.tolist() == [-1 if row.predicted is None else row.predicted for row in rows]
    assert found.label.tolist() == [-1 if row.label is None else row.label for row in rows]
    assert found.is_correct.tolist() == [row.label is not None and row.label == row.predicted for row in rows]
    assert found == rows
    assert found == Predictions.of(reversed(rows[::-1]))


@given(ROWS)
def test_equal_decisions_are_kept_once_whatever_the_sample(rows: list[Prediction]) -> None:
    about_samples = {
        "sample": "", "image_sha256": None, "label": None, "stage1_key": None, "stage2_key": None, "shortlist": (),
        "stage2_with_image": False, "further": (),
    }  # fmt: skip
    distinct = {repr(replace(row, **about_samples)) for row in rows}
    assert len(Predictions.of(rows).decisions) == len(distinct)


def test_a_label_below_or_above_the_prediction_is_wrong() -> None:
    rows = [replace(ONE, label=label) for label in (2, 3, 4, None)]
    assert Predictions.of(rows).is_correct.tolist() == [False, True, False, False]


def test_other_rows_are_not_equal_and_neither_are_more_or_fewer() -> None:
    found = Predictions.of([ONE, replace(ONE, sample="2.png")])
    assert found != [ONE]
    assert found != [ONE, replace(ONE, sample="3.png")]
    assert found != [ONE, replace(ONE, sample="2.png"), ONE]
    assert found != 3
    with pytest.raises(IndexError):
        found[2]
    assert found[-1].sample == "2.png"


@pytest.mark.parametrize("text", ["ab", "ab" * 31, "ab" * 33, "zz" * 32, "a" * 63])
def test_what_is_no_sha256_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=f"'{text[:80]}' is not a sha256"):
        digest_bytes(text)
    with pytest.raises(InputError, match="is not a sha256"):
        Predictions.of([replace(ONE, stage2_key=text)])


def test_a_digest_of_zeros_is_none() -> None:
    assert digest_bytes(None) == digest_bytes("") == bytes(32)
    assert digest_bytes("0" * 62 + "ff") == bytes(31) + b"\xff"
    rows = np.frombuffer(bytes(32) + bytes(31) + b"\xff", np.uint8).reshape(2, 32)
    assert digest_texts(rows) == [None, "0" * 62 + "ff"]
    assert digest_texts(rows[:0]) == []


def test_of_more_than_five_classes_the_first_five_are_kept() -> None:
    top = tuple((index, 1 - index / 10) for index in range(6))
    (found,) = Predictions.of([replace(ONE, top5=top)])
    assert found.top5 == top[:5]


def _told(*rows: tuple[str, str | None, int | None]) -> str | None:
    """What is said of samples by name, first letter of their image's sha256, and label."""
    found = Predictions.of(
        Prediction(
            name, letter and letter * 64, label, Outcome.ANSWERED, "x", None, None, None, None, None, (), None, None
        )
        for name, letter, label in rows
    )
    return describe_twins(*find_twins(found.samples, found.image_sha256, found.label))


def test_samples_with_the_same_image_are_told_and_so_are_labels_that_contradict_each_other() -> None:
    assert _told(("one", "a", 0), ("two", "b", 1), ("none", None, 1), ("no file", None, 0)) is None
    assert (
        _told(("one", "a", 0), ("two", "b", 1), ("three", "a", 0)) == "1 sample has the image of another, byte for byte"
    )
    assert _told(("one", "a", None), ("two", "a", None), ("three", "a", None)) == (
        "2 samples have the image of another, byte for byte"
    )
    told = _told(
        ("zero", "c", 3), ("one", "b", 0), ("two", "a", 1), ("three", "a", 1), ("four", "a", 2), ("five", "b", 1)
    )
    assert told == (
        "3 samples have the image of another, byte for byte; 2 images have several labels, such as two and four"
    )
