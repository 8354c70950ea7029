"""What is asked again, how often and after which waits; and when one fault ends the run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.fakes import make_png
from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.errors import InputError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.images import identify
from tlac.lmms.middleware.policy import CallPolicy, Clock
from tlac.lmms.middleware.retry import AbortOnRepeatedError, RetryingLMM
from tlac.types import LMMResponse, Message

LARGEST_JITTER = Clock(now=now_s, sleep=asyncio.sleep, uniform=lambda _low, high: high)


def ask(lmm: ScriptedLMM, policy: CallPolicy | None = None) -> LMMResponse:
    return run_virtual(RetryingLMM(lmm, policy or CallPolicy(clock=virtual_clock())).ask(question()))


def test_a_passing_fault_is_asked_again_until_it_has_passed() -> None:
    lmm = ScriptedLMM([TransientError("a"), TransientError("b"), TransientError("c")])
    assert ask(lmm) is ANSWER
    assert len(lmm.asked) == 4


def test_waits_double_up_to_the_longest_one() -> None:
    lmm = ScriptedLMM([TransientError(letter) for letter in "abcde"])
    ask(lmm, CallPolicy(base_s=1, max_s=5, clock=LARGEST_JITTER))
    assert lmm.started_at == [0, 1, 3, 7, 12, 17]


def test_the_jitter_is_full_and_differs_from_question_to_question() -> None:
    async def first_waits() -> list[float]:
        clock, waits = virtual_clock(), []
        for _ in range(200):
            lmm = ScriptedLMM([TransientError("a")])
            await RetryingLMM(lmm, CallPolicy(base_s=4, clock=clock)).ask(question())
            waits.append(lmm.started_at[1] - lmm.started_at[0])
        return waits

    waits = run_virtual(first_waits())
    assert 0 <= min(waits) < 0.4
    assert 3.6 < max(waits) <= 4
    assert len(set(waits)) > 150


def test_the_providers_own_wish_to_wait_is_kept() -> None:
    lmm = ScriptedLMM([RateLimitError("slow down", 30)])
    ask(lmm)
    assert 30 <= lmm.started_at[1] <= 31


def test_a_wish_longer_than_anyone_would_wait_ends_the_run() -> None:
    lmm = ScriptedLMM([RateLimitError("daily limit", 40_000)])
    with pytest.raises(PermanentError, match="11 h 6 min"):
        ask(lmm)
    assert len(lmm.asked) == 1


def test_tries_are_bounded() -> None:
    lmm = ScriptedLMM(lambda call: TransientError(f"fault {'abcdefghijkl'[call]}"))
    with pytest.raises(TransientError, match="gave up after 4 tries"):
        ask(lmm, CallPolicy(tries=4, clock=virtual_clock()))
    assert len(lmm.asked) == 4


def test_the_same_fault_again_and_again_is_given_up_sooner() -> None:
    lmm = ScriptedLMM(lambda call: TransientError(f"not JSON (request 8f3a{call})"))
    with pytest.raises(TransientError, match="gave up after 3 tries"):
        ask(lmm, CallPolicy(tries=8, identical_tries=3, clock=virtual_clock()))
    assert len(lmm.asked) == 3


def test_being_told_to_slow_down_uses_up_no_tries_of_other_faults() -> None:
    lmm = ScriptedLMM([RateLimitError("slow down", 1)] * 8 + [TransientError("a")])
    assert ask(lmm, CallPolicy(tries=2, limited_tries=10, clock=virtual_clock())) is ANSWER


def test_a_wait_beyond_what_is_waited_for_is_told_in_days() -> None:
    lmm = ScriptedLMM([RateLimitError("slow down", 2_300_563_301)])
    with pytest.raises(PermanentError, match="it asks for a wait of 26,626 days 21 h: run the same command later"):
        ask(lmm, CallPolicy(clock=virtual_clock()))


def test_the_waits_are_bounded_in_all() -> None:
    async def how_long() -> float:
        lmm = ScriptedLMM(lambda _call: RateLimitError("slow down", 50))
        with pytest.raises(TransientError, match="gave up"):
            await RetryingLMM(lmm, CallPolicy(total_wait_s=300, clock=virtual_clock())).ask(question())
        return now_s()

    assert 250 <= run_virtual(how_long()) <= 300


@pytest.mark.parametrize("error", [PermanentError("wrong key"), SampleError("too large")])
def test_what_will_not_pass_is_not_asked_again(error: Exception) -> None:
    lmm = ScriptedLMM([error])
    with pytest.raises(type(error)):
        ask(lmm)
    assert len(lmm.asked) == 1


async def _failures(guard: AbortOnRepeatedError, count: int, stage: str = "stage1") -> list[str]:
    kinds = []
    for number in range(count):
        try:
            await guard.ask(question(number, stage))  # type: ignore[arg-type]
            kinds.append("answered")
        except (SampleError, PermanentError) as error:
            kinds.append(type(error).__name__)
    return kinds


def test_the_same_refusal_for_one_sample_after_the_other_ends_the_run() -> None:
    guard = AbortOnRepeatedError(ScriptedLMM(lambda call: SampleError(f"bad request (id 5e{call})")), repeats=3)
    assert run_virtual(_failures(guard, 3)) == ["SampleError", "SampleError", "PermanentError"]


def test_the_same_few_samples_refused_in_run_after_run_of_a_command_do_not_end_it() -> None:
    guard = AbortOnRepeatedError(ScriptedLMM(lambda _call: SampleError("bad image")), repeats=3)

    async def runs() -> list[str]:
        kinds = []
        for image in (1, 2, 1, 2, 1, 2, 3):
            shown = Message("user", (identify(make_png(image), f"{image}.png"),))
            with pytest.raises((SampleError, PermanentError)) as raised:
                await guard.ask(replace(question(), messages=(shown,)))
            kinds.append(raised.typename)
        return kinds

    assert run_virtual(runs()) == ["SampleError"] * 6 + ["PermanentError"]


def test_an_answer_in_between_proves_that_it_is_not_everybodys_fault() -> None:
    guard = AbortOnRepeatedError(
        ScriptedLMM(lambda call: None if call % 3 == 2 else SampleError("bad image")), repeats=3
    )
    assert "PermanentError" not in run_virtual(_failures(guard, 12))


def test_answers_in_stage_1_say_nothing_about_stage_2() -> None:
    async def alternate() -> str:
        # every other question is of stage 2, and only those fail
        guard = AbortOnRepeatedError(
            ScriptedLMM(lambda call: SampleError("bad schema") if call % 2 else None), repeats=3
        )
        kinds = []
        for _ in range(3):
            await guard.ask(question())
            kinds += await _failures(guard, 1, "stage2")
        return kinds[-1]

    assert run_virtual(alternate()) == "PermanentError"


def test_unreadable_files_never_end_the_run() -> None:
    def unreadable(_call: int) -> Exception:
        error = SampleError("a.jpg: the image is broken")
        error.__cause__ = InputError("a.jpg: the image is broken")
        return error

    assert set(run_virtual(_failures(AbortOnRepeatedError(ScriptedLMM(unreadable), repeats=3), 9))) == {"SampleError"}
