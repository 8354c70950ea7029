"""What the driver sees of a run on a cluster: how far it is, why nothing happens, and that workers die in vain."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tlac.engines.ray.errors import serialize_error
from tlac.engines.ray.job import MOST_DEATHS
from tlac.engines.ray.limiter import Progress
from tlac.engines.ray.session import count_restarts, end_workers
from tlac.errors import PermanentError
from tlac.evaluation.collect import INTERRUPTED
from tlac.lmms.middleware.clock import OnMessage

WORKER_CPUS = 0.25
"""What each worker asks for: workers wait for answers, and one processor bears several."""

_LOOK_EVERY_S = 1.0
_GET_TIMEOUT_S = 10.0
# workers that have to import litellm begin after some ten seconds
_START_TIMEOUT_S, _SAY_AGAIN_S = 20.0, 60.0
_TELL_EVERY_S = 10.0
# a worker that is started in vain is started again within a second or two
_GIVE_UP_AFTER_S = 20.0


class Watch:
    """Looks at a run's limiter, and tells what is new. `progress` is the last look; `total` samples are asked about.

    Where workers die before they take up any work, Ray starts them again without end, and no worker of ours can count
    that: the run is stopped here.
    """

    def __init__(self, ray: Any, limiter: Any, on_message: OnMessage) -> None:
        self._ray, self._limiter = ray, limiter
        self._on_message = on_message
        self._moved_at = time.monotonic()
        # by worker, when something was last gained
        self._restarts: dict[str, int] = {}
        self.progress = Progress()
        self.is_given_up = False

    def _look(self) -> Progress:
        before, self.progress = self.progress, self._ray.get(self._limiter.progress.remote(), timeout=_GET_TIMEOUT_S)
        for message in self.progress.messages:
            self._on_message(message)
        if self.progress.gains != before.gains:
            self._moved_at, self._restarts = time.monotonic(), {}
        return self.progress

    @contextmanager
    def telling(self, total: int, workers: int) -> Iterator[None]:
        """Look again and again while the block lasts, and once more at its end."""
        is_over = threading.Event()

        def watch() -> None:
            told, told_at = Progress(), time.monotonic()
            started_at, say_at_s = time.monotonic(), _START_TIMEOUT_S
            while not is_over.wait(_LOOK_EVERY_S):
                try:
                    found = self._look()
                except self._ray.exceptions.GetTimeoutError:
                    continue
                except self._ray.exceptions.RayError:
                    return
                now = time.monotonic()
                if now - self._moved_at >= _GIVE_UP_AFTER_S:
                    self._give_up_if_workers_die()
                if not found.workers and now - started_at >= say_at_s:
                    free = self._ray.available_resources().get("CPU", 0.0)
                    asked = workers * WORKER_CPUS
                    self._on_message(f"Ray: no worker has started: {asked:g} CPUs asked, {free:g} free")
                    say_at_s += _SAY_AGAIN_S
                if now - told_at >= _TELL_EVERY_S and found.gains != told.gains:
                    # a worker that was killed has told of some samples that it asks about again
                    done = min(found.samples, total)
                    self._on_message(f"Ray: {done:,} of {total:,} samples, {found.calls:,} calls")
                    told, told_at = found, now

        watcher = threading.Thread(target=watch, name="tlac-ray-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
            # where the limiter has died, the look before counts
            with suppress(self._ray.exceptions.RayError):
                self._look()

    def interrupt(self) -> None:
        """Have no further call made, and those in flight come to their end."""
        self._on_message("stopping; waiting for the calls in flight (Ctrl-C again gives them up)")
        self._stop(PermanentError(INTERRUPTED))

    def _stop(self, error: PermanentError) -> None:
        self._ray.get(self._limiter.stop.remote(serialize_error(error)), timeout=_GET_TIMEOUT_S)

    def _give_up_if_workers_die(self) -> None:
        restarts = count_restarts(self._ray)
        self._restarts = {worker: self._restarts.get(worker, count) for worker, count in restarts.items()}
        if self.is_given_up or all(count - self._restarts[worker] < MOST_DEATHS for worker, count in restarts.items()):
            return
        self.is_given_up = True
        reason = (
            f"a worker died {MOST_DEATHS} times before it took up any work; is the memory of its machine too small?"
        )
        self._stop(PermanentError(reason))
        end_workers(self._ray)
