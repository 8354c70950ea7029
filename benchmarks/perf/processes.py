"""Runs a command as a process of its own and measures it whole: wall time, processor time, peak memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished process. `peak_mb` is its largest resident set, in units of 10**6 bytes."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def pinned(command: Sequence[str], core: int) -> list[str]:
    """The command on one core alone, where the system has taskset and that core."""
    if shutil.which("taskset") is None or core not in os.sched_getaffinity(0):
        return list(command)
    return ["taskset", "-c", str(core), *command]


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Measured:
    """Run the command to its end. Raises RuntimeError with its stderr where it fails."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as complaints:
        given = {**os.environ, **(environment or {})}
        # else each process compiles every module anew, which an installed program does not
        given.pop("PYTHONDONTWRITEBYTECODE", None)
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - commands of this harness
            list(command), stdout=output, stderr=complaints, env=given, cwd=cwd
        )
        # wait4 and not RUSAGE_CHILDREN, which holds the largest of all processes so far
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        complaints.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{complaints.read()[-4000:]}")
        peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Measured(wall_s, usage.ru_utime + usage.ru_stime, peak_bytes / 1e6, output.read())
