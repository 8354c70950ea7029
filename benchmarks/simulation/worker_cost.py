"""Measures what a call costs the processes of `--engine ray`: workers on a Ray of this machine ask a server about JPEGs
of 76 kB, one stage.

python -m benchmarks.simulation.worker_cost [CALLS] [WORKERS] [IN_FLIGHT]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import structs

from benchmarks.perf.throughput import serving, window, write_images
from benchmarks.perf.workload import made_up
from benchmarks.simulation.limiter_cost import Measured, start_timed
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_backend, load_encoder_config
from tlac.engines.ray.job import SHARD, RayJob, address_of, without_samples
from tlac.engines.ray.session import connect, quiet
from tlac.engines.ray.tables import write_samples
from tlac.engines.ray.workers import Stage1Worker
from tlac.evaluation.run_config import RunConfig
from tlac.types import Outcome

CALLS, WORKERS, IN_FLIGHT = 4000, 2, 512
_LATENCY_S = 0.2


class _TimedWorker(Stage1Worker):
    """A worker that tells the processor time of its process."""

    def cpu_s(self) -> float:
        return time.process_time()


def measure(folder: Path, calls: int = CALLS, workers: int = WORKERS, in_flight: int = IN_FLIGHT) -> Measured:
    """Have each worker ask about one shard, so that what it opens is open, and then about so many JPEGs in all."""
    images, logs = folder / "images", folder / "logs"
    for made in (images, logs):
        made.mkdir()
    write_images(images, calls + workers)
    with serving(_LATENCY_S) as address:
        os.environ["OPENAI_COMPATIBLE_API_BASE"] = f"{address}/v1"
        shipped = load_backend("openai-compatible")
        limits = structs.replace(shipped.spec.limits, concurrency=in_flight)
        backend = replace(shipped, spec=structs.replace(shipped.spec, limits=limits))
        files = [(path.name, path) for path in sorted(images.iterdir())]
        dataset, encoder = made_up(len(files), ("a dog", "a cat"), files.__getitem__), load_encoder_config("minilm")
        config = RunConfig(backend, backend, dataset, "slac", encoder, load_prompts("name"), "ladder")
        samples = list(config.samples)
        first = [write_samples([one], folder / f"first{place}", 1, 1) for place, one in enumerate(samples[:workers])]
        shards = write_samples(samples[workers:], folder / "samples", calls, workers)
        job = RayJob(without_samples(config), logs, in_flight, addresses={backend.digest: address_of(backend)})
        ray = connect(None, workers + 1)
        try:
            with quiet(ray):
                actors = start_timed(ray, {backend.digest: backend}, folder / "store")
                pool = [ray.remote(_TimedWorker).remote(job, *actors) for _ in range(workers)]
                ray.get([_ask(worker, files) for worker, files in zip(pool, first, strict=True)])
                window(address)
                before = ray.get([actor.cpu_s.remote() for actor in (*actors, *pool)])
                tables = ray.get([_ask(pool[place % workers], [shard]) for place, shard in enumerate(shards)])
                after = ray.get([actor.cpu_s.remote() for actor in (*actors, *pool)])
                seen = window(address)
        finally:
            ray.shutdown()
    answered = sum(table["outcome"].to_pylist().count(Outcome.ANSWERED.value) for table in tables)
    if answered != calls:
        raise SystemExit(f"only {answered:,} of {calls:,} calls were answered")
    limiter_s, reader_s, *spent_s = ((late - early) / calls for late, early in zip(after, before, strict=True))
    return Measured(seen.count / seen.seconds, limiter_s, reader_s, sum(spent_s))


def _ask(worker: Any, files: list[Path]) -> Any:
    import pyarrow as pa

    return worker.__call__.remote(pa.table({SHARD: [str(file) for file in files]}))


def main() -> None:
    """Print."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), *map(int, sys.argv[1:4]))
    sys.stdout.write(
        f"{found.calls_a_second:,.0f} calls/s; a call takes {found.worker_s * 1000:.2f} ms of its worker's process, "
        f"{found.limiter_s * 1000:.3f} ms of the limiter's and {found.reader_s * 1000:.3f} ms of the reader's\n"
    )


if __name__ == "__main__":
    main()
