"""A suite's results as a matrix: what each backend and method reached on each dataset, and the averages.

Only complete cells count in an average, which says how many they are. Does not know how cells are run or shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlac.errors import TlacError
from tlac.results.record import Run


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a matrix and how it ended. `is_reused` runs were there before. `suite` is None outside of suites."""

    suite: str | None
    dataset: str
    split: str
    backend: str
    method: str
    run: Run | None = None
    error: TlacError | None = None
    is_reused: bool = False

    @property
    def title(self) -> str:
        """The cell in words."""
        return f"{describe_part(self.dataset, self.split)} {self.backend} {self.method}".replace("  ", " ")

    @property
    def is_complete(self) -> bool:
        """Whether there is a result that counts."""
        return self.run is not None and self.run.record.is_complete


@dataclass(frozen=True, slots=True)
class Series:
    """One backend and method on one split: cells by dataset, and the mean top-1 accuracy of the complete ones."""

    backend: str
    method: str
    split: str
    cells: dict[str, Cell]
    mean: float | None
    complete: int
    total: int


@dataclass(frozen=True, slots=True)
class Harmonic:
    """One backend and method on both halves: the harmonic mean H of base and novel accuracy.

    `h` is that of the two means over the datasets that are complete in both halves, as CoCoOp
    (arXiv:2203.05557) averages it; `by_dataset` holds each dataset's own.
    """

    backend: str
    method: str
    base: float | None
    novel: float | None
    h: float | None
    by_dataset: dict[str, float]
    complete: int
    total: int


def describe_part(dataset: str, split: str) -> str:
    """A dataset and its split as results name them."""
    return dataset if split == "all" else f"{dataset} ({split})"


def series_of(cells: Iterable[Cell], datasets: Sequence[str]) -> list[Series]:
    """The cells of one suite by split, backend and method, in the order in which these first appear."""
    groups: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.split, cell.backend, cell.method), {})[cell.dataset] = cell
    return [
        Series(backend, method, split, found, _mean(_accuracies(found)), len(_accuracies(found)), len(datasets))
        for (split, backend, method), found in groups.items()
    ]


def harmonics_of(series: Sequence[Series]) -> list[Harmonic]:
    """H of every backend and method that has both halves."""
    halves = {(one.split, one.backend, one.method): one for one in series}
    return [
        _harmonic(base, halves[other])
        for base in series
        # "base/val" goes with "novel/val"
        if base.split.startswith("base")
        and (other := (base.split.replace("base", "novel", 1), base.backend, base.method)) in halves
    ]


def _harmonic(base: Series, novel: Series) -> Harmonic:
    ours, theirs = _accuracies(base.cells), _accuracies(novel.cells)
    both = [name for name in ours if name in theirs]
    means = [_mean({name: found[name] for name in both}) for found in (ours, theirs)]
    return Harmonic(
        base.backend,
        base.method,
        means[0],
        means[1],
        harmonic_mean(*means),
        {name: harmonic_mean(ours[name], theirs[name]) or 0.0 for name in both},
        len(both),
        base.total,
    )


def harmonic_mean(base: float | None, novel: float | None) -> float | None:
    """2 b n / (b + n); 0 where both are 0, None where one is not known."""
    if base is None or novel is None:
        return None
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def _accuracies(cells: dict[str, Cell]) -> dict[str, float]:
    found = {}
    for name, cell in cells.items():
        if cell.run is not None and cell.is_complete and cell.run.metrics.accuracy is not None:
            found[name] = cell.run.metrics.accuracy
    return found


def _mean(accuracies: dict[str, float]) -> float | None:
    return sum(accuracies.values()) / len(accuracies) if accuracies else None
