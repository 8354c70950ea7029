from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

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
        while sys._current_frames()[main].f_code.co_name != "wait":
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


async def put_numbers(put: Callable[[int], None], count: int) -> None:
    for number in range(count):
        put(number)
        await asyncio.sleep(0)


def test_what_a_coroutine_puts_comes_in_order_and_in_blocks() -> None:
    blocks = list(aio.stream(lambda put: put_numbers(put, 1000)))
    assert [number for block in blocks for number in block] == list(range(1000))
    assert max(map(len, blocks)) <= 256


def test_what_was_put_comes_before_the_error_of_a_stream() -> None:
    async def fail(put: Callable[[int], None]) -> None:
        put(1)
        raise ValueError("inside")

    blocks = aio.stream(fail)
    assert next(blocks) == [1]
    with pytest.raises(ValueError, match="inside"):
        next(blocks)


def test_an_interrupted_stream_goes_on_to_what_the_coroutine_puts_at_its_end(
    interrupt: Callable[[], Awaitable[None]],
) -> None:
    told: list[str] = []
    pressed: list[object] = []

    async def work(put: Callable[[str], None]) -> None:
        put("first")
        try:
            pressed.append(asyncio.ensure_future(interrupt()))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            put("last")

    found = [item for block in aio.stream(work, lambda: told.append("told")) for item in block]
    assert (found, told) == (["first", "last"], ["told"])


def test_a_stream_that_is_closed_early_waits_until_the_coroutine_has_cleaned_up() -> None:
    ended: list[str] = []

    async def work(put: Callable[[int], None]) -> None:
        put(1)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    blocks = aio.stream(work, wait_s=0.01)
    assert next(blocks) == [1]
    blocks.close()
    assert ended == ["cleaned up"]


def test_a_stream_that_nobody_ends_does_not_keep_python_from_ending() -> None:
    script = (
        "import asyncio\n"
        "from tlac.runtime import aio\n"
        "async def work(put):\n"
        "    put(1)\n"
        "    await asyncio.sleep(3600)\n"
        "blocks = aio.stream(work, wait_s=0.01)\n"
        "print(next(blocks))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[1]\n")


def test_a_generator_that_nobody_ends_is_closed_while_its_modules_are_there() -> None:
    script = (
        "import os\n"
        "from tlac.runtime import aio\n"
        "def numbers():\n"
        "    try:\n"
        "        yield 1\n"
        "    finally:\n"
        "        print(os.name)\n"
        "def stream():\n"
        "    with aio.closing_at_exit(numbers()) as found:\n"
        "        yield from found\n"
        "abandoned = stream()\n"
        "print(next(abandoned))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"1\n{os.name}\n", "")


def test_what_is_asked_for_while_a_block_is_answered_is_the_next_block() -> None:
    blocks: list[list[int]] = []

    async def double(asked: list[int]) -> list[int]:
        blocks.append(asked)
        await asyncio.sleep(0)
        if len(blocks) == 1:
            late.append(asyncio.ensure_future(doubled.ask(3)))
            await asyncio.sleep(0)
        return [2 * number for number in asked]

    late: list[asyncio.Future[int]] = []
    doubled = aio.Blocks(double)

    async def scenario() -> list[int]:
        first = await asyncio.gather(doubled.ask(1), doubled.ask(2))
        await doubled.finish()
        return [*first, await late[0], await doubled.ask(4)]

    assert asyncio.run(scenario()) == [2, 4, 6, 8]
    assert blocks == [[1, 2], [3], [4]]


def test_each_who_waits_for_a_block_is_told_its_error_and_the_next_is_answered() -> None:
    async def refuse_odd(asked: list[int]) -> list[int]:
        if any(number % 2 for number in asked):
            raise ValueError("odd")
        return asked

    checked = aio.Blocks(refuse_odd)

    async def scenario() -> list[object]:
        waiting = [asyncio.ensure_future(checked.ask(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        waiting[2].cancel()
        found: list[object] = list(await asyncio.gather(*waiting, return_exceptions=True))
        return [*(type(one) for one in found), await checked.ask(4)]

    assert asyncio.run(scenario()) == [ValueError, ValueError, asyncio.CancelledError, 4]


def test_a_task_that_ends_the_program_is_heard_by_who_waits_and_the_loop_goes_on() -> None:
    async def leave() -> None:
        raise SystemExit(7)

    async def wait_for_a_task() -> None:
        await asyncio.gather(asyncio.create_task(leave()), asyncio.create_task(asyncio.sleep(0)))

    def produce(put: Callable[[int], None]) -> Coroutine[Any, Any, None]:
        put(1)
        return wait_for_a_task()

    async def answer() -> int:
        return 42

    for _ in range(2):
        with pytest.raises(SystemExit, match="7"):
            aio.run(wait_for_a_task())
        with pytest.raises(SystemExit, match="7"):
            list(aio.stream(produce))
    assert aio.run(answer()) == 42
