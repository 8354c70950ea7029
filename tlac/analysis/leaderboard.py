"""Ranks runs: each against those on the same samples of the same dataset, the incomplete ones after all others.

Does not know how runs are made or shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlac.analysis.statistics import cost_per_correct
from tlac.results.record import Run


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the leaderboard. `rank` counts from 1 among complete runs on the same samples, equal accuracies
    sharing one; None for an incomplete run and for one without labels. Shares lie in [0, 1]."""

    rank: int | None
    dataset: str
    split: str
    protocol: str
    backend: str
    method: str
    matching: str
    encoder: str
    n: int
    accuracy: float | None
    accuracy_ci95: tuple[float, float] | None
    mean_per_class: float | None
    coverage: float | None
    cost_per_correct_usd: float | None
    is_complete: bool
    drawn: str
    run: str


def rank_runs(runs: Iterable[Run]) -> list[Entry]:
    """The runs by dataset, split, protocol and drawn samples, and within these by falling accuracy."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(samples_of(run), []).append(run)
    ordered = sorted(groups.items(), key=lambda group: tuple(map(str, group[0])))
    return [entry for _, group in ordered for entry in _rank(group)]


def samples_of(run: Run) -> tuple[object, ...]:
    """What two runs must have in common to be ranked against each other."""
    record = run.record
    is_part = record.limit is not None
    return (record.dataset, record.split, record.protocol, is_part, _drawn(run), record.digests.get("dataset", ""))


def _rank(runs: Sequence[Run]) -> list[Entry]:
    ordered = sorted(runs, key=_order)
    accuracies = [run.metrics.accuracy for run in ordered if run.record.is_complete]
    return [_entry(run, accuracies.index(run.metrics.accuracy) + 1 if _is_ranked(run) else None) for run in ordered]


def _order(run: Run) -> tuple[bool, float, str]:
    return not _is_ranked(run), -(run.metrics.accuracy or 0.0), run.record.run


def _is_ranked(run: Run) -> bool:
    return run.record.is_complete and run.metrics.accuracy is not None


def _drawn(run: Run) -> str:
    """Which samples of the dataset: all of them, or how many with which seed."""
    record = run.record
    return "all" if record.limit is None else f"{run.metrics.n}, seed {record.seed}"


def _entry(run: Run, rank: int | None) -> Entry:
    record, metrics = run.record, run.metrics
    correct = sum(one.correct for one in metrics.per_class)
    return Entry(
        rank=rank,
        dataset=record.dataset,
        split=record.split,
        protocol=record.protocol,
        backend=record.backend,
        method=record.method,
        matching=record.matching,
        encoder=record.encoder,
        n=metrics.n,
        accuracy=metrics.accuracy,
        accuracy_ci95=metrics.accuracy_ci95,
        mean_per_class=metrics.mean_per_class,
        coverage=metrics.coverage,
        cost_per_correct_usd=cost_per_correct(record.answers_cost_usd, correct),
        is_complete=record.is_complete,
        drawn=_drawn(run),
        run=record.run,
    )
