"""Keeps calls to one backend within its limits, and finds limits that nobody wrote down.

The number of calls in flight follows additive increase and multiplicative decrease (Chiu and Jain, 1989), as
TCP does. Does not retry.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from tlac.config.schemas import Limits
from tlac.errors import RateLimitError
from tlac.interfaces import LMM
from tlac.lmms.middleware.clock import Clock
from tlac.types import LMMRequest, LMMResponse

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class RateHint:
    """Calls that may still be made now, of how many, and in how many seconds all of them may be again."""

    remaining: int
    limit: int | None
    reset_s: float | None


def read_rate_headers(headers: Mapping[str, str], now: datetime | None = None) -> RateHint | None:
    """The hint about requests in a response's headers, or None. `now` is for resets given as a moment."""
    lowered = {name.lower(): value for name, value in headers.items()}
    remaining = _find(lowered, "remaining")
    if remaining is None or not remaining.isdigit():
        return None
    limit, reset = _find(lowered, "limit"), _find(lowered, "reset")
    return RateHint(
        int(remaining),
        int(limit) if limit and limit.isdigit() else None,
        _reset_s(reset, now or datetime.now(timezone.utc)) if reset else None,
    )


def _find(headers: Mapping[str, str], what: str) -> str | None:
    return headers.get(f"x-ratelimit-{what}-requests") or headers.get(f"anthropic-ratelimit-requests-{what}")


def _reset_s(text: str, now: datetime) -> float | None:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    try:
        # Python 3.10 does not read the "Z" of RFC 3339
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError):
        return None


_LONGEST_HOLD_S = 60.0
_DECREASE = 0.5
# what a call is taken to use before the first response has told
_FIRST_TOKENS = 1000.0
_TOKEN_SMOOTHING = 0.1


class LimitedLMM:
    """Wraps an LMM; shared by all who ask that backend, in both stages.

    At most `limits.concurrency` calls are in flight, started no faster than `limits.requests_per_minute` and
    `limits.tokens_per_minute` allow. Each RateLimitError halves the calls in flight and holds back new ones for
    as long as the provider wishes; each answer lets them grow again.
    """

    def __init__(self, lmm: LMM, limits: Limits, clock: Clock | None = None) -> None:
        self._lmm = lmm
        self._limits = limits
        self._clock = clock or Clock()
        self._window = float(max(1, limits.concurrency))
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next_start = 0.0
        self._held_until = 0.0
        self._slowed_at = float("-inf")
        self._refusals = 0
        self._tokens_a_call = _FIRST_TOKENS

    @property
    def window(self) -> float:
        """How many calls may be in flight now."""
        return self._window

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The wrapped LMM's response, as soon as the limits allow to ask. Raises what the wrapped LMM raises."""
        await self._take_place()
        try:
            await self._await_start()
            started = self._clock.now()
            try:
                response = await self._lmm.ask(request)
            except RateLimitError as error:
                self._slow_down(error, started)
                raise
            self._speed_up(response)
            return response
        finally:
            self._in_flight -= 1
            self._admit()

    def hear(self, headers: Mapping[str, str]) -> None:
        """Heed what a response's headers say about calls that are left."""
        hint = read_rate_headers(headers)
        if hint is None:
            return
        self._window = min(self._window, float(max(1, hint.remaining)))
        if hint.remaining == 0 and hint.reset_s is not None:
            # limits refill steadily: the next single call is due long before the full reset
            self._hold(hint.reset_s / max(1, hint.limit or 1))

    async def _take_place(self) -> None:
        if self._in_flight < int(self._window) and not self._waiting:
            self._in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._in_flight -= 1
                self._admit()
            else:
                self._waiting.remove(turn)
            raise

    def _admit(self) -> None:
        while self._waiting and self._in_flight < int(self._window):
            turn = self._waiting.popleft()
            if not turn.cancelled():
                self._in_flight += 1
                turn.set_result(None)

    async def _await_start(self) -> None:
        start = max(self._clock.now(), self._next_start)
        self._next_start = start + self._spacing_s()
        while (wait_s := max(start, self._held_until) - self._clock.now()) > 0:
            await self._clock.sleep(wait_s)

    def _spacing_s(self) -> float:
        requests, tokens = self._limits.requests_per_minute, self._limits.tokens_per_minute
        return max(60.0 / requests if requests else 0.0, 60.0 * self._tokens_a_call / tokens if tokens else 0.0)

    def _slow_down(self, error: RateLimitError, started: float) -> None:
        # calls that were under way together are turned away together: that is one signal, not many
        if started >= self._slowed_at:
            self._window = max(1.0, self._window * _DECREASE)
            self._slowed_at = self._clock.now()
            self._refusals += 1
        self._hold(error.retry_after_s if error.retry_after_s is not None else 2.0 ** min(self._refusals, 6) / 2)

    def _hold(self, wait_s: float) -> None:
        self._held_until = max(self._held_until, self._clock.now() + min(wait_s, _LONGEST_HOLD_S))

    def _speed_up(self, response: LMMResponse) -> None:
        self._refusals = 0
        self._window = min(float(max(1, self._limits.concurrency)), self._window + 1.0 / self._window)
        used = response.usage.prompt + response.usage.completion
        if used:
            self._tokens_a_call += (used - self._tokens_a_call) * _TOKEN_SMOOTHING
