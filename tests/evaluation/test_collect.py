from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support.fakes import FakeLMM, make_png
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, BackendSpec, Limits
from tlac.errors import InputError, PermanentError, SampleError, StoreError, TransientError
from tlac.evaluation.collect import collect, collect_into, describe_cut
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.images import prepare
from tlac.interfaces import LMM
from tlac.lmms.middleware.cache import StoredLMM
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.methods.tlac import SLAC, TLAC
from tlac.types import LMMRequest, LMMResponse, Outcome, Preparation, Sample, Transcript, Usage

CLASSES = ("red car", "old car")
SAMPLES = [Sample(f"image {number}", make_png(number), number % 2) for number in range(6)]


def prompter(lmm: LMM, **options) -> TwoStagePrompter:
    bound_lmm = BoundLMM(Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m")), lmm)
    return TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), CLASSES, **options)


def run(
    lmm: LMM, method=None, samples=SAMPLES, concurrency: int = 3, **options
) -> tuple[tuple[Transcript, ...], str | None]:
    return asyncio.run(collect(samples, prompter(lmm, **options), method or SLAC(), concurrency))


def test_transcripts_come_in_the_order_of_the_samples() -> None:
    transcripts, stopped = run(FakeLMM(lambda _: "a car"))
    assert [transcript.sample for transcript in transcripts] == [sample.id for sample in SAMPLES]
    assert stopped is None


