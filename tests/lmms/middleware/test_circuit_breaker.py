"""A provider that is down: calls pause, one of them tries again, and at last the run ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import SkippingClock, now_s, run_virtual, virtual_clock
from tlac.errors import PermanentError, RateLimitError, SampleError, TransientError
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.retry import CircuitBreaker

POLICY = CallPolicy(breaker_failures=3, breaker_pauses_s=(10, 20), clock=virtual_clock())
DOWN = TransientError("connection refused")


async def outcomes(breaker: CircuitBreaker, count: int) -> list[str]:
    """One call after the other: what became of each."""
    found = []
    for number in range(count):
        try:
            await breaker.ask(question(number))
            found.append("answered")
        except (TransientError, PermanentError, SampleError) as error:
            found.append(type(error).__name__)
    return found


def test_after_so_many_faults_in_a_row_calls_wait_and_a_good_one_ends_the_pause() -> None:
    said: list[str] = []

    async def scenario() -> tuple[list[str], float]:
        breaker = CircuitBreaker(ScriptedLMM([DOWN] * 3), "gemini", replace(POLICY, on_message=said.append))
        # the last ones say nothing of it any more
        return await outcomes(breaker, 7), now_s()

    assert run_virtual(scenario()) == (["TransientError"] * 3 + ["answered"] * 4, 10)
    assert said == [
        "gemini does not answer (connection refused); pausing 10 s (pause 1 of 2)",
        "gemini answers again",
    ]


def test_pauses_are_those_of_the_clock_that_is_given() -> None:
    clock = SkippingClock()
    breaker = CircuitBreaker(ScriptedLMM([DOWN] * 3), "gemini", replace(POLICY, clock=clock.clock()))
    assert asyncio.run(outcomes(breaker, 4))[-1] == "answered"
    assert clock.waits_s == [10]


def test_a_provider_that_stays_down_ends_the_run_in_bounded_time() -> None:
    async def scenario() -> tuple[list[str], float, int]:
        lmm = ScriptedLMM(lambda _call: DOWN)
        breaker = CircuitBreaker(lmm, "gemini", POLICY)
        return await outcomes(breaker, 8), now_s(), len(lmm.asked)

    found, took_s, asked = run_virtual(scenario())
    assert found == ["TransientError"] * 5 + ["PermanentError"] * 3
    assert (took_s, asked) == (30, 5)


def test_what_the_run_ends_with_says_how_to_go_on() -> None:
    async def scenario() -> None:
        breaker = CircuitBreaker(ScriptedLMM(lambda _call: DOWN), "gemini", POLICY)
        await outcomes(breaker, 5)
        await breaker.ask(question())

    with pytest.raises(PermanentError, match=r"gemini does not answer.*same command resumes it.*connection refused"):
        run_virtual(scenario())


def test_one_call_alone_tries_whether_the_provider_is_back() -> None:
    async def scenario() -> tuple[int, list[float]]:
        lmm = ScriptedLMM([DOWN] * 3, latency_s=1)
        breaker = CircuitBreaker(lmm, "gemini", POLICY)
        await outcomes(breaker, 3)
        answers = await asyncio.gather(*(breaker.ask(question(number)) for number in range(20)))
        assert answers == [ANSWER] * 20
        return lmm.most_in_flight, lmm.started_at[3:]

    most, started_at = run_virtual(scenario())
    assert started_at == [13.0] + [14.0] * 19
    assert most == 19


@pytest.mark.parametrize("sign_of_life", [None, RateLimitError("slow down"), SampleError("too large")])
def test_any_sign_of_life_starts_the_count_anew(sign_of_life: Exception | None) -> None:
    async def scenario() -> float:
        plan = [DOWN, DOWN, sign_of_life, DOWN, DOWN, None]
        await outcomes(CircuitBreaker(ScriptedLMM(plan), "gemini", POLICY), 6)
        return now_s()

    assert run_virtual(scenario()) == 0


def test_after_recovery_the_pauses_begin_with_the_shortest_again() -> None:
    async def scenario() -> float:
        breaker = CircuitBreaker(ScriptedLMM([*[DOWN] * 4, None, *[DOWN] * 3]), "gemini", POLICY)
        await outcomes(breaker, 9)
        return now_s()

    assert run_virtual(scenario()) == 10 + 20 + 10
