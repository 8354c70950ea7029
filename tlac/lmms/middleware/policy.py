"""How calls are made: what they may cost, how often they are asked again, by which clock, and who is told of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from tlac.errors import CallError
from tlac.lmms.middleware.budget import Budget

OnMessage: TypeAlias = Callable[[str], None]
"""Called with one line for the person who watches: a pause, a slow-down."""

_MIN_INTERVAL_S = 10.0
# shorter waits are over before anyone has read about them
_MIN_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock in seconds, a way to wait, and a draw between two bounds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


def say_nothing(_line: str) -> None:
    """Where nobody watches."""


@dataclass(slots=True)
class CallActivity:
    """Retries by kind ("rate limit", "HTTP 503") so far, and the newest wait: until when, on the clock, and why.

    A live view reads the fields; `on_message` is told of waits in a line at most every 10 s.
    """

    on_message: OnMessage = say_nothing
    clock: Clock = field(default_factory=Clock)
    retries: Counter[str] = field(default_factory=Counter)
    waits_until: float = 0.0
    reason: str = ""
    _told_at: float = float("-inf")

    def note_retry(self, error: CallError, wait_s: float) -> None:
        """One more call is made again, after a wait, for that error."""
        self.retries[error.kind or "passing fault"] += 1
        self.note_wait(wait_s, str(error))

    def note_wait(self, wait_s: float, reason: str) -> None:
        """Calls wait so long, for that reason."""
        now = self.clock.now()
        if now + wait_s >= self.waits_until:
            self.waits_until, self.reason = now + wait_s, reason
        if wait_s >= _MIN_WAIT_S and now >= self._told_at + _MIN_INTERVAL_S:
            self._told_at = now
            self.on_message(f"waiting {wait_s:.0f} s: {reason}{self._retries_so_far()}")

    def _retries_so_far(self) -> str:
        if not self.retries:
            return ""
        by_kind = ", ".join(f"{count:,} {kind}" for kind, count in self.retries.most_common())
        return f" (retries so far: {by_kind})"


@dataclass(frozen=True)
class CallPolicy:
    """Budget, limits, retries and clock of calls. `concurrency` takes precedence over the backend's own limit.

    `tries` counts calls in all, `identical_tries` those that failed for the very same reason, `limited_tries` those
    that the provider rejected for going too fast. `total_wait_s` bounds the waits between them. After
    `breaker_failures` passing faults in a row all calls wait for each of `breaker_pauses_s` in turn.
    """

    budget: Budget | None = None
    concurrency: int | None = None
    on_message: OnMessage = say_nothing
    clock: Clock = field(default_factory=Clock)
    tries: int = 10
    identical_tries: int = 6
    limited_tries: int = 20
    base_s: float = 1.0
    max_s: float = 60.0
    total_wait_s: float = 600.0
    breaker_failures: int = 5
    breaker_pauses_s: tuple[float, ...] = (5.0, 15.0, 30.0, 60.0, 120.0)

    @cached_property
    def activity(self) -> CallActivity:
        """What the calls under this policy wait for, for a live view."""
        return CallActivity(self.on_message, self.clock)
