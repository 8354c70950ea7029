"""Time and chance as the middleware sees them, so that a test can replace them; and what it tells who watches."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from tlac.errors import CallError

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
