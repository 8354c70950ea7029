"""A suite's results as a matrix: what each backend and method reached on each dataset, and the averages.

Only complete cells count in an average, which says how many they are. Does not know how cells are run or shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tlac.results.record import Cell


def series_of(cells: Iterable[Cell], datasets: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of one suite by split, backend and method, in the order in which these first appear.

    A row is as `--json` prints it: its cells `by_dataset`, and the `mean` top-1 accuracy in [0, 1] of those `complete`.
    """
    groups: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.backend, cell.method, cell.split), {})[cell.dataset] = cell
    rows = []
    for (backend, method, split), found in groups.items():
        by_dataset = {name: _describe(cell) for name, cell in found.items()}
        accuracies = _accuracies(by_dataset)
        rows.append(
            {
                "backend": backend,
                "method": method,
                "split": split,
                "published": False,
                "mean": _mean(accuracies),
                "complete": len(accuracies),
                "total": len(datasets),
                "by_dataset": by_dataset,
            }
        )
    return rows


def _describe(cell: Cell) -> dict[str, Any]:
    return {
        "accuracy": cell.run.metrics.accuracy if cell.run else None,
        "is_complete": cell.is_complete,
        "reused": cell.is_reused,
        "run": str(cell.run.folder) if cell.run else None,
        "error": str(cell.error) if cell.error else None,
    }


def harmonics_of(series: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """H, the harmonic mean of base and novel accuracy, of every backend and method that has both halves.

    A row is as `--json` prints it: `h` is that of the two means over the datasets that are complete in both halves, as
    CoCoOp (arXiv:2203.05557) averages it; `by_dataset` holds each dataset's own.
    """
    halves = {(one["split"], one["backend"], one["method"]): one for one in series}
    return [
        _harmonic(base, halves[other])
        for base in series
        # "base/val" goes with "novel/val"
        if base["split"].startswith("base")
        and (other := (base["split"].replace("base", "novel", 1), base["backend"], base["method"])) in halves
    ]


def _harmonic(base: dict[str, Any], novel: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = _accuracies(base["by_dataset"]), _accuracies(novel["by_dataset"])
    both = [name for name in ours if name in theirs]
    means = [_mean({name: found[name] for name in both}) for found in (ours, theirs)]
    return {
        "backend": base["backend"],
        "method": base["method"],
        "base": means[0],
        "novel": means[1],
        "h": harmonic_mean(*means),
        "by_dataset": {name: harmonic_mean(ours[name], theirs[name]) or 0.0 for name in both},
        "complete": len(both),
        "total": base["total"],
    }


def harmonic_mean(base: float | None, novel: float | None) -> float | None:
    """2 b n / (b + n); 0 where both are 0, None where one is not known."""
    if base is None or novel is None:
        return None
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def _accuracies(by_dataset: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The accuracies that count: those of complete cells."""
    return {
        name: cell["accuracy"]
        for name, cell in by_dataset.items()
        if cell["is_complete"] and cell["accuracy"] is not None
    }


def _mean(accuracies: dict[str, float]) -> float | None:
    return sum(accuracies.values()) / len(accuracies) if accuracies else None
