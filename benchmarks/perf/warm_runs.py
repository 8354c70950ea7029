"""Start, warm runs and re-scoring: whole processes that ask nobody."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.perf.figures import Figure, median_figure
from benchmarks.perf.processes import Measured, measure
from benchmarks.perf.throughput import serving, window, write_images
from benchmarks.perf.workload import Warm, warm_in

_BARE = Path(__file__).with_name("bare_rescore.py")
_TLAC = (sys.executable, "-m", "tlac")


def starting(repeats: int) -> Iterator[Figure]:
    """The time until help is shown, and of a warm run of 20 samples."""
    helps = [measure([*_TLAC, "--help"]).wall_s for _ in range(repeats)]
    bare = [measure([sys.executable, "-c", "pass"]).wall_s for _ in range(repeats)]
    yield median_figure("start", "tlac --help", "s", helps, against=bare, target="<= 0.15 s")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        warm = _make(folder, "repeating", 20, 10)
        runs = [measure([*_TLAC, *warm.bench, "--out", str(folder / "runs")]).wall_s for _ in range(repeats)]
    yield median_figure("start", "warm bench of 20 samples", "s", runs, target="<= 0.6 s")
    yield from _first_call(repeats)


def _first_call(repeats: int) -> Iterator[Figure]:
    """From the start of a process to the first live call, against litellm's import alone, in turn."""
    load = [sys.executable, "-c", "from tlac.runtime.litellm_setup import load_litellm; load_litellm()"]
    imports, calls, wholes, peaks = [], [], [], []
    with tempfile.TemporaryDirectory() as parent, serving(0.0) as address:
        folder = Path(parent)
        write_images(folder, repeats)
        environment = {"OPENAI_COMPATIBLE_API_BASE": f"{address}/v1", "TLAC_CACHE_DIR": str(folder / "store")}
        for image in sorted(folder.glob("*.jpg")):
            imports.append(measure(load).wall_s)
            asked = ["classify", str(image), "--classes", "class 0, class 1", "--backend", "openai-compatible"]
            started = time.perf_counter()
            whole = measure([*_TLAC, *asked, "--encoder", "minilm"], environment)
            wholes.append(whole.wall_s)
            peaks.append(whole.peak_mb)
            calls.append(window(address).first - started)
    yield median_figure("start", "litellm's import alone", "s", imports)
    yield median_figure("start", "first live call leaves", "s", calls, against=imports, target="<= import + 0.3 s")
    yield median_figure(
        "start", "classify, as a whole", "s", wholes, against=imports, target="<= import + 1 s", note="with minilm"
    )
    yield median_figure("start", "classify, peak memory", "MB", peaks, target="<= 400 MB", note="with minilm")


def rescoring(samples: int, repeats: int) -> Iterator[Figure]:
    """Warm benches and re-scorings of `samples` answers x 1000 classes, against the bare script in the same run."""
    for kind in ("distinct", "repeating"):
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent)
            warm = _make(folder, kind, samples, 1000)
            yield from _measure_warm(kind, samples, warm, folder, repeats)


def _make(folder: Path, kind: str, samples: int, classes: int) -> Warm:
    # a process of its own: one that is started by a large process counts as no smaller than that
    measure([sys.executable, "-m", "benchmarks.perf.workload", str(folder), kind, str(samples), str(classes)])
    return warm_in(folder)


def _measure_warm(kind: str, samples: int, warm: Warm, folder: Path, repeats: int) -> Iterator[Figure]:
    bench = [*_TLAC, *warm.bench, "--out", str(folder / "runs")]
    first = measure(bench)
    run = next((folder / "runs").iterdir())
    score = [*_TLAC, "score", str(run), "--store", str(warm.store), "--out", str(folder / "scored"), "--json"]
    bare = [sys.executable, str(_BARE), str(warm.store), str(warm.vectors), str(warm.class_vectors)]
    benches, scores, bares = [], [], []
    for _ in range(repeats):
        # in turn, so that a busy machine is busy for all
        benches.append(measure(bench))
        scores.append(measure(score))
        bares.append(measure(bare))
    imported = measure([sys.executable, "-c", _IMPORTS, *score[3:]]).output.splitlines()[-1]
    group = f"{samples:,} {kind} answers"
    target = "<= 2x bare" if kind == "distinct" else "<= 1.5x bare"
    yield median_figure(group, "re-score, wall", "s", _walls(scores), against=_walls(bares), target=target)
    yield median_figure(group, "re-score, CPU", "s", _cpus(scores), against=_cpus(bares), note=imported)
    peaks, bare_peaks = ([one.peak_mb for one in measured] for measured in (scores, bares))
    yield median_figure(group, "re-score, peak memory", "MB", peaks, against=bare_peaks, target="<= 400 MB")
    note = "against the first, which reads"
    yield median_figure(group, "bench, images known, CPU", "s", _cpus(benches), against=[first.cpu_s], note=note)


# what a re-scoring imports, told by the process itself
_IMPORTS = """
import sys
from tlac.cli import cli
cli.main(sys.argv[1:], standalone_mode=False)
heavy = [name for name in ("torch", "open_clip", "litellm", "transformers") if name in sys.modules]
print("imports " + (", ".join(heavy) or "no torch, no litellm"))
"""


def _walls(measured: list[Measured]) -> list[float]:
    return [one.wall_s for one in measured]


def _cpus(measured: list[Measured]) -> list[float]:
    return [one.cpu_s for one in measured]


def encoding(texts: int, repeats: int) -> Iterator[Figure]:
    """Texts encoded through the store, cold, against the bare encoder in the same process."""
    command = [sys.executable, "-m", "benchmarks.perf.cold_encoding", str(texts), str(repeats)]
    for line in measure(command).output.splitlines():
        name, ours, bare = line.split("\t")
        yield Figure("cold encoding", name, "texts/s", float(ours), against=float(bare), target=">= 0.95")


def storing(rows: int) -> Iterator[Figure]:
    """Rows written and vectors read, against sqlite and numpy alone in the same process."""
    for line in measure([sys.executable, "-m", "benchmarks.perf.store", str(rows)]).output.splitlines():
        name, unit, ours, bare = line.split("\t")
        yield Figure("store", name, unit, float(ours), against=float(bare))


def streaming(sizes: Sequence[int]) -> Iterator[Figure]:
    """Memory and time of one run over ever more samples, answers stored."""
    for samples in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.perf.memory"]
            measure([*command, "prepare", folder, str(samples)])
            _, cpu_s, peak_mb = map(float, measure([*command, "run", folder, str(samples)]).output.split())
        group = f"{samples:,} samples"
        yield Figure(group, "CPU a sample", "us", 1e6 * cpu_s / samples, target="<= 40 us")
        yield Figure(group, "peak above the start", "MB", peak_mb, target="<= 600 MB")
