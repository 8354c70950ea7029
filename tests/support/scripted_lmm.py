"""An LMM that takes its time and fails by a plan: what the wrappers in tlac.lmms.middleware are tried on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from tlac.types import LMMRequest, LMMResponse, Message, Outcome, Stage, TextPart, Usage

ANSWER = LMMResponse(Outcome.ANSWERED, "a dog", usage=Usage(prompt=90, completion=10), cost_usd=0.001)


def question(number: int = 0, stage: Stage = "stage1", words: str = "what is shown?") -> LMMRequest:
    """A question that differs from others by its number."""
    message = Message("user", (TextPart(f"{words} {number}"),))
    return LMMRequest(stage, "fake/model", (message,), {"temperature": 0, "max_tokens": 100})


class ScriptedLMM:
    """Each call takes `latency_s` and then does what `plan` says for it: raise an error, or answer.

    `plan` is a list of steps, after which it answers, or a function of the number of the call, from 0.
    """

    def __init__(
        self,
        plan: Iterable[Exception | LMMResponse | None] | Callable[[int], Exception | LMMResponse | None] = (),
        latency_s: float = 0.0,
    ) -> None:
        steps = list(plan) if not callable(plan) else []
        self._plan = plan if callable(plan) else lambda call: steps[call] if call < len(steps) else None
        self._latency_s = latency_s
        self.asked: list[LMMRequest] = []
        self.started_at: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def ask(self, request: LMMRequest) -> LMMResponse:
        call = len(self.asked)
        self.asked.append(request)
        self.started_at.append(asyncio.get_running_loop().time())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._latency_s)
            step = self._plan(call)
        finally:
            self.in_flight -= 1
        if isinstance(step, Exception):
            raise step
        return step or ANSWER
