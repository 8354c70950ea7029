"""Ranks runs: each against those on the same samples of the same dataset, the incomplete ones after all others.

And by accuracy against cost: the Pareto frontier of runs, and which of them fits a budget.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlac.analysis.compare import compare
from tlac.errors import UsageError
from tlac.results.folder import read_runs
from tlac.results.record import Run


def rank_runs(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The leaderboard, one row a run: by dataset, split, protocol and drawn samples, then by falling accuracy.

    `rank` counts from 1 among complete runs on the same samples, equal accuracies sharing one; it is None for an
    incomplete run and for one without labels. Shares lie in [0, 1]. Nothing that was not measured has a number. `drawn`
    says which samples of the dataset, and of which of its versions where there are several.
    """
    groups = _by_samples(runs)
    drawn = describe_samples([group[0] for group in groups])
    return [row for group, samples in zip(groups, drawn, strict=True) for row in _rank(group, samples)]


def describe_samples(runs: Sequence[Run]) -> list[str]:
    """Which samples of its dataset each run is on; and of which version, where two would look alike."""
    alike = Counter(_samples_of(run)[:-1] for run in runs)
    versions = [f", version {run.record.digests.get('dataset', '')[:6] or 'unknown'}" for run in runs]
    return [
        _drawn(run) + (version if alike[_samples_of(run)[:-1]] > 1 else "")
        for run, version in zip(runs, versions, strict=True)
    ]


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


