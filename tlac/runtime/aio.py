"""One event loop for the whole process, in a thread of its own, that synchronous code hands coroutines to.

litellm keeps transports open between calls, and they die with the loop that made them: a loop per call
(asyncio.run) ends in "Event loop is closed". Does not know what it runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603 - the one loop of the process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="tlac-loop", daemon=True).start()
        return _loop


def run(coroutine: Coroutine[Any, Any, ResultT], on_interrupt: Callable[[], None] = lambda: None) -> ResultT:
    """Run a coroutine to its end and give its result.

    An interrupt (Ctrl-C) calls `on_interrupt`, cancels the coroutine, and waits until it has cleaned up. Then it is
    raised again, unless the coroutine took the cancellation as a wish to come to an end, and has a result after all.
    Must not be called from a coroutine.
    """
    loop = _running_loop()
    tasks: list[asyncio.Task[Any]] = []

    async def noted() -> ResultT:
        if task := asyncio.current_task():
            tasks.append(task)
        return await coroutine

    # its own cancel() would throw away the result that the coroutine may come to
    future = asyncio.run_coroutine_threadsafe(noted(), loop)
    while True:
        try:
            return future.result()
        except KeyboardInterrupt:
            on_interrupt()
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
        except concurrent.futures.CancelledError:
            raise KeyboardInterrupt from None


def deferred(action: Callable[[], object]) -> Callable[[], None]:
    """What has `action` done on the loop's thread, and does not wait for it.

    It takes no lock. So a finalizer may be it: garbage is collected in the midst of any code, also of such that holds
    the lock which the action needs.
    """
    running = _running_loop()

    def defer() -> None:
        running.call_soon_threadsafe(action)

    return defer
