"""Bounds and defaults of asking again, and which errors count as the same; each value is a literal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.errors import InputError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.lmms.middleware.policy import CallPolicy, Clock
from tlac.lmms.middleware.retry import AbortOnRepeatedError, RetryingLMM
from tlac.types import Stage

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LARGEST_JITTER = Clock(now=now_s, sleep=asyncio.sleep, uniform=lambda _low, high: high)
NO_JITTER = Clock(now=now_s, sleep=asyncio.sleep, uniform=lambda low, _high: low)


def other_words(call: int) -> TransientError:
    return TransientError(f"fault {LETTERS[call % 26]}")


def same_words(call: int) -> TransientError:
    return TransientError(f"HTTP 503 (request 5f{call})")


def too_fast(_call: int) -> TransientError:
    return RateLimitError("slow down")


def calls_until_given_up(plan: Callable[[int], Exception], clock: Clock = NO_JITTER, **bounds: int) -> ScriptedLMM:
    lmm = ScriptedLMM(plan)
    with pytest.raises(TransientError, match=r"gave up after \d+ tries") as caught:
        run_virtual(RetryingLMM(lmm, CallPolicy(clock=clock, **bounds)).ask(question()))
    assert f"gave up after {len(lmm.asked)} tries" in str(caught.value)
    # a limiter outside must not take it for one more wish to go slower
    assert not isinstance(caught.value, RateLimitError)
    assert isinstance(caught.value.__cause__, TransientError)
    return lmm


@pytest.mark.parametrize(("plan", "calls"), [(other_words, 10), (same_words, 6), (too_fast, 20)])
def test_without_a_policy_a_question_is_asked_so_many_times(plan: Callable[[int], Exception], calls: int) -> None:
    assert len(calls_until_given_up(plan).asked) == calls


def test_without_a_policy_waits_double_from_a_second_to_a_minute() -> None:
    lmm = calls_until_given_up(other_words, clock=LARGEST_JITTER)
    assert lmm.started_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_each_bound_counts_the_calls_of_its_kind(limit: int) -> None:
    assert len(calls_until_given_up(other_words, tries=limit).asked) == limit
    assert len(calls_until_given_up(too_fast, limited_tries=limit).asked) == limit
    assert len(calls_until_given_up(same_words, identical_tries=limit).asked) == limit


def test_the_same_words_count_even_with_others_between_them() -> None:
    lmm = calls_until_given_up(lambda call: other_words(call % 2), tries=99, identical_tries=3)
    # a b a b a
    assert len(lmm.asked) == 5


def test_rate_limits_in_the_same_words_are_not_the_same_fault() -> None:
    lmm = ScriptedLMM([RateLimitError("slow down")] * 8)
    policy = CallPolicy(identical_tries=2, clock=NO_JITTER)
    assert run_virtual(RetryingLMM(lmm, policy).ask(question())) is ANSWER


def test_ten_minutes_are_the_longest_wait_that_a_provider_may_ask_for() -> None:
    lmm = ScriptedLMM([RateLimitError("later", 600)])
    assert run_virtual(RetryingLMM(lmm, CallPolicy(clock=NO_JITTER)).ask(question())) is ANSWER
    assert lmm.started_at == [0, 600]
    impatient = ScriptedLMM([RateLimitError("much later", 601)])
    with pytest.raises(PermanentError, match="10 min 1 s: run the same command later"):
        run_virtual(RetryingLMM(impatient, CallPolicy(clock=NO_JITTER)).ask(question()))
    assert len(impatient.asked) == 1


def test_all_waits_together_stay_within_ten_minutes() -> None:
    lmm = calls_until_given_up(lambda _call: RateLimitError("slow down", 200))
    assert lmm.started_at == [0, 200, 400, 600]


def test_a_wait_that_the_provider_names_is_lengthened_by_a_second_at_most() -> None:
    """However long the jitter has become by then, so that all come back soon after, and not in the same instant."""
    faults = [TransientError("a"), TransientError("b"), TransientError("c"), RateLimitError("slow down", 30)]
    lmm = ScriptedLMM(faults)
    run_virtual(RetryingLMM(lmm, CallPolicy(clock=LARGEST_JITTER)).ask(question()))
    assert lmm.started_at == [0, 1, 3, 7, 38]
    exact = ScriptedLMM([RateLimitError("slow down", 30)])
    run_virtual(RetryingLMM(exact, CallPolicy(clock=NO_JITTER)).ask(question()))
    assert exact.started_at == [0, 30]


def test_a_jitter_below_a_second_is_added_as_it_is() -> None:
    quarter = Clock(now=now_s, sleep=asyncio.sleep, uniform=lambda _low, _high: 0.25)
    lmm = ScriptedLMM([RateLimitError("slow down", 30)])
    run_virtual(RetryingLMM(lmm, CallPolicy(clock=quarter)).ask(question()))
    assert lmm.started_at == [0, 30.25]


def test_each_question_has_tries_of_its_own() -> None:
    async def two() -> None:
        lmm = ScriptedLMM(lambda call: None if call in (4, 9) else same_words(call))
        retrying = RetryingLMM(lmm, CallPolicy(clock=virtual_clock()))
        assert [await retrying.ask(question(number)) for number in range(2)] == [ANSWER, ANSWER]

    run_virtual(two())


# --- when one fault ends the run -----------------------------------------------------------------------------


def ends_after(*errors: Exception, repeats: int | None = None) -> int | None:
    """The number of the call, from 1, whose error ended the run; None where none did."""
    lmm = ScriptedLMM(list(errors))
    guard = AbortOnRepeatedError(lmm) if repeats is None else AbortOnRepeatedError(lmm, repeats)

    async def raised() -> list[Exception]:
        found = await asyncio.gather(
            *(guard.ask(question(number)) for number in range(len(errors))), return_exceptions=True
        )
        return [error for error in found if isinstance(error, Exception)]

    for number, (error, expected) in enumerate(zip(run_virtual(raised()), errors, strict=True), 1):
        if isinstance(error, PermanentError):
            assert error.__cause__ is expected
            assert str(expected) in str(error)
            return number
        assert error is expected
    return None


def unreadable() -> SampleError:
    error = SampleError("a.jpg: the image is broken")
    error.__cause__ = InputError("a.jpg: the image is broken")
    return error


def test_unrelated_errors_never_end_a_run() -> None:
    assert ends_after(*(SampleError(f"the image shows a {letter}") for letter in LETTERS)) is None


def test_the_fifth_of_the_same_words_in_a_row_ends_a_run_and_no_sooner() -> None:
    same = [SampleError(f"unknown field 'seed' (request {number})") for number in range(6)]
    assert ends_after(*same) == 5
    assert ends_after(*same[:4]) is None


def test_other_words_begin_the_count_anew() -> None:
    a, b = SampleError("field a"), SampleError("field b")
    assert ends_after(a, a, b, a, a, b, b, repeats=3) is None
    assert ends_after(a, a, b, b, b, repeats=3) == 5


def test_an_unreadable_file_between_them_changes_no_count() -> None:
    same = SampleError("field a")
    assert ends_after(same, same, unreadable(), same, repeats=3) == 4


def test_passing_faults_are_none_of_the_count() -> None:
    same = SampleError("field a")
    assert ends_after(same, TransientError("field a"), same, repeats=3) is None
    assert ends_after(same, TransientError("down"), same, same, repeats=3) == 4


def test_complaints_about_images_end_a_run_only_where_no_image_was_ever_answered() -> None:
    def complain(_call: int) -> SampleError:
        return SampleError("the provider can't use this image", kind="image")

    async def ended(answered: Stage | None) -> list[str]:
        guard = AbortOnRepeatedError(ScriptedLMM(lambda call: None if answered and not call else complain(call)), 3)
        if answered:
            await guard.ask(question(0, answered))
        errors = await asyncio.gather(*(guard.ask(question(number)) for number in range(3)), return_exceptions=True)
        return [type(error).__name__ for error in errors]

    samples = ["SampleError"] * 3
    assert run_virtual(ended(None)) == [*samples[:2], "PermanentError"]
    assert run_virtual(ended("stage1")) == samples
    # an answer about words says nothing about images
    assert run_virtual(ended("stage2")) == [*samples[:2], "PermanentError"]


def test_errors_of_the_same_display_and_other_words_are_not_the_same() -> None:
    shown = "gemini: HTTP 400"
    assert ends_after(*(SampleError(shown, words=f"no {letter}") for letter in LETTERS[:6]), repeats=3) is None
    assert ends_after(*(SampleError(f"{shown} {letter}", words="no") for letter in LETTERS[:6]), repeats=3) == 3
    assert ends_after(*(SampleError(shown, kind=letter) for letter in LETTERS[:6]), repeats=3) is None


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("request 5f-a1 failed", "request 77-b failed", True),
        ("12 images", "7 images", True),
        ("no image", "no text", False),
        # an identifier has a number in it, and a word with a hyphen has none
        ("field top-k", "field top-p", False),
    ],
)
def test_numbers_and_identifiers_tell_no_fault_from_another(one: str, other: str, is_same: bool) -> None:
    assert (ends_after(SampleError(one), SampleError(other), repeats=2) is not None) is is_same
