"""One whole run with `--engine ray` on this machine, over synthetic samples: time, the driver's memory, and disk.

    python -m benchmarks.simulation.whole_run [SAMPLES] [WORKERS] [FOLDER]

An LMM inside the workers answers after a tenth of a second; its answers repeat as real ones do (benchmarks/perf's
workload). All else is as it is: images that are opened and hashed, keys, limiter, logs, store, stage 2, predictions.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.perf.workload import specks
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, BackendSpec, Limits, load_encoder_config
from tlac.engines.ray.engine import RayEngine
from tlac.evaluation.run_config import RunConfig, RunResult
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.policy import CallPolicy
from tlac.types import LMMRequest, LMMResponse, Outcome, Usage

SAMPLES, WORKERS = 20_000, 2
_CLASSES = tuple(f"thing{number:04d}" for number in range(1000))
# 54 of 100 answers are the class name, the others one of two phrases about it
_PHRASES = ("thing{}", "number {} of its kind", "{} as it is seen from its side")
_LATENCY_S, _IN_FLIGHT = 0.1, 256


class SyntheticLMM:
    """Says what is in a synthetic image, and which class a phrase means. Opened by its entry point, as any adapter."""

    def __init__(self, _backend: Backend) -> None:
        pass

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """An answer that depends on the request alone."""
        await asyncio.sleep(_LATENCY_S)
        if request.choice is not None:
            meant = "thing" + re.sub(r"\D", "", request.choice.answer)
            index = request.choice.classes.index(meant)
            return LMMResponse(Outcome.ANSWERED, f'{{"class_index": "{index}"}}', usage=Usage(4266, 8))
        drawn = int(request.images[0].sha256[:12], 16)
        phrase = _PHRASES[0 if drawn % 100 < 54 else 1 + drawn % 2]
        number = f"{drawn // 100 % len(_CLASSES):04d}"
        return LMMResponse(Outcome.ANSWERED, phrase.format(number), usage=Usage(282, 8))


class _Watched(RayEngine):
    """An engine that notes when it is done."""

    fetched_at = 0.0
    fetched_rss = 0

    def score(self, config: RunConfig) -> RunResult | None:
        self.fetched_at, self.fetched_rss = time.perf_counter(), _peak_bytes()
        return super().score(config)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _telling_memory(every_s: float = 20.0) -> Iterator[None]:
    """Print this process's memory now and then."""
    is_over, started = threading.Event(), time.perf_counter()

    def tell() -> None:
        while not is_over.wait(every_s):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            _say(f"{time.perf_counter() - started:6.0f} s: {pages * os.sysconf('SC_PAGE_SIZE') / 1e6:,.0f} MB")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        is_over.set()
        teller.join()


def _install_adapter(folder: Path) -> None:
    """Give this process and the workers the adapter, as a package's metadata would."""
    metadata = folder / "synthetic_lmm-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: synthetic-lmm\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[tlac.lmms]\nsynthetic = benchmarks.simulation.whole_run:SyntheticLMM\n", encoding="utf-8"
    )
    sys.path.append(str(folder))
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, str(folder), os.environ.get("PYTHONPATH", "")])


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(samples: int, workers: int, folder: Path) -> None:
    """Run, and print what it took."""
    _install_adapter(folder / "plug-in")
    spec = BackendSpec(adapter="synthetic", model="synthetic", limits=Limits(concurrency=_IN_FLIGHT))
    backend = Backend("synthetic", "synthetic.yaml", spec)
    config = RunConfig(
        *(backend, backend, specks(samples, _CLASSES), "tlac", load_encoder_config("minilm")),
        *(load_prompts("name"), "ladder"),
    )
    with Store(folder / "store") as store:
        policy = CallPolicy(on_message=_say)
        engine = _Watched(store, policy, None, workers)
        before, started = _peak_bytes(), time.perf_counter()
        with _telling_memory():
            found = Runner(store, policy=policy, engine=engine).run(config, folder / "runs")
        ended = time.perf_counter()
    asked_s, rest_s = engine.fetched_at - started, ended - engine.fetched_at
    _say(
        f"{samples:,} samples, {workers} workers, {found.record.calls.stage1.asked:,} + "
        f"{found.record.calls.stage2.asked:,} calls, {found.metrics.failed} failed"
    )
    _say(f"asked and stored: {asked_s:,.1f} s ({asked_s / samples * 1e6:,.0f} us a sample)")
    _say(f"scored and written: {rest_s:,.1f} s ({rest_s / samples * 1e6:,.0f} us a sample)")
    _say(
        f"driver's memory: {before / 1e6:,.0f} MB before, {engine.fetched_rss / 1e6:,.0f} MB at most until all was "
        f"stored, {_peak_bytes() / 1e6:,.0f} MB at most to the end"
    )
    for part in ("store/responses", "store/attached", "store/cluster", "runs"):
        size = _size_bytes(folder / part)
        _say(f"{part}: {size / 1e6:,.1f} MB ({size / samples:,.0f} bytes a sample)")


def main() -> None:
    """Run in a folder that is given, or in one that is removed."""
    samples, workers = (
        int(given or usual) for given, usual in zip([*sys.argv[1:3], "", ""], (SAMPLES, WORKERS), strict=False)
    )
    if len(sys.argv) > 3:
        run(samples, workers, Path(sys.argv[3]))
        return
    with tempfile.TemporaryDirectory() as folder:
        run(samples, workers, Path(folder))


if __name__ == "__main__":
    main()