def _by_samples(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs that can be ranked against each other, group by group."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_samples_of(run), []).append(run)
    return [group for _, group in sorted(groups.items())]


def _samples_of(run: Run) -> tuple[str, ...]:
    record, is_part = run.record, str(run.record.limit is not None)
    return record.dataset, record.split, record.protocol, is_part, _drawn(run), record.digests.get("dataset", "")


def cost_per_correct_usd(run: Run) -> float | None:
    """The cost of all answers of a run for each correct one; None where a price is not known or none is correct."""
    correct, cost_usd = sum(one.correct for one in run.metrics.per_class), run.record.answers_cost_usd
    return cost_usd / correct if cost_usd is not None and correct else None


def _rank(runs: Sequence[Run], drawn: str) -> list[dict[str, Any]]:
    ordered = sorted(runs, key=lambda run: (not _is_ranked(run), -(run.metrics.accuracy or 0.0), run.record.run))
    accuracies = [run.metrics.accuracy for run in ordered if _is_ranked(run)]
    ranks = [accuracies.index(run.metrics.accuracy) + 1 if _is_ranked(run) else None for run in ordered]
    return [_row(run, rank, drawn) for run, rank in zip(ordered, ranks, strict=True)]


def _is_ranked(run: Run) -> bool:
    return run.record.is_complete and run.metrics.accuracy is not None


def _drawn(run: Run) -> str:
    """Which samples of the dataset: all of them, or how many with which seed."""
    record = run.record
    return "all" if record.limit is None else f"{run.metrics.n}, seed {record.seed}"


def _row(run: Run, rank: int | None, drawn: str) -> dict[str, Any]:
    record, metrics = run.record, run.metrics
    named = ("dataset", "split", "protocol", "backend", "method", "matching", "encoder")
    detailed = ("template", "prompts", "stage2_backend", "shuffle_classes", "abstain_below")
    measured = ("n", "accuracy", "accuracy_ci95", "mean_per_class", "coverage")
    return {
        "rank": rank,
        **{name: getattr(record, name) for name in named},
        **{name: getattr(metrics, name) for name in measured},
        "cost_per_correct_usd": cost_per_correct_usd(run),
        "is_complete": record.is_complete,
        **{name: getattr(record, name) for name in detailed},
        "drawn": drawn,
        "run": record.run,
        "folder": str(run.folder),
    }


@dataclass(frozen=True, slots=True)
class Point:
    """A complete, labelled run on the frontier's plane: its accuracy, and USD for 1,000 images.

    The cost is that of all its answers whenever they were asked, over its images; None where a price is not
    known. `is_dominated` says that another run is as accurate for less, or more accurate for as much.
    """

    run: Run
    cost_per_1000_usd: float | None
    is_dominated: bool = False

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.run.metrics.accuracy or 0.0

    @property
    def name(self) -> str:
        """Who was asked how."""
        record = self.run.record
        return f"{record.backend} {record.method}"


def find_frontiers(runs: Iterable[Run]) -> list[list[Point]]:
    """The points of complete, labelled runs, for each set of samples by itself, by rising cost.

    Of runs with the same settings the latest counts. Points without a known cost come last and dominate none.
    """
    dated = sorted(filter(_is_ranked, runs), key=lambda run: run.record.created_at)
    latest = ({_settings_of(run): run for run in group}.values() for group in _by_samples(dated))
    return [sorted(mark_dominated(group), key=_order) for group in latest]


def _settings_of(run: Run) -> tuple[object, ...]:
    record = run.record
    asked = (record.backend, record.stage2_backend, record.method, record.prompts, record.shuffle_classes)
    scored = (record.matching, record.encoder, record.template, record.abstain_below)
    return (*asked, *scored, tuple(sorted(record.digests.items())))


def mark_dominated(runs: Iterable[Run]) -> list[Point]:
    """The points of labelled runs on the same samples, in their order."""
    costs = [(run, run.record.answers_cost_usd) for run in runs]
    points = [Point(run, None if cost is None else 1000 * cost / run.metrics.n) for run, cost in costs]
    return [replace(point, is_dominated=any(_dominates(other, point) for other in points)) for point in points]


def _order(point: Point) -> tuple[bool, float, float, str]:
    cost = point.cost_per_1000_usd
    return cost is None, cost or 0.0, -point.accuracy, point.run.record.run


def _dominates(one: Point, other: Point) -> bool:
    if one.cost_per_1000_usd is None or other.cost_per_1000_usd is None:
        return False
    is_as_good = one.accuracy >= other.accuracy and one.cost_per_1000_usd <= other.cost_per_1000_usd
    return is_as_good and (one.accuracy, one.cost_per_1000_usd) != (other.accuracy, other.cost_per_1000_usd)


def recommend(points: Sequence[Point], budget_usd: float, images: int) -> tuple[Point, tuple[Point, ...], Point | None]:
    """What to run on `images` images with `budget_usd`: the most accurate point that it pays for.

    Then the less dear points whose lower accuracy may be chance (the 95 % interval of the paired difference holds 0),
    cheapest first; and the cheapest more accurate one beyond the budget. Points without a known cost are left out.
    Raises UsageError where no point has a known cost, or the budget pays for none.
    """
    priced = [
        (point, point.cost_per_1000_usd * images / 1000) for point in points if point.cost_per_1000_usd is not None
    ]
    if not priced:
        raise UsageError("no run has a known cost: give the backends' prices in their YAML files")
    affordable = [(point, cost) for point, cost in priced if cost <= budget_usd]
    if not affordable:
        point, cost = min(priced, key=lambda pair: pair[1])
        raise UsageError(
            f"${budget_usd:,.2f} does not pay for {images:,} images with any of these runs; "
            f"the cheapest, {point.name}, takes ${cost:,.2f}"
        )
    chosen, cost = max(affordable, key=lambda pair: (pair[0].accuracy, -pair[1]))
    cheaper = [point for point, price in affordable if price < cost and not point.is_dominated]
    dearer = [(price, point) for point, price in priced if price > budget_usd and point.accuracy > chosen.accuracy]
    next_better = min(dearer, key=lambda pair: (pair[0], -pair[1].accuracy))[1] if dearer else None
    return chosen, tuple(point for point in cheaper if _may_be_chance(chosen, point)), next_better


def _may_be_chance(better: Point, other: Point) -> bool:
    return compare([better.run, other.run])[0].difference.low <= 0
