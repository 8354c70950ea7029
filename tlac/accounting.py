"""What the answers of a run took: calls, tokens, money.

One answer may serve many samples: each is counted once. Does not know prices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tlac.types import Stage, Transcript, Turn


@dataclass(frozen=True, slots=True)
class StageCalls:
    """One stage's answers: `asked` calls were made, `from_store` answers needed none."""

    asked: int = 0
    from_store: int = 0


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls by stage."""

    stage1: StageCalls = StageCalls()
    stage2: StageCalls = StageCalls()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of the calls that were made, as the provider counted them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """`cost_usd` is what the calls cost that were made now, `answers_cost_usd` what all answers cost whenever
    they were asked; None where a price is not known."""

    calls: Calls
    tokens: Tokens
    cost_usd: float | None
    answers_cost_usd: float | None


def count_spending(transcripts: Iterable[Transcript]) -> Spending:
    """What these transcripts took."""
    turns = [turn for transcript in transcripts for turn in transcript.turns]
    distinct = {turn.key: turn for turn in turns}
    # the same answer may have been paid for by one sample and found in the store by another
    distinct.update({turn.key: turn for turn in turns if not turn.response.from_store})
    paid = [turn for turn in distinct.values() if not turn.response.from_store]
    return Spending(
        Calls(_count("stage1", turns, paid), _count("stage2", turns, paid)),
        Tokens(
            sum(turn.response.usage.prompt for turn in paid),
            sum(turn.response.usage.completion for turn in paid),
            sum(turn.response.usage.cached for turn in paid),
        ),
        _cost(paid),
        _cost(distinct.values()),
    )


def _count(stage: Stage, turns: Sequence[Turn], paid: Sequence[Turn]) -> StageCalls:
    asked = sum(turn.stage == stage for turn in paid)
    return StageCalls(asked, sum(turn.stage == stage for turn in turns) - asked)


def _cost(turns: Collection[Turn]) -> float | None:
    costs = [turn.response.cost_usd for turn in turns]
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 9) if len(known) == len(costs) else None
