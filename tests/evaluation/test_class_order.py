from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import FakeLMM, digest
from tests.support.made_runs import made_prediction
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, BackendSpec
from tlac.errors import SampleError, UsageError
from tlac.evaluation.class_order import (
    choose_again,
    class_order,
    compare_orders,
    draw_spread,
    restore_choices,
    rotations,
)
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.results.record import OrderTrials
from tlac.scoring.matching import ClassIndex
from tlac.scoring.predictions import Predictions
from tlac.types import LMMRequest, LMMResponse, Outcome, Prediction, Transcript, Turn

CLASSES = ("red car", "old car", "lorry", "bus")


def transcript(sample: str, answer: str, choice: str | None) -> Transcript:
    first = Turn("stage1", digest(answer), LMMResponse(Outcome.ANSWERED, answer))
    second = Turn("stage2", digest(choice), LMMResponse(Outcome.ANSWERED, choice)) if choice is not None else None
    return Transcript(sample, None, 0, first, second)


@given(st.integers(2, 60), st.integers(0, 2**31))
def test_an_order_is_a_permutation_that_its_seed_decides(count: int, seed: int) -> None:
    assert sorted(class_order(count, seed)) == list(range(count))
    assert class_order(count, seed) == class_order(count, seed)
    assert class_order(count, None) == tuple(range(count))


def test_an_order_is_the_same_on_every_machine_and_version() -> None:
    assert class_order(6, 1) == (1, 4, 0, 5, 3, 2)


@given(st.integers(2, 60).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count - 1))))
def test_rotations_differ_from_the_order_and_from_one_another(case: tuple[int, int]) -> None:
    count, trials = case
    order = class_order(count, 7)
    turned = rotations(order, trials)
    assert len({order, *turned}) == trials + 1
    assert all(sorted(one) == list(range(count)) for one in turned)


def test_more_rotations_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="4 classes can be rotated 3 times at most"):
        rotations(range(4), 4)


def test_a_choice_by_index_is_turned_back_and_one_by_name_is_kept() -> None:
    given_ = [
        transcript("a", "x", '{"class_index": "1"}'),
        transcript("b", "x", "lorry"),
        transcript("c", "x", '{"class_index": "9"}'),
        transcript("d", "x", None),
    ]
    found = list(restore_choices(given_, (3, 2, 0, 1), ClassIndex(CLASSES)))
    texts = [one.stage2.response.text if one.stage2 else None for one in found]
    assert json.loads(texts[0]) == {"class_index": "2"}
    assert texts[1:] == ["lorry", '{"class_index": "9"}', None]
    assert found[0].stage2.key == given_[0].stage2.key


@pytest.mark.parametrize(("by_number", "chosen"), [(False, 1), (True, 0)])
def test_a_number_that_is_a_class_name_is_turned_back_as_it_was_asked_for(by_number: bool, chosen: int) -> None:
    index = ClassIndex(("1", "2", "3"), by_number=by_number)
    # shown as 0: 3, 1: 2, 2: 1
    (found,) = restore_choices([transcript("a", "x", "2")], (2, 1, 0), index)
    assert found.stage2 is not None
    assert index.read_choice(found.stage2.response.text) == chosen


def ask_again(lmm: FakeLMM, transcripts: list[Transcript]) -> tuple[Transcript, ...]:
    bound_lmm = BoundLMM(Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m")), lmm)
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), CLASSES)
    return asyncio.run(choose_again(transcripts, prompter, 2))


def test_each_distinct_answer_is_asked_about_once_more() -> None:
    lmm = FakeLMM(lambda request: "bus" if request.choice.answer == "a big thing" else "lorry")
    given_ = [
        transcript("a", "a big thing", "lorry"),
        transcript("b", "lorry", None),
        transcript("c", "a big thing", "lorry"),
        transcript("d", "a truck", "lorry"),
    ]
    found = ask_again(lmm, given_)
    assert len(lmm.asked) == 2
    assert [(one.sample, one.stage2.response.text) for one in found] == [("a", "bus"), ("c", "bus"), ("d", "lorry")]


