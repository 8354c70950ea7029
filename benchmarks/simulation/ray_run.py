"""Measures a run of `--engine ray` against the emulator of the tests, and simulates the same run.

Takes a minute, and needs Ray.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.perf.workload import specks
from benchmarks.simulation.model import Cluster, Compared, Service, simulate
from tests.support.emulator import Asked, Reply, running_emulator
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, load_backend, load_encoder_config
from tlac.engines.ray.engine import RayEngine
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.policy import CallPolicy

# the emulator answers a handful at a time
SERVICE, CALLS, WORKERS = Service(0.4, 0.3, 4, requests_a_minute=540), 240, 4
# of no account; workers find it in their environment
_KEY = {"OPENAI_API_KEY": "sk-planted-planted-planted-planted-01"}


def compare_cluster(service: Service = SERVICE, calls: int = CALLS, workers: int = WORKERS) -> Compared:
    """Run once on a Ray that starts here, and once in the model; how long the middle half of the calls takes.

    Before that workers start, each holding a place while it imports what it needs: that is not in the model.
    """
    latencies = iter(np.random.default_rng(0).lognormal(np.log(service.median_s), service.sigma, calls).tolist())
    lock, ends = threading.Lock(), []

    def answer(_asked: Asked) -> Reply:
        with lock:
            latency_s = next(latencies)
        time.sleep(latency_s)
        ends.append(time.perf_counter())
        return Reply("red car")

    os.environ.update(_KEY)
    with tempfile.TemporaryDirectory() as folder, running_emulator(answer) as emulator:
        backend = _backend(service, emulator.base("openai"))
        prompts = load_prompts("default")
        dataset = specks(calls, ("red car", "old car", "red apple"))
        spec = RunConfig(backend, backend, dataset, "slac", load_encoder_config("minilm"), prompts, "ladder")
        with Store(Path(folder) / "store") as store:
            Runner(store, engine=RayEngine(store, CallPolicy(), None, workers)).run(spec, Path(folder))
    ends.sort()
    quarter = calls // 4
    middle = calls - 2 * quarter
    predicted = simulate(service, Cluster(workers), calls, 0.0).calls_a_second
    return Compared(service, middle, ends[calls - quarter - 1] - ends[quarter - 1], middle / predicted)


def _backend(service: Service, address: str) -> Backend:
    backend = load_backend("gpt-4o")
    a_minute = None if service.requests_a_minute is None else int(service.requests_a_minute)
    limits = msgspec.structs.replace(
        backend.spec.limits, concurrency=service.in_flight, requests_per_minute=a_minute, tokens_per_minute=None
    )
    return replace(backend, spec=msgspec.structs.replace(backend.spec, api_base=address, limits=limits))
