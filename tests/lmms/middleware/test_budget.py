"""A cost cap that holds: whatever answers cost, whatever breaks off, however many calls are in flight."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from msgspec import structs

from tests.support.scripted_lmm import ANSWER, ScriptedLMM, question
from tests.support.virtual_time import run_virtual
from tlac.config.schemas import Prices
from tlac.errors import PermanentError, RateLimitError, SampleError, TransientError, UsageError
from tlac.lmms.middleware.budget import Budget, BudgetedLMM, highest_cost_usd
from tlac.types import Image, LMMRequest, LMMResponse, Message, TextPart, Usage

PRICES = Prices(prompt=2.0, completion=8.0)


class Meter:
    """A provider with random latencies, faults and prices up to the reservation, which keeps its own bill."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.billed_usd = 0.0
        self.most_a_call_usd = 0.0

    async def ask(self, request: LMMRequest) -> LMMResponse:
        most = highest_cost_usd(request, PRICES)
        self.most_a_call_usd = max(self.most_a_call_usd, most)
        cost = self._chance.uniform(0, most)
        await asyncio.sleep(self._chance.random())
        fate = self._chance.random()
        if fate < 0.05:
            raise RateLimitError("slow down")
        self.billed_usd += cost
        if fate < 0.15:
            # generated, billed, and lost on the way
            raise TransientError("connection lost")
        return structs.replace(ANSWER, cost_usd=cost)


@pytest.mark.parametrize("seed", range(100))
def test_a_cap_is_never_exceeded_at_concurrency_64(seed: int) -> None:
    meter, budget = Meter(seed), Budget(0.05)

    async def ask_all() -> list[object]:
        lmm = BudgetedLMM(meter, budget, PRICES)
        questions = iter(range(600))

        async def work() -> list[object]:
            return [await asyncio.gather(lmm.ask(question(n)), return_exceptions=True) for n in questions]

        return [error for found in await asyncio.gather(*(work() for _ in range(64))) for (error,) in found]

    outcomes = run_virtual(ask_all())
    assert meter.billed_usd <= 0.05
    assert budget.spent_usd >= meter.billed_usd - 1e-12
    # and it is used: the run ends for want of money, not before
    assert any(isinstance(outcome, PermanentError) for outcome in outcomes)
    assert budget.spent_usd > 0.05 - 2 * meter.most_a_call_usd


def test_a_call_waits_while_others_may_still_turn_out_cheaper() -> None:
    one = highest_cost_usd(question(), PRICES)

    async def scenario() -> int:
        lmm = ScriptedLMM([structs.replace(ANSWER, cost_usd=0.0)] * 10, latency_s=1)
        budgeted = BudgetedLMM(lmm, Budget(one * 1.5), PRICES)
        await asyncio.gather(*(budgeted.ask(question(number)) for number in range(10)))
        return lmm.most_in_flight

    assert run_virtual(scenario()) == 1


@pytest.mark.parametrize(
    ("error", "share"),
    [
        (RateLimitError("slow down"), 0.0),
        (SampleError("too large"), 0.0),
        (PermanentError("wrong key"), 0.0),
        (TransientError("connection lost"), 1.0),
    ],
)
def test_refused_calls_cost_nothing_and_broken_ones_may_have_cost_all(error: Exception, share: float) -> None:
    budget = Budget(1.0)
    lmm = BudgetedLMM(ScriptedLMM([error]), budget, PRICES)
    with pytest.raises(type(error)):
        run_virtual(lmm.ask(question()))
    assert budget.committed_usd == pytest.approx(share * highest_cost_usd(question(), PRICES))


def test_a_call_that_is_cancelled_counts_as_paid() -> None:
    async def scenario() -> float:
        budget = Budget(1.0)
        call = asyncio.ensure_future(BudgetedLMM(ScriptedLMM(latency_s=9), budget, PRICES).ask(question()))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        return budget.spent_usd

    assert run_virtual(scenario()) == pytest.approx(highest_cost_usd(question(), PRICES))


