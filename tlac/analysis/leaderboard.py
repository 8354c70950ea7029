"""Ranks runs: each against those on the same samples of the same dataset, the incomplete ones after all others."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tlac.results.folder import read_runs
from tlac.results.record import Run


def rank_runs(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The leaderboard, one row a run: by dataset, split, protocol and drawn samples, then by falling accuracy.

    `rank` counts from 1 among complete runs on the same samples, equal accuracies sharing one; it is None for an
    incomplete run and for one without labels. Shares lie in [0, 1]. Nothing that was not measured has a number.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(samples_of(run), []).append(run)
    ordered = sorted(groups.items(), key=lambda group: tuple(map(str, group[0])))
    return [row for _, group in ordered for row in _rank(group)]


def load_runs(folder: str | Path = "runs") -> Any:
    """The leaderboard of the runs in a folder and below it, as a pandas DataFrame.

    >>> tlac.load_runs("runs").query("rank == 1")[["dataset", "backend", "accuracy"]]  # doctest: +SKIP

    `accuracy_low` and `accuracy_high` bound the 95 % interval; `tlac.load_run(row.folder)` reads the run of a row.
    Warns of a run that can't be read. Raises InputError without such a folder.
    """
    import pandas

    runs = read_runs([Path(folder)], lambda problem: warnings.warn(problem, stacklevel=4))
    found = pandas.DataFrame(flatten(rank_runs(runs)))
    return found.astype({"rank": "Int64"}) if len(found) else found


def flatten(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the leaderboard without nested cells: an interval becomes its two ends."""
    flat = []
    for entry in entries:
        low, high = entry["accuracy_ci95"] or (None, None)
        rest = {name: value for name, value in entry.items() if name != "accuracy_ci95"}
        flat.append({"accuracy_low": low, "accuracy_high": high, **rest})
    return flat


def samples_of(run: Run) -> tuple[object, ...]:
    """What two runs must have in common to be ranked against each other."""
    record = run.record
    is_part = record.limit is not None
    return (record.dataset, record.split, record.protocol, is_part, _drawn(run), record.digests.get("dataset", ""))


def cost_per_correct_usd(run: Run) -> float | None:
    """The cost of all answers of a run for each correct one; None where a price is not known or none is correct."""
    correct, cost_usd = sum(one.correct for one in run.metrics.per_class), run.record.answers_cost_usd
    return cost_usd / correct if cost_usd is not None and correct else None


def _rank(runs: Sequence[Run]) -> list[dict[str, Any]]:
    ordered = sorted(runs, key=lambda run: (not _is_ranked(run), -(run.metrics.accuracy or 0.0), run.record.run))
    accuracies = [run.metrics.accuracy for run in ordered if _is_ranked(run)]
    return [_row(run, accuracies.index(run.metrics.accuracy) + 1 if _is_ranked(run) else None) for run in ordered]


def _is_ranked(run: Run) -> bool:
    return run.record.is_complete and run.metrics.accuracy is not None


def _drawn(run: Run) -> str:
    """Which samples of the dataset: all of them, or how many with which seed."""
    record = run.record
    return "all" if record.limit is None else f"{run.metrics.n}, seed {record.seed}"


def _row(run: Run, rank: int | None) -> dict[str, Any]:
    record, metrics = run.record, run.metrics
    named = ("dataset", "split", "protocol", "backend", "method", "matching", "encoder")
    detailed = ("template", "prompts", "stage2_backend", "shuffle_classes")
    measured = ("n", "accuracy", "accuracy_ci95", "mean_per_class", "coverage")
    return {
        "rank": rank,
        **{name: getattr(record, name) for name in named},
        **{name: getattr(metrics, name) for name in measured},
        "cost_per_correct_usd": cost_per_correct_usd(run),
        "is_complete": record.is_complete,
        **{name: getattr(record, name) for name in detailed},
        "drawn": _drawn(run),
        "run": record.run,
        "folder": str(run.folder),
    }
