"""What is counted beside accuracy, and in which order it is listed, with class numbers that no hash table sorts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, top_k_accuracy_score

from tlac.scoring.metrics import measure
from tlac.types import Outcome, Prediction

# in the order of their first use; a set or dict of small integers would come out sorted by luck
CLASSES = (1000, 31, 520, 8, 257, 96, 64, 33, 999, 16)
NUMBERS: Iterator[int] = count()


def prediction(
    label: int | None,
    predicted: int | None,
    decided_by: str = "exact",
    outcome: Outcome = Outcome.ANSWERED,
    **more: Any,
) -> Prediction:
    top = () if predicted is None else ((predicted, 0.9),)
    score = None if predicted is None else 0.9
    given: dict[str, Any] = {"top5": top, **more}
    return Prediction(
        f"s{next(NUMBERS)}",
        None,
        label,
        outcome,
        "x",
        None,
        None if predicted is None else decided_by,
        predicted,
        score,
        None if predicted is None else 0.1,
        stage1_key=None,
        stage2_key=None,
        **given,
    )


def test_every_outcome_is_counted_by_its_own_name() -> None:
    # another number of each, so that no count can stand in for another
    numbers = {outcome: number for number, outcome in enumerate(Outcome, 1)}
    rows = [
        prediction(0, 0 if outcome is Outcome.ANSWERED else None, outcome=outcome)
        for outcome, number in numbers.items()
        for _ in range(number)
    ]
    metrics = measure(rows)
    assert metrics.n == sum(numbers.values())
    for outcome, number in numbers.items():
        assert getattr(metrics, outcome.value) == number, outcome


def test_classes_are_listed_by_number() -> None:
    metrics = measure([prediction(label, CLASSES[0]) for label in CLASSES])
    assert [entry.index for entry in metrics.per_class] == sorted(CLASSES)
    counts = {entry.index: (entry.n, entry.predicted, entry.correct) for entry in metrics.per_class}
    assert counts == {label: (1, 0, 0) for label in CLASSES} | {CLASSES[0]: (1, len(CLASSES), 1)}


def test_of_pairs_that_are_confused_equally_often_the_lowest_come_first_and_ten_at_most() -> None:
    ring = list(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))
    pairs = [*ring, (16, 8), (16, 31), (1000, 31)]
    confused = measure([prediction(label, guess) for label, guess in pairs]).confused
    # 1000 is taken for 31 twice
    expected = [(1000, 31, 2), *((label, guess, 1) for label, guess in sorted({*pairs} - {(1000, 31)}))]
    assert [(pair.label, pair.predicted, pair.n) for pair in confused] == expected[:10]
    assert len(expected) > 10


def test_decisions_are_listed_by_name_and_unlabelled_samples_are_none_of_them() -> None:
    rows = [
        prediction(0, 0, "similarity"),
        prediction(0, 1, "similarity"),
        prediction(0, 0, "choice"),
        prediction(0, 0, "exact"),
        prediction(None, 0, "exact"),
        prediction(0, None, outcome=Outcome.REFUSED),
    ]
    found = measure(rows).by_decision
    assert [(name, by.n, by.accuracy) for name, by in found.items()] == [
        ("choice", 1, 1.0),
        ("exact", 1, 1.0),
        ("similarity", 2, 0.5),
    ]


def test_shortlists_are_counted_apart_from_samples_that_were_shown_all_classes() -> None:
    rows = [
        prediction(31, 8, shortlist=(8, 31, 520), stage2_with_image=True),
        prediction(31, 8, shortlist=(8, 96), stage2_with_image=True),
        prediction(31, 31, shortlist=(31,)),
        prediction(31, 31, shortlist=(31, 520)),
        prediction(None, 8, shortlist=(8, 31)),
        prediction(31, 31),
        prediction(31, 31, stage2_with_image=True),
    ]
    shortlist = measure(rows).shortlist
    assert shortlist is not None
    assert (shortlist.n, shortlist.mean_size, shortlist.stage2_with_image) == (5, 2.0, 2)
    # of the four that have a label
    assert shortlist.holds_label == 0.75
    assert measure(rows[5:]).shortlist is None
    unlabelled = measure(rows[4:5]).shortlist
    assert unlabelled is not None
    assert unlabelled.holds_label is None


def test_confidences_of_labelled_answers_are_measured_and_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(3)
    confidences = random.uniform(0, 1, 500).round(3)
    hits = random.uniform(0, 1, 500) < confidences
    rows = [
        prediction(31, 31 if hit else 8, confidence=float(confidence))
        for confidence, hit in zip(confidences, hits, strict=True)
    ]
    rest = [
        prediction(None, 8, confidence=0.99),
        prediction(31, None, outcome=Outcome.REFUSED),
    ]
    found = measure([*rows, *rest]).confidence
    assert found is not None
    assert found.n == 500
    assert found.brier == pytest.approx(brier_score_loss(hits, confidences), abs=1e-6)
    assert measure(rest[1:]).confidence is None


def test_top_5_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(4)
    scores = random.uniform(-1, 1, (300, 12)).round(6)
    labels = random.integers(0, 12, 300)
    rows = []
    for label, row in zip(labels.tolist(), scores, strict=True):
        best = np.argsort(-row)[:5].tolist()
        rows.append(prediction(label, best[0], top5=tuple((index, float(row[index])) for index in best)))
    expected = top_k_accuracy_score(labels, scores, k=5, labels=range(12))
    assert measure(rows).top5 == pytest.approx(expected, abs=1e-12)
