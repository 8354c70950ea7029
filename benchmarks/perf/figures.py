"""The figures that the harness prints and writes: a name, medians, and a ratio taken in one run."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured line. `value` is the median of `runs`, `against` what it is held to, in the same unit."""

    group: str
    name: str
    unit: str
    value: float
    runs: tuple[float, ...] = ()
    against: float | None = None
    target: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over what it is held to."""
        return self.value / self.against if self.against else None


def median_figure(  # noqa: PLR0913, PLR0917 - one parameter per column
    group: str,
    name: str,
    unit: str,
    runs: Sequence[float],
    against: Sequence[float] = (),
    target: str = "",
    note: str = "",
) -> Figure:
    """A figure whose value is the median of its runs, held to the median of the runs `against`."""
    bound = statistics.median(against) if against else None
    return Figure(group, name, unit, statistics.median(runs), tuple(runs), bound, target, note)


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    rows = [("group", "what", "median", "unit", "against", "ratio", "target", "note")]
    for figure in figures:
        against = "" if figure.against is None else _short(figure.against)
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        row = (figure.group, figure.name, _short(figure.value), figure.unit, against, ratio, figure.target, figure.note)
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_json(path: Path, figures: Sequence[Figure]) -> None:
    """Machine and figures as one JSON document."""
    document = {"machine": machine(), "figures": [{**asdict(figure), "ratio": figure.ratio} for figure in figures]}
    path.write_text(json.dumps(document, indent=1) + "\n")
