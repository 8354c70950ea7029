"""Measures what the limiter of `--engine ray`, and what reads the store, cost a call: workers on a Ray of this machine
make calls that only sleep.

python -m benchmarks.simulation.limiter_cost [CALLS] [WORKERS] [IN_FLIGHT]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tlac.config.schemas import Backend, BackendSpec, Limits
from tlac.engines.ray.limiter import AdmittedLMM, LimiterActor, WorkerClient
from tlac.engines.ray.scoring import StoreReader, explain_missing
from tlac.engines.ray.session import connect, quiet
from tlac.lmms.middleware.policy import CallPolicy
from tlac.types import LMMRequest, LMMResponse, Message, Outcome, TextPart, Usage

CALLS, WORKERS, IN_FLIGHT = 40_000, 2, 4096
_MEDIAN_S, _SIGMA = 1.0, 0.5
_QUESTION = LMMRequest("stage1", "any", (Message("user", (TextPart("what is shown?"),)),))


class TimedLimiter(LimiterActor):
    """A limiter that tells the processor time of its process."""

    async def cpu_s(self) -> float:
        """Seconds since it began."""
        return time.process_time()


class TimedReader(StoreReader):
    """What reads the store, and tells the processor time of its process."""

    def cpu_s(self) -> float:
        """Seconds since it began."""
        return time.process_time()


class _SleepingLMM:
    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    async def ask(self, _request: LMMRequest) -> LMMResponse:
        await asyncio.sleep(float(self._draw.lognormal(np.log(_MEDIAN_S), _SIGMA)))
        return LMMResponse(Outcome.ANSWERED, "a dog", usage=Usage(282, 8))


class _Worker:
    """Makes calls, so many at a time; gives the processor time that they took of its process."""

    async def is_ready(self) -> bool:
        """True as soon as there is somebody to say so."""
        return True

    async def work(self, actors: tuple[Any, Any], name: str, seed: int, calls: int, at_once: int) -> float:
        client = WorkerClient(*actors, name)
        await client.register()
        lmm, left = AdmittedLMM(_SleepingLMM(seed), "any", client), iter(range(calls))
        started_s = time.process_time()

        async def ask() -> None:
            for number in left:
                await client.find(f"{seed:032x}{number:032x}")
                await lmm.ask(_QUESTION)

        await asyncio.gather(*(ask() for _ in range(at_once)))
        await client.drain()
        return time.process_time() - started_s


@dataclass(frozen=True, slots=True)
class Measured:
    """Calls a second, and the processor time a call of the limiter, the reader, and a worker's side of both."""

    calls_a_second: float
    limiter_s: float
    reader_s: float
    worker_s: float


def start_timed(ray: Any, backends: dict[str, Backend], store: Path) -> tuple[Any, Any]:
    """The limiter, and what reads the store, each in a process that tells its time."""
    timed: Any = ray.remote(TimedLimiter)
    limiter = timed.options(max_concurrency=100_000, num_cpus=0).remote(backends, CallPolicy())
    nothing = partial(explain_missing, {}, None, None)
    return limiter, ray.remote(TimedReader).options(num_cpus=0).remote(store, (), (), (), nothing)


def measure(store: Path, calls: int = CALLS, workers: int = WORKERS, in_flight: int = IN_FLIGHT) -> Measured:
    """Make so many calls through one limiter; each worker has more in hand than may be in flight."""
    ray = connect(None, workers + 1)
    try:
        with quiet(ray):
            spec = BackendSpec(adapter="any", model="any", limits=Limits(concurrency=in_flight))
            limiter, reader = start_timed(ray, {"any": Backend("any", "any", spec)}, store)
            before = ray.get([limiter.cpu_s.remote(), reader.cpu_s.remote()])
            pool = [ray.remote(_Worker).remote() for _ in range(workers)]
            # a process takes seconds to start
            ray.get([one.is_ready.remote() for one in pool])
            share, started = calls // workers, time.perf_counter()
            at_once = in_flight // workers + in_flight // 8
            works = [
                one.work.remote((limiter, reader), f"{place}", place, share, at_once) for place, one in enumerate(pool)
            ]
            spent_s = sum(ray.get(works))
            wall_s = time.perf_counter() - started
            after = ray.get([limiter.cpu_s.remote(), reader.cpu_s.remote()])
    finally:
        ray.shutdown()
    made = share * workers
    limiter_s, reader_s = ((late - early) / made for late, early in zip(after, before, strict=True))
    return Measured(made / wall_s, limiter_s, reader_s, spent_s / made)


def main() -> None:
    """Print."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder) / "store", *map(int, sys.argv[1:4]))
    sys.stdout.write(
        f"{found.calls_a_second:,.0f} calls/s; a call takes {found.limiter_s * 1000:.3f} ms of the limiter's process, "
        f"{found.reader_s * 1000:.3f} ms of the reader's and {found.worker_s * 1000:.3f} ms of its worker's\n"
    )


if __name__ == "__main__":
    main()
