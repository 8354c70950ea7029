"""One run over synthetic samples whose answers are all stored, in a process of its own.

    python -m benchmarks.perf.memory prepare|run STORE SAMPLES

Running prints wall and CPU seconds, and the peak of memory in MB above what the process had when everything was
imported. The samples are a few bytes each and are made as they are asked for; the answers repeat as real ones do.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.perf.workload import (
    BACKEND,
    PROMPTS,
    class_names,
    fill_embeddings,
    fill_store,
    made_up,
    repeating_answers,
)
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_backend, load_encoder_config
from tlac.datasets.base import ListedDataset
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner


def _samples(count: int) -> ListedDataset:
    return made_up(count, class_names(1000), lambda number: (f"{number:07d}", number.to_bytes(8, "big")))


def prepare(folder: Path, count: int) -> None:
    """Fill the store in a process of its own: what that takes is not to be counted."""
    classes = class_names(1000)
    answers = repeating_answers(count, classes)
    with Store(folder) as store:
        fill_embeddings(store, dict.fromkeys([*classes, *answers]))
        fill_store(store, _samples(count), answers, classes)


def run(folder: Path, count: int) -> None:
    """Run, and print what it took."""
    backend = load_backend(BACKEND)
    prompts, encoder = load_prompts(PROMPTS), load_encoder_config("clip-vit-b-16")
    spec = RunConfig(backend, backend, _samples(count), "slac", encoder, prompts, "ladder")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Store(folder) as store, tempfile.TemporaryDirectory() as out:
        started, cpu = time.perf_counter(), time.process_time()
        metrics = Runner(store, is_offline=True).run(spec, Path(out)).metrics
        took = time.perf_counter() - started, time.process_time() - cpu
    if metrics.n != count or metrics.failed:
        raise RuntimeError(f"{metrics.n} samples, {metrics.failed} failed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(f"{took[0]}\t{took[1]}\t{(peak - before) * 1024 / 1e6}\n")


if __name__ == "__main__":
    (prepare if sys.argv[1] == "prepare" else run)(Path(sys.argv[2]), int(sys.argv[3]))
