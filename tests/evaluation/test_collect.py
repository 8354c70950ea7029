from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.fakes import FakeLMM, make_png
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, BackendSpec, Limits
from tlac.errors import PermanentError, StoreError, TransientError
from tlac.evaluation.collect import Collected, collect
from tlac.interfaces import LMM
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.methods.base import BoundLMM, TwoStagePrompter
from tlac.methods.tlac import SLAC, TLAC
from tlac.types import LMMRequest, LMMResponse, Outcome, Sample, Transcript

CLASSES = ("red car", "old car")
SAMPLES = [Sample(f"image {number}", make_png(number), number % 2) for number in range(6)]


def run(lmm: LMM, method=None, samples=SAMPLES, concurrency: int = 3, **options) -> Collected:
    bound_lmm = BoundLMM(Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m")), lmm)
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), CLASSES, **options)
    return asyncio.run(collect(samples, prompter, method or SLAC(), concurrency))


def test_transcripts_come_in_the_order_of_the_samples() -> None:
    gathered = run(FakeLMM(lambda _: "a car"))
    assert [transcript.sample for transcript in gathered.transcripts] == [sample.id for sample in SAMPLES]
    assert gathered.stopped is None


class Counting(FakeLMM):
    flying = most = 0

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0.001)
        self.flying -= 1
        return await super().ask(request)


@pytest.mark.parametrize(("concurrency", "under_way"), [(1, 1), (3, 3), (8, 10)])
def test_few_more_samples_are_under_way_than_calls_are_wanted_in_flight(concurrency: int, under_way: int) -> None:
    samples = [Sample(str(number), make_png(number), 0) for number in range(20)]
    lmm, limited = Counting(lambda _: "a car"), Counting(lambda _: "a car")
    run(lmm, samples=samples, concurrency=concurrency)
    assert lmm.most == under_way
    run(LimitedLMM(limited, Limits(concurrency=concurrency)), samples=samples, concurrency=concurrency)
    assert limited.most == concurrency


def test_stage_2_is_asked_unless_the_answer_is_a_class_name() -> None:
    answers = iter(["The red car.", "an automobile"])
    lmm = FakeLMM(lambda request: next(answers) if request.stage == "stage1" else "old car")
    gathered = run(lmm, TLAC(), SAMPLES[:2], concurrency=1)
    first, second = gathered.transcripts
    assert first.stage2 is None
    assert second.stage2 is not None
    assert second.stage2.response.text == "old car"


def test_stage_2_is_always_asked_where_the_rule_takes_no_exact_match() -> None:
    lmm = FakeLMM(lambda request: "red car")
    run(lmm, TLAC(), SAMPLES[:1], accepts_exact=False)
    assert [request.stage for request in lmm.asked] == ["stage1", "stage2"]


def test_stage_2_sees_no_image_and_the_class_list_first() -> None:
    lmm = FakeLMM(lambda request: "some car {classes} {answer}")
    run(lmm, TLAC(), SAMPLES[:1])
    first, second = lmm.asked[1].messages[0].parts
    assert first.is_prefix
    assert "red car\nold car" in first.text
    assert "some car {classes} {answer}" in second.text


def test_a_refusal_ends_the_interview() -> None:
    lmm = FakeLMM(lambda request: LMMResponse(Outcome.REFUSED, ""))
    gathered = run(lmm, TLAC(), SAMPLES[:1])
    assert gathered.transcripts[0].stage1.response.outcome is Outcome.REFUSED
    assert gathered.transcripts[0].stage2 is None


def test_one_failed_call_leaves_the_others_intact_and_keeps_the_first_stage() -> None:
    def answer(request: LMMRequest) -> str:
        if request.stage == "stage2":
            raise TransientError("fake: time-out")
        return "an automobile"

    gathered = run(FakeLMM(answer), TLAC())
    assert all(transcript.failure.reason == "fake: time-out" for transcript in gathered.transcripts)
    assert all(transcript.stage1 is not None for transcript in gathered.transcripts)
    assert gathered.stopped is None


def test_an_unreadable_image_is_that_samples_failure(tmp_path: Path) -> None:
    samples = [SAMPLES[0], Sample("gone.jpg", tmp_path / "gone.jpg", 0), SAMPLES[1]]
    gathered = run(FakeLMM(lambda _: "a car"), samples=samples)
    kinds = [transcript.failure.kind if transcript.failure else None for transcript in gathered.transcripts]
    assert kinds == [None, "sample", None]
    assert "gone.jpg" in gathered.transcripts[1].failure.reason


def test_a_permanent_error_stops_the_asking() -> None:
    def refuse(_: LMMRequest) -> str:
        raise PermanentError("fake: wrong key")

    lmm = FakeLMM(refuse)
    gathered = run(lmm, concurrency=1)
    assert len(lmm.asked) == 1
    assert gathered.stopped == "fake: wrong key"
    assert [transcript.failure.kind for transcript in gathered.transcripts] == ["call"] + ["stopped"] * 5


def test_a_store_that_fails_ends_the_run() -> None:
    def full(_: LMMRequest) -> str:
        raise StoreError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        run(FakeLMM(full))


def test_progress_hears_of_every_sample() -> None:
    class Listening:
        def __init__(self) -> None:
            self.buffer: list[str] = []

        def advance(self, transcript: Transcript) -> None:
            self.buffer.append(transcript.sample)

    bound_lmm = BoundLMM(
        Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m")), FakeLMM(lambda _: "a car")
    )
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), CLASSES)
    listening = Listening()
    asyncio.run(collect(SAMPLES, prompter, SLAC(), 2, listening))
    assert sorted(listening.buffer) == [sample.id for sample in SAMPLES]


def test_an_answer_that_repeats_is_put_to_stage_2_once() -> None:
    lmm = FakeLMM(lambda request: "an automobile" if request.stage == "stage1" else "old car")
    gathered = run(lmm, TLAC(), concurrency=1)
    assert [request.stage for request in lmm.asked].count("stage2") == 1
    assert {transcript.stage2.key for transcript in gathered.transcripts} == {gathered.transcripts[0].stage2.key}


def test_a_stage_2_that_failed_is_asked_again_for_the_next_sample() -> None:
    replies = iter([TransientError("fake: time-out"), "old car"])

    def answer(request: LMMRequest) -> str:
        if request.stage == "stage1":
            return "an automobile"
        reply = next(replies)
        if isinstance(reply, TransientError):
            raise reply
        return reply

    gathered = run(FakeLMM(answer), TLAC(), concurrency=1)
    assert [transcript.failure is None for transcript in gathered.transcripts] == [False] + [True] * 5