def test_what_a_response_cost_goes_before_what_its_tokens_would_cost() -> None:
    budget = Budget(1.0)
    lmm = BudgetedLMM(
        ScriptedLMM([structs.replace(ANSWER, cost_usd=None), structs.replace(ANSWER, cost_usd=0.5)]), budget, PRICES
    )
    run_virtual(lmm.ask(question()))
    assert budget.spent_usd == pytest.approx((90 * 2 + 10 * 8) / 1e6)
    run_virtual(lmm.ask(question()))
    assert budget.spent_usd == pytest.approx(0.5 + (90 * 2 + 10 * 8) / 1e6)


def test_a_spent_budget_says_so_and_how_to_go_on() -> None:
    lmm = BudgetedLMM(ScriptedLMM(), Budget(0.00001), PRICES)
    with pytest.raises(PermanentError, match=r"budget of 1e-05 USD is used up.*--max-cost"):
        run_virtual(lmm.ask(question()))


def test_an_image_and_every_byte_of_text_count_before_a_call() -> None:
    picture = Image("0" * 64, b"")
    plain = LMMRequest("stage1", "m", (Message("user", (TextPart("x" * 300),)),), {"max_tokens": 50})
    shown = replace(plain, messages=(Message("user", (picture, TextPart("x" * 300))),))
    assert highest_cost_usd(plain, PRICES) == pytest.approx((101 * 2 + 50 * 8) / 1e6)
    # what an image and an unbounded answer count: more than any provider's
    assert highest_cost_usd(shown, PRICES) == pytest.approx((101 * 2 + 50 * 8 + 3000 * 2) / 1e6)
    assert highest_cost_usd(replace(plain, params={}), PRICES) == pytest.approx((101 * 2 + 4096 * 8) / 1e6)


def test_a_call_that_may_use_the_budget_up_to_the_last_cent_is_made() -> None:
    async def scenario() -> list[LMMRequest]:
        lmm = ScriptedLMM()
        await BudgetedLMM(lmm, Budget(highest_cost_usd(question(), PRICES)), PRICES).ask(question())
        return lmm.asked

    assert run_virtual(scenario()) == [question()]


@pytest.mark.parametrize("cap", [-0.01, float("nan")])
def test_a_cap_that_caps_nothing_is_refused(cap: float) -> None:
    with pytest.raises(UsageError, match=f"a cap of {cap} USD caps nothing: give 0 or more"):
        Budget(cap)


def test_a_cap_of_nothing_lets_only_what_is_free_through() -> None:
    run_virtual(
        BudgetedLMM(ScriptedLMM([structs.replace(ANSWER, cost_usd=0.0)]), Budget(0), Prices(0.0, 0.0)).ask(question())
    )
    lmm = ScriptedLMM()
    with pytest.raises(
        PermanentError, match=r"budget of 0 USD is used up \(0\.0000 spent, the next call may cost 0\.00"
    ):
        run_virtual(BudgetedLMM(lmm, Budget(0), PRICES).ask(question()))
    assert lmm.asked == []


def test_an_answer_without_usage_counts_at_its_highest_unless_it_was_stored() -> None:
    silent = structs.replace(ANSWER, usage=Usage(), cost_usd=None)
    fresh, stored = Budget(1.0), Budget(1.0)
    run_virtual(BudgetedLMM(ScriptedLMM([silent]), fresh, PRICES).ask(question()))
    assert fresh.committed_usd == pytest.approx(highest_cost_usd(question(), PRICES))
    run_virtual(BudgetedLMM(ScriptedLMM([structs.replace(silent, from_store=True)]), stored, PRICES).ask(question()))
    assert stored.committed_usd == 0


def test_the_longest_answer_is_bounded_by_either_name_of_the_parameter() -> None:
    short = replace(question(), params={"max_completion_tokens": 50})
    assert highest_cost_usd(short, Prices(0.0, 1.0)) == pytest.approx(50 / 1e6)


def test_bytes_count_and_not_characters() -> None:
    # 100 characters of three bytes each, and a token for what is left over
    asked = replace(question(), messages=(Message("user", (TextPart("\u732b" * 100),)),))
    assert highest_cost_usd(asked, Prices(1.0, 0.0)) == pytest.approx(101 / 1e6)
