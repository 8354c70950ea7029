"""What the tests of the Ray engine run: backends, datasets and a look at the processes below one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tests.support.emulated import backend_at
from tests.support.emulator import Emulator
from tests.support.fakes import make_png
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, load_encoder_config
from tlac.evaluation.run_config import RunConfig
from tlac.results.predictions import PREDICTIONS, encode_predictions, read_predictions
from tlac.results.record import Run
from tlac.types import Sample

WORKER = b"ray::MapWorker"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as the kernel lists them."""

_LISTENS, _IS_CONNECTED = "0A", "01"


def emulated_backend(emulator: Emulator, **limits: Any) -> Backend:
    backend = backend_at(emulator, "gpt-4o")
    changed = msgspec.structs.replace(backend.spec.limits, **limits)
    return replace(backend, spec=msgspec.structs.replace(backend.spec, limits=changed))


def spec_of(backend: Backend, dataset: Any, method: str) -> RunConfig:
    encoder = load_encoder_config("minilm")
    return RunConfig(backend, backend, dataset, method, encoder, load_prompts("default"), "ladder")


class ImageFolder:
    """So many small images in a folder of this machine."""

    name, split, protocol, prompt = "little-pictures", "all", "ours", "default"
    classes = ("red car", "old car", "red apple", "green pear")

    def __init__(self, folder: Path, size: int) -> None:
        self._paths = [folder / f"{number:05d}.png" for number in range(size)]
        folder.mkdir()
        for number, path in enumerate(self._paths):
            path.write_bytes(make_png(number))

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Sample]:
        for number, path in enumerate(self._paths):
            yield Sample(path.name, path, number % len(self.classes))


def written(run: Run) -> bytes:
    """The predictions of a run as JSON Lines, whether its folder holds these or shards."""
    path = run.folder / PREDICTIONS
    return path.read_bytes() if path.exists() else b"".join(encode_predictions(read_predictions(path)))


def wait_for(is_met: Callable[[], object], timeout_s: float = 90.0) -> None:
    ends = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


def workers_below(ancestor: int) -> list[int]:
    """The processes of Ray's pools that descend from a process."""
    return [process for process, command in processes_below(ancestor).items() if command.startswith(WORKER)]


def processes_below(ancestor: int) -> dict[int, bytes]:
    """The processes that descend from a process, and how they are called."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes()

    def descends(process: int) -> bool:
        while process in parents and process != ancestor:
            process = parents[process]
        return process == ancestor

    return {process: command for process, command in commands.items() if process != ancestor and descends(process)}


def addresses_listened_at(processes: Iterable[int]) -> set[str]:
    """The addresses at which any of these processes lets others connect, in the kernel's hexadecimal."""
    return {here.partition(":")[0] for here, _ in _sockets_of(processes, _LISTENS)}


def is_connected(process: int, port: int) -> bool:
    """Whether the process has a connection to that port."""
    return any(there.endswith(f":{port:04X}") for _, there in _sockets_of([process], _IS_CONNECTED))


def _sockets_of(processes: Iterable[int], state: str) -> Iterator[tuple[str, str]]:
    """The ends of the processes' TCP sockets in a state, here and there."""
    sockets = set()
    for process in processes:
        with suppress(OSError):
            sockets |= {str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == state and f"socket:[{columns[9]}]" in sockets:
                yield columns[1], columns[2]
