"""Keep calls to one backend within its limits, and find limits that nobody wrote down.

The number of calls in flight follows additive increase and multiplicative decrease (Chiu and Jain, 1989), as TCP does.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone

from tlac.config.schemas import Limits
from tlac.errors import RateLimitError
from tlac.interfaces import LMM
from tlac.lmms.middleware.policy import CallPolicy
from tlac.types import LMMRequest, LMMResponse

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# a provider that asks for more is asked again after this; RetryingLMM keeps the whole wish
_MAX_HOLD_S = 60.0
_DECREASE = 0.5
# what a call is assumed to use before the first response says
_FIRST_TOKENS = 1000.0
_TOKEN_SMOOTHING = 0.1


def duration_s(text: str) -> float | None:
    """Return the seconds in a duration such as "35.9s", "6m0s" or "20ms", None for other text."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def read_rate_headers(headers: Mapping[str, str], now: datetime | None = None) -> tuple[int, float] | None:
    """Return how many calls a response's headers say may be made now, and after how many seconds the next one.

    None where they don't say. `now` is for headers that give a moment.
    """
    lowered = {name.lower(): value for name, value in headers.items()}

    def find(what: str) -> str:
        name = f"x-ratelimit-{what}-requests"
        return lowered.get(name) or lowered.get(f"anthropic-ratelimit-requests-{what}") or ""

    remaining = _count(find("remaining"))
    if remaining is None:
        return None
    reset_s = _reset_s(find("reset"), now or datetime.now(timezone.utc)) or 0.0
    # limits refill steadily: the next single call is due long before the full reset
    next_s = 0.0 if remaining else reset_s / max(1, _count(find("limit")) or 1)
    return remaining, min(next_s, _MAX_HOLD_S)


def _count(text: str) -> int | None:
    # what a provider writes, not all that str.isdigit takes for a number
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None


def _reset_s(text: str, now: datetime) -> float | None:
    if (wait_s := duration_s(text)) is not None:
        return wait_s
    try:
        # Python 3.10 does not read the "Z" of RFC 3339
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError):
        return None


class LimitedLMM:
    """Wraps an LMM; shared by all who ask that backend, in both stages.

    At most `limits.concurrency` calls are in flight, started no faster than `limits.requests_per_minute` and
    `limits.tokens_per_minute` allow. Each RateLimitError halves the calls in flight and holds back new ones for as long
    as the provider asks; each answer lets them grow again.
    """

    def __init__(self, lmm: LMM, limits: Limits, policy: CallPolicy) -> None:
        self._lmm = lmm
        self._limits = limits
        self._clock = policy.clock
        self._activity = policy.activity
        self._window = float(max(1, limits.concurrency))
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next_start = 0.0
        self._held_until = 0.0
        self._slowed_at = float("-inf")
        self._rejections = 0
        self._tokens_per_call = _FIRST_TOKENS

    @property
    def window(self) -> float:
        """How many calls may be in flight now."""
        return self._window

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Return the wrapped LMM's response, as soon as the limits allow to ask. Raises what the wrapped LMM raises."""
        await self._enter()
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

    def read_headers(self, headers: Mapping[str, str]) -> None:
        """Follow what a response's headers say about calls that are left."""
        found = read_rate_headers(headers)
        if found is None:
            return
        remaining, next_s = found
        self._window = min(self._window, float(max(1, remaining)))
        if next_s:
            self._hold(next_s)
            self._activity.note_wait(next_s, "the provider's headers say that no call is left")

    async def _enter(self) -> None:
        if self._in_flight < int(self._window) and not self._waiting:
            self._in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # admitted and cancelled at once: the place goes to the next
                self._in_flight -= 1
                self._admit()
            elif turn in self._waiting:
                # a place that became free at the same moment has passed it by
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
        if (wait_s := start - self._clock.now()) > 0:
            self._activity.note_wait(wait_s, "limits.requests_per_minute or tokens_per_minute of the backend file")
        # a hold may be prolonged meanwhile
        while (wait_s := max(start, self._held_until) - self._clock.now()) > 0:
            await self._clock.sleep(wait_s)

    def _spacing_s(self) -> float:
        requests, tokens = self._limits.requests_per_minute, self._limits.tokens_per_minute
        return max(60.0 / requests if requests else 0.0, 60.0 * self._tokens_per_call / tokens if tokens else 0.0)

    def _slow_down(self, error: RateLimitError, started: float) -> None:
        # calls that were in flight together are rejected together: that is one signal, not many
        if started >= self._slowed_at:
            self._window = max(1.0, self._window * _DECREASE)
            self._slowed_at = self._clock.now()
            self._rejections += 1
        self._hold(error.retry_after_s if error.retry_after_s is not None else 2.0 ** min(self._rejections, 6) / 2)

    def _hold(self, wait_s: float) -> None:
        self._held_until = max(self._held_until, self._clock.now() + min(wait_s, _MAX_HOLD_S))

    def _speed_up(self, response: LMMResponse) -> None:
        self._rejections = 0
        self._window = min(float(max(1, self._limits.concurrency)), self._window + 1.0 / self._window)
        used = response.usage.prompt + response.usage.completion
        if used:
            self._tokens_per_call += (used - self._tokens_per_call) * _TOKEN_SMOOTHING
