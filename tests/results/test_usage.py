from __future__ import annotations

import pytest

from tlac.results.usage import StageCalls, UsageLedger
from tlac.types import LMMResponse, Outcome, Stage, Turn, Usage


def turn(stage: Stage, key: str, cost: float | None = 0.5, from_store: bool = False) -> Turn:
    usage = Usage(prompt=100, completion=10, cached=40)
    return Turn(stage, key, LMMResponse(Outcome.ANSWERED, "x", usage=usage, cost_usd=cost, from_store=from_store))


def count(*turns: Turn) -> UsageLedger:
    ledger = UsageLedger()
    ledger.add(turns)
    return ledger


def test_an_answer_that_serves_two_samples_is_paid_for_once() -> None:
    spending = count(turn("stage1", "a"), turn("stage2", "c"), turn("stage1", "b"), turn("stage2", "c"))
    assert (spending.calls.stage1, spending.calls.stage2) == (StageCalls(2, 0), StageCalls(1, 1))
    assert (spending.tokens.prompt, spending.tokens.completion, spending.tokens.cached) == (300, 30, 120)
    assert spending.cost_usd == pytest.approx(1.5)


def test_stored_answers_cost_nothing_now_and_something_once() -> None:
    spending = count(turn("stage1", "a", from_store=True))
    assert (spending.calls.stage1, spending.cost_usd, spending.answers_cost_usd) == (StageCalls(0, 1), 0, 0.5)
    assert spending.tokens.prompt == 0


def test_a_cost_with_an_unknown_part_is_unknown() -> None:
    spending = count(turn("stage1", "a", cost=None), turn("stage1", "b"))
    assert (spending.cost_usd, spending.answers_cost_usd) == (None, None)
