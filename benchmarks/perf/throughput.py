"""Calls a second against a server of set latency: bare aiohttp, litellm, inspect_ai and tlac, in turn.

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

_CLIENTS = ("aiohttp", "litellm", "tlac", "tlac2")
_NAMES = {
    "aiohttp": "bare aiohttp",
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
    with tempfile.TemporaryDirectory() as folder, _serving(setting.latency_s) as address:
        _write_images(Path(folder), setting.images)
        for _ in range(repeats):
            for kind in kinds:
                cpu_s = _ask(kind, address, folder, setting, peer)
                count, seconds = _window(address)
                rates[kind].append(count / seconds)
                cpu_ms[kind].append(1000 * cpu_s / count)
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
    own = [ours - plain for ours, plain in zip(cpu_ms["tlac"], cpu_ms["litellm"], strict=True)]
    return Figure(
        group, "tlac's CPU on top of litellm", "ms/call", statistics.median(own), tuple(own), None, "<= 0.5 ms"
    )


def _ask(kind: str, address: str, folder: str, setting: Setting, peer: Path | None) -> float:
    given = [address, folder, str(setting.concurrency)]
    if kind == "inspect":
        command = [str(peer), str(Path(__file__).with_name("inspect_client.py")), *given]
    else:
        command = [sys.executable, "-m", "benchmarks.perf.clients", kind, *given]
    return float(measure(pinned(command, 0)).output.split()[-1])


def _write_images(folder: Path, count: int) -> None:
    buffer = io.BytesIO()
    PIL.Image.effect_noise((400, 300), 60).convert("RGB").save(buffer, "JPEG", quality=85)
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(buffer.getvalue() + number.to_bytes(4, "big"))


@contextmanager
def _serving(latency_s: float) -> Iterator[str]:
    command: Sequence[str] = pinned([sys.executable, "-m", "benchmarks.perf.server", str(latency_s)], 1)
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))  # noqa: S603
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.communicate()


def _window(address: str) -> tuple[int, float]:
    with urllib.request.urlopen(f"{address}/window") as response:  # noqa: S310 - our own server
        seen = json.load(response)
    return seen["count"], seen["seconds"]