def test_a_cancellation_waits_for_the_calls_in_flight_and_asks_about_no_further_sample() -> None:
    asked: list[str] = []
    are_answered = asyncio.Event()

    class Slow(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            asked.append(request.stage)
            await are_answered.wait()
            return await super().ask(request)

    async def interrupted() -> tuple[str | None, list[Transcript]]:
        found: list[Transcript] = []
        going = asyncio.ensure_future(collect_into(found.append, SAMPLES, prompter(Slow(lambda _: "a car")), SLAC(), 2))
        while len(asked) < 2:
            await asyncio.sleep(0)
        going.cancel()
        await asyncio.sleep(0)
        are_answered.set()
        return await going, found

    stopped, transcripts = asyncio.run(interrupted())
    assert stopped == "interrupted"
    assert [transcript.failure is None for transcript in transcripts] == [True, True, False, False, False, False]
    assert transcripts[5].failure == "stopped"


def test_a_second_cancellation_gives_calls_up() -> None:
    class Never(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            await asyncio.Event().wait()
            raise AssertionError

    async def interrupted_twice() -> None:
        going = asyncio.ensure_future(collect_into(lambda _: None, SAMPLES, prompter(Never(str)), SLAC(), 2))
        for _ in range(2):
            await asyncio.sleep(0.01)
            going.cancel()
        await going

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted_twice())


class Cut(FakeLMM):
    """Thinks until nothing is left to say."""

    def __init__(self, after: int = 0, from_store: bool = False) -> None:
        super().__init__(lambda _: "a car")
        self._after, self._from_store = after, from_store

    async def ask(self, request: LMMRequest) -> LMMResponse:
        answered = await super().ask(request)
        if len(self.asked) <= self._after:
            return answered
        usage = Usage(300, 100, reasoning=96)
        return replace(
            answered, outcome=Outcome.TRUNCATED, text="", usage=usage, cost_usd=0.01, from_store=self._from_store
        )


MANY = [Sample(f"image {number}", make_png(number), 0) for number in range(40)]


def test_asking_stops_where_all_answers_are_cut_short() -> None:
    transcripts, stopped = run(Cut(), samples=MANY, concurrency=1)
    assert stopped == (
        "8 of 8 answers were cut by max_tokens; 96 % of the completion tokens were thoughts: "
        "raise max_tokens, or lower reasoning_effort"
    )
    assert sum(transcript.failure is None for transcript in transcripts) == 8


@pytest.mark.parametrize(
    ("completion", "thoughts", "share"), [(100, 96, "96 %"), (1, 256, "100 %"), (100, 300, "75 %"), (0, 256, "100 %")]
)
def test_thoughts_that_are_counted_beside_the_completion_are_a_share_of_both(
    completion: int, thoughts: int, share: str
) -> None:
    cut = LMMResponse(Outcome.TRUNCATED, "", usage=Usage(300, completion, reasoning=thoughts))
    assert f"; {share} of the completion tokens were thoughts" in describe_cut(1, 1, [cut])


def test_where_an_engine_has_asked_before_all_samples_are_gone_through_to_the_end() -> None:
    def lacking(request: LMMRequest) -> str:
        if len(lmm.asked) == 2:
            raise PermanentError("fake: not asked: the budget is used up")
        return "a car"

    async def gone_through(lmm: LMM, samples: list[Sample]) -> tuple[str | None, list[bool]]:
        found: list[Transcript] = []
        stopped = await collect_into(found.append, samples, prompter(lmm), SLAC(), 1, is_asking=False)
        return stopped, [transcript.failure is None for transcript in found]

    lmm = FakeLMM(lacking)
    assert asyncio.run(gone_through(lmm, SAMPLES)) == (None, [True, False, True, True, True, True])
    assert asyncio.run(gone_through(Cut(), MANY)) == (None, [True] * 40)


@pytest.mark.parametrize("lmm", [Cut(after=1), Cut(from_store=True)])
def test_asking_goes_on_after_an_answer_that_is_whole_and_with_what_costs_nothing(lmm: Cut) -> None:
    assert run(lmm, samples=MANY, concurrency=1)[1] is None


def test_what_surprises_a_library_fails_one_sample_by_name_and_is_in_the_debug_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-secret-that-nobody-sees")

    class Broken(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            if len(self.asked) == 1:
                self.asked.append(request)
                raise AttributeError("no 'denominator' in a-secret-that-nobody-sees")
            return await super().ask(request)

    with caplog.at_level("DEBUG", logger="tlac"):
        transcripts, _ = run(Broken(lambda _: "a car"), concurrency=1)
    failures = [transcript.failure for transcript in transcripts]
    assert failures == [None, "sample", *[None] * 4]
    reasons = [transcript.reason for transcript in transcripts]
    assert reasons == ["", "unexpected AttributeError: no 'denominator' in [secret]", *[""] * 4]
    (record,) = [one for one in caplog.records if one.name == "tlac.evaluation.collect"]
    assert (record.getMessage(), record.exc_info is not None) == ("image 1 failed", True)


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
    run(LimitedLMM(limited, Limits(concurrency=concurrency), CallPolicy()), samples=samples, concurrency=concurrency)
    assert limited.most == concurrency


def test_stage_2_is_asked_unless_the_answer_is_a_class_name() -> None:
    answers = iter(["The red car.", "an automobile"])
    lmm = FakeLMM(lambda request: next(answers) if request.stage == "stage1" else "old car")
    transcripts, _ = run(lmm, TLAC(), SAMPLES[:2], concurrency=1)
    first, second = transcripts
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
    transcripts, _ = run(lmm, TLAC(), SAMPLES[:1])
    assert transcripts[0].stage1.response.outcome is Outcome.REFUSED
    assert transcripts[0].stage2 is None


def test_one_failed_call_leaves_the_others_intact_and_keeps_the_first_stage() -> None:
    def answer(request: LMMRequest) -> str:
        if request.stage == "stage2":
            raise TransientError("fake: time-out")
        return "an automobile"

    transcripts, stopped = run(FakeLMM(answer), TLAC())
    assert all(transcript.reason == "fake: time-out" for transcript in transcripts)
    assert all(transcript.stage1 is not None for transcript in transcripts)
    assert stopped is None


def test_an_unreadable_image_is_that_samples_failure(tmp_path: Path) -> None:
    samples = [SAMPLES[0], Sample("gone.jpg", tmp_path / "gone.jpg", 0), SAMPLES[1]]
    transcripts, _ = run(FakeLMM(lambda _: "a car"), samples=samples)
    kinds = [transcript.failure for transcript in transcripts]
    assert kinds == [None, "sample", None]
    assert "gone.jpg" in transcripts[1].reason


def test_a_permanent_error_stops_the_asking() -> None:
    def refuse(_: LMMRequest) -> str:
        raise PermanentError("fake: wrong key")

    lmm = FakeLMM(refuse)
    transcripts, stopped = run(lmm, concurrency=1)
    assert len(lmm.asked) == 1
    assert stopped == "fake: wrong key"
    assert [transcript.failure for transcript in transcripts] == ["call"] + ["stopped"] * 5


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
    transcripts, _ = run(lmm, TLAC(), concurrency=1)
    assert [request.stage for request in lmm.asked].count("stage2") == 1
    assert {transcript.stage2.key for transcript in transcripts} == {transcripts[0].stage2.key}


def test_a_stage_2_that_failed_is_asked_again_for_the_next_sample() -> None:
    replies = iter([TransientError("fake: time-out"), "old car"])

    def answer(request: LMMRequest) -> str:
        if request.stage == "stage1":
            return "an automobile"
        reply = next(replies)
        if isinstance(reply, TransientError):
            raise reply
        return reply

    transcripts, _ = run(FakeLMM(answer), TLAC(), concurrency=1)
    assert [transcript.failure is None for transcript in transcripts] == [False] + [True] * 5


def test_equal_broken_files_are_asked_about_once_and_each_is_told_of_by_its_name(store: Store, tmp_path: Path) -> None:
    samples = []
    for name in ("first.png", "second.png"):
        (tmp_path / name).write_bytes(b"no image")
        samples.append(Sample(name, tmp_path / name))

    def refuse(request: LMMRequest) -> str:
        image = request.images[0]
        prepare(image, Preparation())
        return "never"

    class Preparing(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            # both ask before the first has failed
            await asyncio.sleep(0.01)
            try:
                return await super().ask(request)
            except InputError as error:
                raise SampleError(str(error)) from error

    lmm = Preparing(refuse)
    reasons = [one.reason for one in run(StoredLMM(lmm, store, "fake"), samples=samples)[0]]
    assert len(lmm.asked) == 1
    assert [reason.partition(": ")[0] for reason in reasons] == [
        str(tmp_path / "first.png"),
        str(tmp_path / "second.png"),
    ]
    assert all("not an image" in reason for reason in reasons)
