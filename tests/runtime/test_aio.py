from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tlac.runtime import aio


async def current() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_all_coroutines_run_on_one_loop_that_stays_open() -> None:
    first = aio.run(current())
    assert aio.run(current()) is first
    assert not first.is_closed()


@pytest.fixture
def interrupt() -> Iterator[Callable[[], Awaitable[None]]]:
    """Ctrl-C, also where whoever runs the tests has it ignored."""
    main = threading.main_thread().ident or 0

    async def press() -> None:
        # sooner, it would hit the caller and not the wait
        while not sys._current_frames()[main].f_code.co_filename.endswith("threading.py"):
            await asyncio.sleep(0)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield press
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_is_raised_once_the_coroutine_has_cleaned_up(interrupt: Callable[[], Awaitable[None]]) -> None:
    ended: list[str] = []
    pressed: list[object] = []

    async def work() -> None:
        try:
            pressed.append(asyncio.ensure_future(interrupt()))
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        aio.run(work(), lambda: ended.append("told"))
    assert ended == ["told", "cleaned up"]


def test_a_coroutine_may_come_to_an_end_of_its_own_when_interrupted(interrupt: Callable[[], Awaitable[None]]) -> None:
    pressed: list[object] = []

    async def work() -> str:
        try:
            pressed.append(asyncio.ensure_future(interrupt()))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "what there was"
        return "everything"

    assert aio.run(work()) == "what there was"


def test_an_error_comes_back_to_the_caller() -> None:
    async def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        aio.run(fail())
