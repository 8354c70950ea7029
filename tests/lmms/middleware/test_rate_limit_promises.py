"""Waits, places and growth to the second, against literals; and callers that are cancelled while they wait."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from msgspec.structs import replace

from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.config.schemas import Limits
from tlac.errors import RateLimitError
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.types import Usage

SLOW_DOWN = RateLimitError("slow down")


async def ask_in_turn(lmm: LimitedLMM, count: int) -> list[float]:
    """Ask one question after the other; the window after each."""
    windows = []
    for number in range(count):
        await asyncio.gather(lmm.ask(question(number)), return_exceptions=True)
        windows.append(lmm.window)
    return windows


def started(lmm: ScriptedLMM, limits: Limits, count: int) -> list[float]:
    run_virtual(ask_in_turn(LimitedLMM(lmm, limits, CallPolicy(clock=virtual_clock())), count))
    return lmm.started_at


def test_a_caller_that_is_cancelled_while_it_waits_asks_nothing() -> None:
    async def scenario() -> tuple[int, float]:
        lmm = ScriptedLMM(latency_s=10)
        limited = LimitedLMM(lmm, Limits(concurrency=1), CallPolicy(clock=virtual_clock()))
        first, second, third = (asyncio.ensure_future(limited.ask(question(number))) for number in range(3))
        await asyncio.sleep(1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert await asyncio.gather(first, third) == [ANSWER, ANSWER]
        assert question(1) not in lmm.asked
        return len(lmm.asked), now_s()

    assert run_virtual(scenario()) == (2, 20)


def test_a_caller_that_is_cancelled_in_the_moment_in_which_a_place_becomes_free_is_passed_by() -> None:
    async def scenario() -> tuple[int, float]:
        lmm = ScriptedLMM(latency_s=10)
        limited = LimitedLMM(lmm, Limits(concurrency=1), CallPolicy(clock=virtual_clock()))
        first, second, third = (asyncio.ensure_future(limited.ask(question(number))) for number in range(3))
        await asyncio.sleep(1)
        # both end before the second has run again
        first.cancel()
        second.cancel()
        found = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [type(one) for one in found[:2]] == [asyncio.CancelledError] * 2
        return len(lmm.asked), now_s()

    assert run_virtual(scenario()) == (2, 11)


def test_a_caller_that_is_cancelled_in_the_moment_of_its_turn_passes_it_on() -> None:
    async def scenario() -> tuple[int, int, float]:
        lmm = ScriptedLMM(latency_s=10)
        limited = LimitedLMM(lmm, Limits(concurrency=1), CallPolicy(clock=virtual_clock()))

        async def first() -> None:
            await limited.ask(question(0))
            # its place was just given to the second, which has not run since
            second.cancel()

        one = asyncio.ensure_future(first())
        await asyncio.sleep(0)
        second = asyncio.ensure_future(limited.ask(question(1)))
        third = asyncio.ensure_future(limited.ask(question(2)))
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.gather(one, third)
        assert lmm.asked == [question(0), question(2)]
        # and nobody's place was given back twice
        await asyncio.gather(*(limited.ask(question(number)) for number in range(3, 6)))
        return lmm.most_in_flight, len(lmm.asked), now_s()

    assert run_virtual(scenario()) == (1, 5, 50)


def test_where_the_provider_names_no_wait_it_doubles_to_half_a_minute_and_an_answer_ends_that() -> None:
    lmm = ScriptedLMM([SLOW_DOWN] * 8 + [None, SLOW_DOWN, None])
    starts = started(lmm, Limits(concurrency=1), 11)
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32, 0, 1]


@pytest.mark.parametrize(("wished_s", "wait_s"), [(0, 0), (0.5, 0.5), (59, 59), (60, 60), (86_400, 60)])
def test_new_calls_are_held_for_the_wait_that_is_named_and_a_minute_at_most(wished_s: float, wait_s: float) -> None:
    assert started(ScriptedLMM([RateLimitError("slow down", wished_s)]), Limits(concurrency=1), 2) == [0, wait_s]


def test_a_shorter_wish_does_not_shorten_a_longer_one() -> None:
    async def scenario() -> list[float]:
        lmm = ScriptedLMM([RateLimitError("slow down", 30), RateLimitError("slow down", 2)])
        limited = LimitedLMM(lmm, Limits(concurrency=2), CallPolicy(clock=virtual_clock()))
        await asyncio.gather(*(limited.ask(question(number)) for number in range(2)), return_exceptions=True)
        await limited.ask(question(2))
        return lmm.started_at

    assert run_virtual(scenario()) == [0, 0, 30]


def test_the_calls_in_flight_halve_down_to_one_and_grow_by_one_for_as_many_answers() -> None:
    lmm = ScriptedLMM([SLOW_DOWN] * 4)
    limited = LimitedLMM(lmm, Limits(concurrency=8), CallPolicy(clock=virtual_clock()))
    assert run_virtual(ask_in_turn(limited, 8)) == [4, 2, 1, 1, 2, 2.5, 2.9, pytest.approx(2.9 + 1 / 2.9)]


def test_a_window_that_is_not_whole_is_rounded_down() -> None:
    async def scenario() -> tuple[float, int]:
        lmm = ScriptedLMM([SLOW_DOWN, SLOW_DOWN], latency_s=1)
        limited = LimitedLMM(lmm, Limits(concurrency=7), CallPolicy(clock=virtual_clock()))
        await ask_in_turn(limited, 2)
        window = limited.window
        lmm.most_in_flight = 0
        callers = [asyncio.ensure_future(limited.ask(question(number))) for number in range(5)]
        await asyncio.sleep(60)
        await asyncio.gather(*callers)
        return window, lmm.most_in_flight

    # 1.75 lets one in; its answer makes it 2.32, and two
    window, most = run_virtual(scenario())
    assert window == 1.75
    assert most == 2


@pytest.mark.parametrize(
    ("limits", "starts"),
    [
        (Limits(concurrency=1), [0, 0, 0]),
        (Limits(concurrency=1, requests_per_minute=60), [0, 1, 2]),
        # a call counts as 1,000 tokens until answers tell; each of 100 then counts for a tenth
        (Limits(concurrency=1, tokens_per_minute=6000), [0, 10, 19.1]),
        (Limits(concurrency=1, requests_per_minute=4, tokens_per_minute=6000), [0, 15, 30]),
        (Limits(concurrency=1, requests_per_minute=60, tokens_per_minute=6000), [0, 10, 19.1]),
    ],
)
def test_calls_start_by_the_stricter_of_both_rates(limits: Limits, starts: list[float]) -> None:
    assert started(ScriptedLMM(), limits, 3) == pytest.approx(starts)


def test_prompt_and_completion_both_count_and_an_answer_without_a_count_tells_nothing() -> None:
    silent = ScriptedLMM([replace(ANSWER, usage=Usage())] * 3)
    assert started(silent, Limits(concurrency=1, tokens_per_minute=6000), 3) == pytest.approx([0, 10, 20])
    dear = ScriptedLMM([replace(ANSWER, usage=Usage(prompt=1000, completion=1000))] * 3)
    assert started(dear, Limits(concurrency=1, tokens_per_minute=6000), 3) == pytest.approx([0, 10, 21])
