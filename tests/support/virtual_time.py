"""An event loop whose clock jumps to the next timer: hours of waiting take no time, and the order is exact."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from tlac.lmms.middleware.policy import Clock

ResultT = TypeVar("ResultT")


class _JumpingSelector(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits and no timer is set: a deadlock")
        if not ready:
            self.now += timeout or 0.0
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_virtual(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine to its end in virtual time, which begins at 0; what it leaves behind is cancelled."""
    loop = _VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        while left := asyncio.all_tasks(loop):
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.close()


def now_s() -> float:
    """Virtual seconds since the start."""
    return asyncio.get_running_loop().time()


def virtual_clock(seed: int = 0) -> Clock:
    """The virtual clock, with a seeded draw."""
    return Clock(now=now_s, sleep=asyncio.sleep, uniform=random.Random(seed).uniform)


class SkippingClock:
    """The real clock, less the waits: for code that talks to real sockets and must not sleep."""

    def __init__(self) -> None:
        self.skipped_s = 0.0
        self.waits_s: list[float] = []

    def now(self) -> float:
        """Seconds that have passed, or were skipped."""
        return time.monotonic() + self.skipped_s

    async def sleep(self, wait_s: float) -> None:
        """Skip a wait, and let others run."""
        self.waits_s.append(wait_s)
        self.skipped_s += wait_s
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        """This clock, with a seeded draw."""
        return Clock(self.now, self.sleep, random.Random(0).uniform)
