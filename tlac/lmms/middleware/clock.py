"""Time and chance as the wrappers see them, so that a test can put its own in their place."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

OnMessage: TypeAlias = Callable[[str], None]
"""Told one line for the person who watches: a pause, a slow-down."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock in seconds, a way to wait, and a draw between two bounds."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


def say_nothing(_line: str) -> None:
    """Where nobody watches."""
