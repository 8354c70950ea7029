"""Measures runs against a server on this machine that answers after a set time, and simulates the same runs.

Asks with tlac's own limiter over bare HTTP, so that what is held against the model are places, spacing and latency.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import aiohttp
import numpy as np
from aiohttp import web

from benchmarks.simulation.model import Cluster, Compared, Service, simulate
from tlac.config.schemas import Limits
from tlac.lmms.middleware.policy import CallPolicy
from tlac.lmms.middleware.rate_limit import LimitedLMM
from tlac.types import LMMRequest, LMMResponse, Outcome

TOLERANCE = 0.25
_QUESTION = LMMRequest("stage1", "any", ())
_LIGHT = Cluster(workers=1, cpu_s=0.002, limiter_s=0.0)
CASES = (
    # bound by places, by the rate limit, and near both
    (Service(0.3, 0.5, 16), 320),
    (Service(0.1, 0.5, 16, requests_a_minute=2400), 200),
    (Service(0.2, 0.3, 8, requests_a_minute=2400), 200),
)


class _Asker:
    """An LMM that posts to a server."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session = session
        self._address = address

    async def ask(self, _request: LMMRequest) -> LMMResponse:
        async with self._session.post(self._address, json={}) as response:
            await response.read()
        return LMMResponse(Outcome.ANSWERED, "a dog")


async def compare(service: Service, calls: int, seed: int = 0) -> Compared:
    """Run once against a server here, and once in the model."""
    latencies = np.random.default_rng(seed).lognormal(np.log(service.median_s), service.sigma, calls)
    left: Iterator[float] = iter(latencies.tolist())

    async def answer(_request: web.Request) -> web.Response:
        await asyncio.sleep(next(left))
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    a_minute = None if service.requests_a_minute is None else int(service.requests_a_minute)
    limits = Limits(concurrency=service.in_flight, requests_per_minute=a_minute)
    try:
        async with aiohttp.ClientSession() as session:
            lmm = LimitedLMM(_Asker(session, address), limits, CallPolicy())
            started = time.perf_counter()
            await asyncio.gather(*(lmm.ask(_QUESTION) for _ in range(calls)))
            measured_s = time.perf_counter() - started
    finally:
        await runner.cleanup()
    return Compared(service, calls, measured_s, simulate(service, _LIGHT, calls, 0.0, seed).wall_s)


def check_lines() -> Iterator[str]:
    """Each case in words. Raises SystemExit where the model is further off than TOLERANCE."""
    # here, not above: it needs Ray, and this module
    from benchmarks.simulation.ray_run import WORKERS, compare_cluster

    found = [asyncio.run(compare(service, calls)) for service, calls in CASES]
    found.append(compare_cluster())
    for one in found:
        limit = f", {one.service.requests_a_minute:g} a minute" if one.service.requests_a_minute else ""
        yield (
            f"{one.calls} calls, {one.service.in_flight} in flight{limit}: measured {one.measured_s:.2f} s, "
            f"predicted {one.predicted_s:.2f} s ({one.deviation:+.0%})"
        )
    yield f"the last is the middle half of a run with --engine ray and {WORKERS} workers, against the emulator"
    if any(abs(one.deviation) > TOLERANCE for one in found):
        raise SystemExit(f"the model is off by more than {TOLERANCE:.0%}")
