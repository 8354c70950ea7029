"""Suites, the datasets that are reported together, and the figures that others published for them.

Does not know datasets, backends or runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from tlac.config.files import Resource, find, read_yaml, shipped_root
from tlac.config.schemas import parse
from tlac.errors import ConfigError

PUBLISHED = "benchmarks/published.yaml"


class SuiteSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A suite file: its datasets in order, and what is run on them unless the command says otherwise."""

    datasets: tuple[str, ...]
    description: str = ""
    split: str = "all"
    methods: tuple[str, ...] = ("tlac",)


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite: its name, the file it came from and what that file says."""

    name: str
    source: str
    spec: SuiteSpec


class FigureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Published accuracies of one method, in percent. `mean` is the published average over `mean_over` datasets.

    `digitised` figures were read off a chart, to about `error` points.
    """

    method: str
    suite: str
    split: str
    source: str
    mean: float | None = None
    mean_over: int | None = None
    by_dataset: dict[str, float] = {}
    digitised: bool = False
    error: float | None = None
    error_by_dataset: dict[str, float] = {}


class GainSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Published differences of a method over others, in points."""

    method: str
    suite: str
    split: str
    source: str
    over: str
    by_dataset: dict[str, float] = {}


class _PublishedSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    description: str
    sources: dict[str, str]
    figures: tuple[FigureSpec, ...]
    gains: tuple[GainSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication says of one method on a suite: shares in [0, 1], `mean` over `mean_over` datasets.

    `is_digitised` figures were read off a chart, with an error of about `error` (a share), or of `error_by_dataset`.
    """

    method: str
    source: str
    mean: float | None
    mean_over: int | None
    by_dataset: dict[str, float] = field(default_factory=dict)
    is_digitised: bool = False
    error: float | None = None
    error_by_dataset: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gain:
    """What a publication says that one method gains `over` others: differences of shares, in [-1, 1]."""

    method: str
    over: str
    source: str
    by_dataset: dict[str, float]


def load_suite(name: str) -> Suite:
    """A suite by name or by the path of its YAML file. Raises UnknownNameError, ConfigError."""
    resource = find("suite", name)
    spec = parse(SuiteSpec, resource)
    if not spec.datasets or not spec.methods:
        raise ConfigError(f"{resource.source}: 'datasets' and 'methods' must each name at least one")
    return Suite(resource.name, resource.source, spec)


def load_published(suite: str, split: str) -> tuple[Published, ...]:
    """What was published for a suite and split, in the file's order. Raises ConfigError for a broken file."""
    spec = _read_published()
    return tuple(
        Published(
            method=figure.method,
            source=spec.sources[figure.source],
            mean=_share(figure.mean),
            mean_over=figure.mean_over,
            by_dataset={name: value / 100 for name, value in figure.by_dataset.items()},
            is_digitised=figure.digitised,
            error=_share(figure.error),
            error_by_dataset={name: value / 100 for name, value in figure.error_by_dataset.items()},
        )
        for figure in spec.figures
        if (figure.suite, figure.split) == (suite, split)
    )


def load_gains(suite: str, split: str) -> tuple[Gain, ...]:
    """The differences that were published for a suite and split. Raises ConfigError for a broken file."""
    spec = _read_published()
    return tuple(
        Gain(
            gain.method,
            gain.over,
            spec.sources[gain.source],
            {name: points / 100 for name, points in gain.by_dataset.items()},
        )
        for gain in spec.gains
        if (gain.suite, gain.split) == (suite, split)
    )


def _read_published() -> _PublishedSpec:
    path = shipped_root() / PUBLISHED
    return parse(_PublishedSpec, Resource("published", str(path), read_yaml(path)))


def _share(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
