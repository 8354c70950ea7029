"""What the answers of a run took: calls, tokens, money, in all and for each sample.

One answer may serve many samples: in all of them it is counted once. calls.jsonl, what each answer took, lies beside
predictions.jsonl, which stays free of times. Does not know prices.
"""

from __future__ import annotations

import hashlib
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from tlac.errors import InputError
from tlac.results.predictions import decode_lines
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


class UsageLedger:
    """Counts answers as they come. Holds some hundred bytes for each distinct one."""

    def __init__(self) -> None:
        self._turns: Counter[Stage] = Counter()
        self._asked: Counter[Stage] = Counter()
        self._tokens: Counter[str] = Counter()
        self._places: dict[bytes, int] = {}
        # by place; a price that is not known is NaN
        self._costs = array("d")
        self._is_paid = bytearray()

    def add(self, turns: Iterable[Turn]) -> float | None:
        """Count these turns; what those of their answers cost that were not counted before, None where not known."""
        first = len(self._costs)
        for turn in turns:
            response, usage = turn.response, turn.response.usage
            cost_usd = math.nan if response.cost_usd is None else response.cost_usd
            self._turns[turn.stage] += 1
            # a digest takes a third of the room of the key
            digest = hashlib.blake2b(turn.key.encode(), digest_size=16).digest()
            place = self._places.setdefault(digest, len(self._costs))
            if place == len(self._costs):
                self._costs.append(cost_usd)
                self._is_paid.append(False)
            # the same answer may have been paid for by one sample and found in the store by another
            if not response.from_store and not self._is_paid[place]:
                self._is_paid[place] = True
                self._costs[place] = cost_usd
                self._asked[turn.stage] += 1
                self._tokens.update(prompt=usage.prompt, completion=usage.completion, cached=usage.cached)
        return _cost(self._costs[first:])

    def join(self, other: UsageLedger) -> None:
        """Take in what another has counted, of answers that this one has not; keeps its sums alone."""
        self._turns += other._turns
        self._asked += other._asked
        self._tokens += other._tokens
        for is_paid in (False, True):
            costs = zip(other._costs, other._is_paid, strict=True)
            self._costs.append(math.fsum(cost for cost, own in costs if bool(own) == is_paid))
            self._is_paid.append(is_paid)

    @property
    def calls(self) -> Calls:
        """Calls that were made, and answers that needed none, by stage."""
        from_store = self._turns - self._asked
        return Calls(
            StageCalls(self._asked["stage1"], from_store["stage1"]),
            StageCalls(self._asked["stage2"], from_store["stage2"]),
        )

    @property
    def tokens(self) -> Tokens:
        """Tokens of the calls that were made."""
        return Tokens(**self._tokens)

    @property
    def cost_usd(self) -> float | None:
        """What the calls cost that were made; None where a price is not known."""
        return _cost([cost for cost, is_paid in zip(self._costs, self._is_paid, strict=True) if is_paid])

    @property
    def answers_cost_usd(self) -> float | None:
        """What all answers cost, whenever they were asked; None where a price is not known."""
        return _cost(self._costs)


def _cost(costs: Iterable[float]) -> float | None:
    # exact, so that no order and no parts change it
    total = round(math.fsum(costs), 9)
    return None if math.isnan(total) else total


CALLS = "calls.jsonl"
_BLOCK = 512
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclass(frozen=True, slots=True)
class CallFacts:
    """One answer to a question about one sample. `latency_s` and `cost_usd` are those of the call that gave the
    answer, whenever it was made; `key` tells answers that several samples share."""

    stage: Stage
    key: str
    latency_s: _Amount
    cost_usd: _Amount | None
    prompt_tokens: int
    completion_tokens: int
    from_store: bool


@dataclass(frozen=True, slots=True)
class SampleCalls:
    """The answers behind one sample, in the order in which they were asked for."""

    sample: str
    calls: tuple[CallFacts, ...] = ()


def facts_of(transcripts: Iterable[Transcript]) -> Iterator[SampleCalls]:
    """One entry a transcript, in their order."""
    return (SampleCalls(transcript.sample, tuple(map(_facts, transcript.turns))) for transcript in transcripts)


def _facts(turn: Turn) -> CallFacts:
    response = turn.response
    return CallFacts(
        turn.stage,
        turn.key,
        response.latency_s,
        response.cost_usd,
        response.usage.prompt,
        response.usage.completion,
        response.from_store,
    )


def encode_calls(calls: Iterable[SampleCalls]) -> Iterator[bytes]:
    """The content of calls.jsonl, some lines at a time: one JSON object a line."""
    encoder = msgspec.json.Encoder()
    pending = iter(calls)
    while block := list(islice(pending, _BLOCK)):
        yield encoder.encode_lines(block)


def read_calls(folder: Path) -> tuple[SampleCalls, ...]:
    """The calls.jsonl of a run folder; empty where an older run has none. Raises InputError."""
    path = folder / CALLS
    if not os.path.lexists(path):
        return ()
    try:
        return tuple(decode_lines(path, SampleCalls))
    except InputError as error:
        raise InputError(f"{error}; remove it to report without times") from error