def test_a_failed_call_is_a_failure_of_its_samples_alone() -> None:
    def answer(request: LMMRequest) -> str:
        if request.choice.answer == "long":
            raise SampleError("fake: too long")
        return "bus"

    found = ask_again(FakeLMM(answer), [transcript("a", "long", "bus"), transcript("b", "short", "bus")])
    assert [(one.failure, one.reason) for one in found] == [("call", "fake: too long"), (None, "")]


def compare(own: list[Prediction], *trials: list[Prediction]) -> OrderTrials:
    return compare_orders(Predictions.of(own), [Predictions.of(trial) for trial in trials])


def test_changed_predictions_are_counted_by_sample_and_by_trial() -> None:
    own = [made_prediction(name, 0, predicted) for name, predicted in zip("abcd", (0, 1, 0, 0), strict=True)]
    # d had no stage 2
    first = [made_prediction("a", 0, 0), made_prediction("b", 0, 0), made_prediction("c", 0, 2)]
    second = [made_prediction("a", 0, 0), made_prediction("b", 0, 1), made_prediction("c", 0, 2)]
    found = compare(own, first, second)
    assert (found.trials, found.asked, found.failed, found.changed) == (2, 3, 0, 2)
    assert found.change_rate == pytest.approx(3 / 6)
    assert found.accuracies == (0.75, 0.5)


def test_a_sample_with_a_failed_trial_is_left_out_of_the_rate() -> None:
    own = [made_prediction("a", 0, 0), made_prediction("b", 0, 0)]
    trial = [replace(made_prediction("a", 0, None), outcome=Outcome.FAILED), made_prediction("b", 0, 1)]
    found = compare(own, trial)
    assert (found.asked, found.failed, found.changed, found.change_rate) == (2, 1, 1, 1.0)


def test_without_labels_there_is_no_accuracy() -> None:
    own = [made_prediction("a", None, 0)]
    assert compare(own, own).accuracies == (None,)


KINDS = ("ape", "boat", "cap", "den", "elm")


def kinds(noise: float = 0.0) -> tuple[list[str], np.ndarray]:
    """Forty names, eight of each of five kinds, and vectors of length 1 that lie near their kind's."""
    names = [f"{kind} {number}" for kind in KINDS for number in range(8)]
    rng = np.random.default_rng(5)
    vectors = np.repeat(np.eye(5, 12), 8, axis=0) + 0.1 * rng.normal(size=(40, 12))
    vectors += noise * np.random.default_rng(6).normal(size=vectors.shape)
    return names, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_one_name_is_drawn_of_each_kind_and_another_by_another_seed() -> None:
    names, vectors = kinds()
    draws = [draw_spread(names, vectors, 5, seed) for seed in range(20)]
    assert {tuple(sorted(name.split()[0] for name in drawn)) for drawn in draws} == {KINDS}
    assert len({frozenset(drawn) for drawn in draws}) > 10
    # at random, twenty draws of one from each of five kinds would have a chance of (8 ** 5 / 658008) ** 20
    assert len({drawn[0].split()[0] for drawn in draws}) > 1


def test_what_is_drawn_hangs_neither_on_the_order_of_the_names_nor_on_float_noise() -> None:
    names, vectors = kinds()
    drawn = draw_spread(names, vectors, 7, 3)
    assert len(set(drawn)) == 7
    assert draw_spread(names[::-1], vectors[::-1], 7, 3) == drawn
    assert draw_spread(names, kinds(noise=1e-7)[1], 7, 3) == drawn


@given(st.integers(2, 30).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))), st.booleans())
def test_as_many_as_are_asked_for_are_drawn_though_all_vectors_are_equal(case: tuple[int, int], equal: bool) -> None:
    count, wanted = case
    names = [f"{number}" for number in range(count)]
    vectors = np.ones((count, 3), np.float32) if equal else np.eye(count, dtype=np.float32)
    drawn = draw_spread(names, vectors, wanted, 0)
    assert len(drawn) == len(set(drawn)) == wanted
    assert set(drawn) <= set(names)
