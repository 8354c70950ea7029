"""One event loop for the whole process, in a thread of its own, that synchronous code hands coroutines to.

litellm keeps transports open between calls, and they die with the loop that made them: a loop per call
(asyncio.run) ends in "Event loop is closed". Does not know what it runs.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

ResultT = TypeVar("ResultT")
WaitedT = TypeVar("WaitedT")
ItemT = TypeVar("ItemT")
AskedT = TypeVar("AskedT")
FoundT = TypeVar("FoundT")
_THREAD = "tlac-loop"
_BLOCK = 256

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _forget_loop() -> None:
    """In a forked process: the thread of the loop is not there, and whoever waited for it would wait for ever."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)


def _run_always(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop. SystemExit in a task (rich raises it where stderr is closed) ends the task, and is raised where its
    result is waited for, as any other error; asyncio would end the loop too, and all that wait would wait for ever."""
    while True:
        with suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            return


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603 - the one loop of the process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_run_always, args=(_loop,), name=_THREAD, daemon=True).start()
        return _loop


def run(coroutine: Coroutine[Any, Any, ResultT], on_interrupt: Callable[[], None] = lambda: None) -> ResultT:
    """Run a coroutine to its end and give its result.

    An interrupt (Ctrl-C) calls `on_interrupt`, cancels the coroutine, and waits until it has cleaned up. Then it is
    raised again, unless the coroutine took the cancellation as a wish to come to an end, and has a result after all.
    Must not be called from a coroutine.
    """
    running = _Running(coroutine)
    return running.attend(running.future.result, on_interrupt)


async def on_loop(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """As `run`, for a coroutine on an event loop of its own, which does not wait: what locks and connections are bound
    to is one loop, whoever asks. Cancelling it cancels the coroutine."""
    if asyncio.get_running_loop() is _loop:
        return await coroutine
    return await asyncio.wrap_future(_Running(coroutine).future)


class _Running(Generic[ResultT]):
    """A coroutine on the loop, as whoever waits for it on another thread sees it."""

    def __init__(self, coroutine: Coroutine[Any, Any, ResultT]) -> None:
        self._loop = _running_loop()
        self._tasks: list[asyncio.Task[Any]] = []

        async def noted() -> ResultT:
            if task := asyncio.current_task():
                self._tasks.append(task)
            return await coroutine

        # its own cancel() would throw away the result that the coroutine may come to
        self.future = asyncio.run_coroutine_threadsafe(noted(), self._loop)

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks])

    def attend(self, wait: Callable[[], WaitedT], on_interrupt: Callable[[], None]) -> WaitedT:
        """What `wait` gives; an interrupt cancels the coroutine, and the wait goes on."""
        while True:
            try:
                return wait()
            except KeyboardInterrupt:
                on_interrupt()
                self.cancel()
            except concurrent.futures.CancelledError:
                raise KeyboardInterrupt from None

    def end(self) -> None:
        """Cancel what has not come to its end, and wait for it."""
        if self.future.done():
            return
        self.cancel()
        # garbage may be collected on the loop's own thread, which must not wait for itself, and when Python ends, where
        # that thread has stopped
        if threading.current_thread().name != _THREAD and not sys.is_finalizing():
            with suppress(BaseException):
                self.future.result()


def stream(
    produce: Callable[[Callable[[ItemT], None]], Coroutine[Any, Any, None]],
    on_interrupt: Callable[[], None] = lambda: None,
    wait_s: float = 0.25,
) -> Generator[list[ItemT], None, None]:
    """Run the coroutine that `produce` makes; yield what it puts, in blocks of up to 256 or `wait_s` seconds.

    It goes on while a block is worked on. An interrupt is taken as `run` takes it, and the blocks go on until the
    coroutine has come to its end. Closing the generator cancels the coroutine and waits until it has cleaned up.
    """
    waiting = _Waiting[ItemT]()

    async def put_all() -> None:
        try:
            await produce(waiting.put)
        finally:
            waiting.end()

    running = _Running(put_all())
    try:
        while running.attend(partial(waiting.wait, wait_s), on_interrupt):
            block = waiting.items[:_BLOCK]
            yield block
            del waiting.items[: len(block)]
        running.attend(running.future.result, on_interrupt)
    finally:
        running.end()


class _Waiting(Generic[ItemT]):
    """What was put on one thread until another has taken it. An interrupt can strike anywhere, so what waits is looked
    at, and only removed once it has been worked on; a queue would lose what it had just given."""

    def __init__(self) -> None:
        self.items: list[ItemT] = []
        self._has_some, self._is_over = threading.Event(), threading.Event()

    def put(self, item: ItemT) -> None:
        self.items.append(item)
        self._has_some.set()

    def end(self) -> None:
        self._is_over.set()
        self._has_some.set()

    def wait(self, wait_s: float) -> bool:
        """Wait for something, and a little for more; False when nothing is left and nothing will come."""
        if not self.items:
            self._has_some.clear()
            # what came before the flag was lowered is not waited for
            if not (self.items or self._is_over.is_set()):
                self._has_some.wait()
        if len(self.items) < _BLOCK:
            self._is_over.wait(wait_s)
        return bool(self.items)


class Blocks(Generic[AskedT, FoundT]):
    """Has what is asked for one by one answered in blocks: what comes while one is answered, or for the `wait_s` before
    it, is the next.

    `answer` gives an answer to each of a block, in order; what it raises, each who waits is told.
    """

    def __init__(
        self, answer: Callable[[list[AskedT]], Awaitable[Sequence[FoundT]]], wait_s: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._answer, self._wait_s = answer, wait_s
        self._waiting: list[tuple[AskedT, asyncio.Future[FoundT]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def ask(self, asked: AskedT) -> FoundT:
        """The answer. Raises what `answer` raises."""
        found: asyncio.Future[FoundT] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, found))
        if self._answering is None:
            self._answering = asyncio.ensure_future(self._answer_all())
        return await found

    async def finish(self) -> None:
        """Wait until all is answered."""
        if self._answering is not None:
            await self._answering

    async def _answer_all(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._wait_s())
            block, self._waiting = self._waiting, []
            try:
                answers = await self._answer([asked for asked, _ in block])
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                for _, found in block:
                    if not found.done():
                        found.set_exception(error)
                continue
            for (_, found), answer in zip(block, answers, strict=True):
                if not found.done():
                    found.set_result(answer)
        self._answering = None


def deferred(action: Callable[[], object]) -> Callable[[], None]:
    """What has `action` done on the loop's thread, and does not wait for it.

    It takes no lock. So a finalizer may be it: garbage is collected in the midst of any code, also of such that holds
    the lock which the action needs.
    """
    running = _running_loop()

    def defer() -> None:
        running.call_soon_threadsafe(action)

    return defer


@contextmanager
def closing_at_exit(generator: Generator[ItemT, None, None]) -> Iterator[Generator[ItemT, None, None]]:
    """Close a generator at the end of the block, and if nobody ends that, before Python takes its modules apart."""
    # kept, since the module itself may be gone when the block is left
    unregister = atexit.unregister
    atexit.register(generator.close)
    try:
        yield generator
    finally:
        generator.close()
        unregister(generator.close)
