"""Simulates how long calls take, event by event: places, rate limits, the limiter, the workers' processors, latency.

Asks nobody and waits for nothing. The same seed gives the same figures.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Service:
    """Who is asked: seconds a call takes (lognormal: the median, and the spread of its logarithm), what may be in
    flight, and what may be started a minute."""

    median_s: float
    sigma: float
    in_flight: int
    requests_a_minute: float | None = None
    tokens_a_minute: float | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Who asks: `cpu_s` is a worker's processor time for each call, `limiter_s` that of the limiter.

    The figures are measured: see docs/scale.md.
    """

    workers: int
    cpu_s: float = 0.0012
    limiter_s: float = 0.0001


@dataclass(frozen=True, slots=True)
class Simulated:
    """Seconds from the first call to the last answer, and calls a second in the steady part."""

    wall_s: float
    calls_a_second: float


def simulate(service: Service, cluster: Cluster, calls: int, tokens_a_call: float, seed: int = 0) -> Simulated:
    """Ask so many times.

    A call waits for a place among those in flight, for the limiter's attention, for its turn under the rate limits,
    and for its worker's processor; then its latency passes, and its place is free for the next.
    """
    latencies = np.random.default_rng(seed).lognormal(np.log(service.median_s), service.sigma, calls)
    spacing_s = _spacing_s(service, tokens_a_call)
    places = [0.0] * service.in_flight
    processors = [0.0] * cluster.workers
    limiter = next_start = 0.0
    ends = np.empty(calls)
    for number, latency_s in enumerate(latencies):
        limiter = max(limiter, heapq.heappop(places)) + cluster.limiter_s
        start = max(limiter, next_start)
        next_start = start + spacing_s
        worker = number % cluster.workers
        processors[worker] = max(processors[worker], start) + cluster.cpu_s
        ends[number] = processors[worker] + latency_s
        heapq.heappush(places, ends[number])
    ends.sort()
    quarter = calls // 4
    steady = (calls - 2 * quarter) / (ends[calls - quarter - 1] - ends[quarter - 1]) if quarter else calls / ends[-1]
    return Simulated(float(ends[-1]), float(steady))


def _spacing_s(service: Service, tokens_a_call: float) -> float:
    by_requests = 60.0 / service.requests_a_minute if service.requests_a_minute else 0.0
    by_tokens = 60.0 * tokens_a_call / service.tokens_a_minute if service.tokens_a_minute else 0.0
    return max(by_requests, by_tokens)


def bounds(service: Service, cluster: Cluster, tokens_a_call: float) -> dict[str, float]:
    """The calls a second that each part allows by itself; the least of them breaks first."""
    spacing_s = _spacing_s(service, tokens_a_call)
    mean_s = service.median_s * float(np.exp(service.sigma**2 / 2))
    return {
        "rate limits": 1 / spacing_s if spacing_s else float("inf"),
        "calls in flight": service.in_flight / (mean_s + cluster.cpu_s + cluster.limiter_s),
        "workers": cluster.workers / cluster.cpu_s if cluster.cpu_s else float("inf"),
        "limiter": 1 / cluster.limiter_s if cluster.limiter_s else float("inf"),
    }


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds that a run took, and those that the model had said."""

    service: Service
    calls: int
    measured_s: float
    predicted_s: float

    @property
    def deviation(self) -> float:
        """How much longer the run took, as a share of what the model had said."""
        return self.measured_s / self.predicted_s - 1
