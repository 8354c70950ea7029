"""The wrappers together, in virtual time: what a long run meets, and what becomes of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from tests.support.fakes import FakeLMM
from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.config.schemas import Backend, BackendSpec, Limits, Prices
from tlac.errors import ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.interfaces import LMM
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.stack import build_stack


def backend(**settings: object) -> Backend:
    spec = BackendSpec(adapter="litellm", model="openai/mine", limits=Limits(concurrency=32), **settings)  # type: ignore[arg-type]
    return Backend("mine", "mine.yaml", spec)


async def ask_all(lmm: LMM, count: int) -> list[object]:
    return await asyncio.gather(*(lmm.ask(question(number)) for number in range(count)), return_exceptions=True)


def test_two_thousand_calls_with_every_tenth_failing_are_all_answered() -> None:
    chance = random.Random(1)

    def plan(call: int) -> Exception | None:
        if chance.random() >= 0.1:
            return None
        return chance.choice(
            [RateLimitError("slow down"), RateLimitError("wait", 2), TransientError(f"HTTP 500 {call}")]
        )

    async def scenario() -> tuple[list[object], int]:
        lmm = ScriptedLMM(plan, latency_s=0.5)
        return await ask_all(build_stack(lmm, backend(), CallPolicy(clock=virtual_clock())), 2000), lmm.most_in_flight

    answers, most_in_flight = run_virtual(scenario())
    assert answers == [ANSWER] * 2000
    assert most_in_flight <= 32


def test_waits_between_tries_take_no_place_among_the_calls_in_flight() -> None:
    async def scenario() -> float:
        limited = Backend("mine", "mine.yaml", BackendSpec(adapter="x", model="m", limits=Limits(concurrency=1)))
        lmm = ScriptedLMM([TransientError("once")], latency_s=1)
        surrounded = build_stack(lmm, limited, CallPolicy(clock=virtual_clock(seed=1)))
        await ask_all(surrounded, 3)
        return lmm.started_at[1]

    assert run_virtual(scenario()) == 1


def test_a_dead_provider_ends_every_call_in_bounded_time() -> None:
    said: list[str] = []

    async def scenario() -> tuple[list[object], float, int]:
        lmm = ScriptedLMM(lambda _call: TransientError("connection refused"))
        found = await ask_all(
            build_stack(lmm, backend(), CallPolicy(clock=virtual_clock(), on_message=said.append)), 200
        )
        return found, now_s(), len(lmm.asked)

    outcomes, took_s, asked = run_virtual(scenario())
    assert {type(outcome) for outcome in outcomes} <= {PermanentError, TransientError}
    assert sum(isinstance(outcome, PermanentError) for outcome in outcomes) > 150
    assert took_s < 300
    assert asked < 300
    assert [line.split("(pause")[-1] for line in said if "pausing" in line] == [
        f" {number} of 5)" for number in range(1, 6)
    ]
    # while it waits it says so, and says it seldom
    assert 0 < sum("waiting" in line for line in said) <= took_s / 10 + 1


def test_an_outage_that_ends_costs_time_and_no_answer() -> None:
    async def scenario() -> list[object]:
        lmm = ScriptedLMM(lambda _call: TransientError("HTTP 503") if 10 < now_s() < 60 else None, latency_s=1)
        return await ask_all(build_stack(lmm, backend(), CallPolicy(clock=virtual_clock())), 1000)

    assert run_virtual(scenario()) == [ANSWER] * 1000


def test_a_request_that_all_refuse_ends_the_run_after_a_few() -> None:
    async def scenario() -> tuple[list[object], int]:
        lmm = ScriptedLMM(lambda _call: SampleError("HTTP 400: no such parameter"))
        slow = Backend("mine", "mine.yaml", BackendSpec(adapter="x", model="m", limits=Limits(concurrency=1)))
        return await ask_all(build_stack(lmm, slow, CallPolicy(clock=virtual_clock())), 5), len(lmm.asked)

    outcomes, asked = run_virtual(scenario())
    assert [type(outcome).__name__ for outcome in outcomes] == ["SampleError"] * 4 + ["PermanentError"]
    assert asked == 5


def test_the_concurrency_that_is_asked_for_goes_before_the_files() -> None:
    async def scenario() -> int:
        lmm = ScriptedLMM(latency_s=1)
        await ask_all(build_stack(lmm, backend(), CallPolicy(concurrency=50, clock=virtual_clock())), 100)
        return lmm.most_in_flight

    assert run_virtual(scenario()) == 50


def test_each_try_is_paid_for_by_itself() -> None:
    budget = Budget(1.0)

    async def scenario() -> None:
        lmm = ScriptedLMM([TransientError("connection lost"), TransientError("again")])
        policy = CallPolicy(budget, clock=virtual_clock())
        await build_stack(lmm, backend(prices=Prices(prompt=1, completion=1)), policy).ask(question())

    run_virtual(scenario())
    reserved = (len("what is shown? 0") // 3 + 1 + 100) / 1e6
    assert budget.spent_usd == pytest.approx(2 * reserved + 0.001)


def test_a_cap_without_a_known_price_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: no price is known for openai/mine.*prices:"):
        build_stack(ScriptedLMM(), backend(), CallPolicy(Budget(1.0)))


def test_an_adapter_that_can_tell_headers_is_listened_to() -> None:
    class Telling(FakeLMM):
        def listen(self, listener: object) -> None:
            self.listener = listener

    lmm = Telling(lambda _request: "a dog")
    build_stack(lmm, backend(), CallPolicy(clock=virtual_clock()))
    headers: Mapping[str, str] = {"x-ratelimit-remaining-requests": "1"}
    lmm.listener(headers)  # type: ignore[operator]
