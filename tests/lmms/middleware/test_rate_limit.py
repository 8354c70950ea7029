"""Calls in flight, their rate, and how both adapt to a provider that wants fewer."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.config.schemas import Limits
from tlac.errors import RateLimitError, TransientError
from tlac.interfaces import LMM
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.lmms.middleware.retry import RetryingLMM
from tlac.types import LMMRequest, LMMResponse


async def ask_many(lmm: LMM, count: int) -> list[object]:
    return await asyncio.gather(*(lmm.ask(question(number)) for number in range(count)), return_exceptions=True)


def test_no_more_calls_are_in_flight_than_the_limit() -> None:
    async def scenario() -> tuple[int, float]:
        lmm = ScriptedLMM(latency_s=1)
        assert (
            await ask_many(LimitedLMM(lmm, Limits(concurrency=4), CallPolicy(clock=virtual_clock())), 20)
            == [ANSWER] * 20
        )
        return lmm.most_in_flight, now_s()

    assert run_virtual(scenario()) == (4, 5)


def test_calls_start_no_faster_than_the_requests_a_minute() -> None:
    async def scenario() -> list[float]:
        lmm = ScriptedLMM(latency_s=0.1)
        await ask_many(
            LimitedLMM(lmm, Limits(concurrency=8, requests_per_minute=30), CallPolicy(clock=virtual_clock())), 5
        )
        return lmm.started_at

    assert run_virtual(scenario()) == [0, 2, 4, 6, 8]


def test_tokens_a_minute_are_kept_by_what_calls_have_used_so_far() -> None:
    async def scenario() -> float:
        lmm = ScriptedLMM()
        await ask_many(
            LimitedLMM(lmm, Limits(concurrency=1, tokens_per_minute=6000), CallPolicy(clock=virtual_clock())), 200
        )
        late = lmm.started_at[-1] - lmm.started_at[-61]
        return 60 * 100 / late * 60

    # each call uses 100 tokens: some 60 calls a minute, once that is known
    assert run_virtual(scenario()) == pytest.approx(6000, rel=0.02)


def test_a_refusal_halves_the_calls_in_flight_once_for_all_that_were_under_way() -> None:
    async def scenario() -> float:
        lmm = ScriptedLMM(lambda call: RateLimitError("slow down", 1) if call < 8 else None, latency_s=1)
        limited = LimitedLMM(lmm, Limits(concurrency=8), CallPolicy(clock=virtual_clock()))
        await ask_many(limited, 8)
        return limited.window

    assert run_virtual(scenario()) == 4


def test_all_new_calls_wait_as_long_as_the_provider_wishes() -> None:
    async def scenario() -> list[float]:
        lmm = ScriptedLMM([RateLimitError("slow down", 30)])
        await ask_many(LimitedLMM(lmm, Limits(concurrency=1), CallPolicy(clock=virtual_clock())), 3)
        return lmm.started_at

    assert run_virtual(scenario()) == [0, 30, 30]


def test_after_answers_the_calls_in_flight_grow_again_up_to_the_limit() -> None:
    async def scenario() -> tuple[float, float]:
        lmm = ScriptedLMM([RateLimitError("slow down", 0)], latency_s=1)
        limited = LimitedLMM(lmm, Limits(concurrency=8), CallPolicy(clock=virtual_clock()))
        await ask_many(limited, 1)
        after_refusal = limited.window
        await ask_many(limited, 100)
        return after_refusal, limited.window

    assert run_virtual(scenario()) == (4, 8)


class Metered:
    """A provider that serves so many calls a second, and refuses the rest without a word on when to come back."""

    def __init__(self, calls_a_second: int) -> None:
        self._most = calls_a_second
        self._served: list[float] = []
        self.refused = 0

    async def ask(self, request: LMMRequest) -> LMMResponse:
        await asyncio.sleep(0.2)
        self._served = [moment for moment in self._served if moment > now_s() - 1]
        if len(self._served) >= self._most:
            self.refused += 1
            raise RateLimitError("slow down")
        self._served.append(now_s())
        return ANSWER


def test_an_unknown_limit_is_found_and_all_questions_are_answered() -> None:
    async def scenario() -> tuple[list[object], int]:
        provider = Metered(calls_a_second=10)
        limited = LimitedLMM(provider, Limits(concurrency=32), CallPolicy(clock=virtual_clock()))
        return await ask_many(RetryingLMM(limited, CallPolicy(clock=virtual_clock())), 400), provider.refused

    answers, refused = run_virtual(scenario())
    assert answers == [ANSWER] * 400
    assert refused < 200


def test_few_calls_left_by_the_headers_means_few_in_flight_and_none_a_pause() -> None:
    async def scenario() -> tuple[float, float, float]:
        lmm = ScriptedLMM()
        limited = LimitedLMM(lmm, Limits(concurrency=16), CallPolicy(clock=virtual_clock()))
        limited.read_headers({"x-ratelimit-remaining-requests": "3", "x-ratelimit-limit-requests": "60"})
        few = limited.window
        limited.read_headers(
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-reset-requests": "1m0s",
            }
        )
        await limited.ask(question())
        return few, lmm.started_at[0], limited.window

    # a full minute refills 60 calls, so the next one is due in a second
    few, started_at, window = run_virtual(scenario())
    assert (few, started_at) == (3, 1)
    assert window == 2


def test_a_caller_that_goes_away_gives_its_place_back() -> None:
    async def scenario() -> float:
        lmm = ScriptedLMM(latency_s=10)
        limited = LimitedLMM(lmm, Limits(concurrency=1), CallPolicy(clock=virtual_clock()))
        first, second, third = (asyncio.ensure_future(limited.ask(question(number))) for number in range(3))
        await asyncio.sleep(1)
        second.cancel()
        first.cancel()
        await third
        return now_s()

    assert run_virtual(scenario()) == 11


def test_other_errors_change_no_limit_and_free_the_place() -> None:
    async def scenario() -> float:
        limited = LimitedLMM(
            ScriptedLMM([TransientError("down")] * 5), Limits(concurrency=2), CallPolicy(clock=virtual_clock())
        )
        await ask_many(limited, 10)
        return limited.window

    assert run_virtual(scenario()) == 2
