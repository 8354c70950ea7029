"""`python -m benchmarks.perf`: measure, print one table, write JSON. Takes half an hour; --only takes less."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.perf.figures import Figure, table, write_json
from benchmarks.perf.saved_calls import saved_calls
from benchmarks.perf.throughput import Setting, throughput
from benchmarks.perf.warm_runs import encoding, rescoring, starting, storing, streaming

_SLOW = Setting(1.0, 64, 640, ">= 0.97")
_FAST = Setting(0.2, 64, 1280, ">= 0.97")
# more than one process bears: shows where it ends
_MANY = Setting(0.2, 512, 5120, "")


def main() -> None:
    """Parse the arguments and run the parts that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--inspect-python", type=Path, help="interpreter of an environment that has inspect_ai")
    parser.add_argument("--answers", type=Path, help="imagenet100.jsonl, real answers")
    parser.add_argument(
        "--only", nargs="+", default=[], help="start, calls, slow, fast, many, encoding, store, rescoring, streaming"
    )
    parser.add_argument("--json", type=Path, default=Path("perf.json"))
    given = parser.parse_args()
    peer = given.inspect_python
    if peer is None:
        sys.stderr.write("no --inspect-python: inspect_ai is not measured\n")
    parts: dict[str, Callable[[], Iterable[Figure]]] = {
        "start": lambda: starting(given.repeats),
        "calls": lambda: _apart(given.answers, given.samples),
        "slow": lambda: throughput(_SLOW, given.repeats, peer),
        "fast": lambda: throughput(_FAST, given.repeats, peer),
        "many": lambda: throughput(_MANY, given.repeats, peer),
        "encoding": lambda: encoding(2_000, given.repeats),
        "store": lambda: storing(given.samples),
        "rescoring": lambda: rescoring(given.samples, given.repeats),
        "streaming": lambda: streaming(given.sizes),
    }
    if unknown := sorted(set(given.only) - set(parts)):
        parser.error(f"--only {unknown[0]}: known are {', '.join(parts)}")
    figures: list[Figure] = []
    for name in given.only or parts:
        sys.stderr.write(f"{name} ...\n")
        figures += parts[name]()
        # written after each part: a later one may fail
        write_json(given.json, figures)
    sys.stdout.write(table(figures) + "\n")


def _apart(answers: Path | None, samples: int) -> list[Figure]:
    """`saved_calls` in a process of its own: what this one holds counts as the peak of each that it starts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(saved_calls, answers, samples).result()


if __name__ == "__main__":
    main()
