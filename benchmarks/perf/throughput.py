"""Calls a second against a server of set latency: bare aiohttp, litellm whole and in parts, inspect_ai, tlac in turn.

The rate is taken at the server, from the first request to the last answer. The server has a core of its own where
there are two, the clients have the other.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from benchmarks.perf.figures import Figure
from benchmarks.perf.processes import measure, pinned

_CLIENTS = ("aiohttp", "bodies", "litellm", "tlac", "tlac2")
_NAMES = {
    "aiohttp": "bare aiohttp",
    "bodies": "aiohttp and litellm's transformations",
    "litellm": "litellm in a semaphore",
    "tlac": "tlac, slac",
    "tlac2": "tlac, both stages",
    "inspect": "inspect_ai",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A latency, the calls in flight, how many images, and the share of the bound that is wanted."""

    latency_s: float
    concurrency: int
    images: int
    target: str


def throughput(setting: Setting, repeats: int, peer: Path | None) -> Iterator[Figure]:
    """Each client's rate over the bound; `peer` is the interpreter that has inspect_ai, where there is one."""
    kinds = [*_CLIENTS, *(["inspect"] if peer else [])]
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu_ms: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder, serving(setting.latency_s) as address:
        write_images(Path(folder), setting.images)
        for _ in range(repeats):
            for kind in kinds:
                cpu_s = _ask(kind, address, folder, setting, peer)
                seen = window(address)
                rates[kind].append(seen.count / seen.seconds)
                cpu_ms[kind].append(1000 * cpu_s / seen.count)
    bound = setting.concurrency / setting.latency_s
    group = f"{setting.latency_s:g} s, {setting.concurrency} in flight"
    for kind in kinds:
        note = f"{statistics.median(cpu_ms[kind]):.2f} ms CPU a call"
        target = setting.target if kind.startswith("tlac") else ""
        rate = statistics.median(rates[kind])
        yield Figure(group, _NAMES[kind], "calls/s", rate, tuple(rates[kind]), bound, target, note)
    yield _own_cost(group, cpu_ms)


def _own_cost(group: str, cpu_ms: dict[str, list[float]]) -> Figure:
    # pairwise: both were taken one after the other
    own = [ours - plain for ours, plain in zip(cpu_ms["tlac"], cpu_ms["bodies"], strict=True)]
    name = "tlac's CPU on top of the transformations"
    return Figure(group, name, "ms/call", statistics.median(own), tuple(own), None, "<= 0.4 ms")


def _ask(kind: str, address: str, folder: str, setting: Setting, peer: Path | None) -> float:
    given = [address, folder, str(setting.concurrency)]
    if kind == "inspect":
        command = [str(peer), str(Path(__file__).with_name("inspect_client.py")), *given]
    else:
        command = [sys.executable, "-m", "benchmarks.perf.clients", kind, *given]
    return float(measure(pinned(command, 0)).output.split()[-1])


def write_images(folder: Path, count: int) -> None:
    """So many JPEGs of 76 kB, each different."""
    buffer = io.BytesIO()
    PIL.Image.effect_noise((400, 300), 60).convert("RGB").save(buffer, "JPEG", quality=85)
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(buffer.getvalue() + number.to_bytes(4, "big"))


@contextmanager
def serving(latency_s: float) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    command: Sequence[str] = pinned([sys.executable, "-m", "benchmarks.perf.server", str(latency_s)], 1)
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))  # noqa: S603
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.communicate()


@dataclass(frozen=True, slots=True)
class Window:
    """The calls since the last look: how many, from the first to the last answer, and when the first came, by the
    clock of time.perf_counter."""

    count: int
    seconds: float
    first: float


def window(address: str) -> Window:
    """What came since the last look."""
    with urllib.request.urlopen(f"{address}/window") as response:  # noqa: S310 - our own server
        return Window(**json.load(response))
