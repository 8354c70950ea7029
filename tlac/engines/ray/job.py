"""What every worker is told of a run, as a record that travels, and the columns of the tables that it works on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tlac.config.schemas import Backend
from tlac.evaluation.run_config import RunConfig
from tlac.lmms.middleware.retry import RetryPolicy
from tlac.types import Sample

SHARD = "shard"
"""The column with the files of samples: a worker is given one file at a time."""

GROUP = "group"
"""The column by which rows come together for stage 2: rows with one key lie in one batch."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """A dataset without its samples: all of it that a question needs."""

    name: str
    split: str
    protocol: str
    prompt: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Sample]:
        return iter(())


@dataclass(frozen=True, slots=True)
class RayJob:
    """One run: its config without samples, the order in which classes are listed, the folder of the answer logs, and
    how many samples a worker has in hand at a time."""

    config: RunConfig
    class_order: tuple[int, ...]
    logs: Path
    concurrency: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names as they are listed."""
        return tuple(self.config.dataset.classes[index] for index in self.class_order)


def without_samples(config: RunConfig) -> RunConfig:
    """The config with a class list in its dataset's place."""
    whole = config.dataset
    return replace(
        config, dataset=ClassList(whole.name, whole.split, whole.protocol, whole.prompt, tuple(whole.classes))
    )


def backends_of(config: RunConfig) -> dict[str, Backend]:
    """All backends that a run asks, by their digests."""
    asked = (config.backend, config.stage2_backend, *config.ensemble)
    return {backend.digest: backend for backend in asked if backend is not None}


def is_in_process(backend: Backend) -> bool:
    """Whether the backend is a model that a worker runs by itself: it has neither a key nor an address."""
    spec = backend.spec
    return spec.api_key_env is None and spec.api_base is None and spec.api_base_env is None


def scale_limits(backend: Backend, workers: int) -> Backend:
    """The backend with the limits of the whole cluster: a model in the workers is there once for each."""
    if not is_in_process(backend):
        return backend
    limits = msgspec.structs.replace(backend.spec.limits, concurrency=backend.spec.limits.concurrency * workers)
    return replace(backend, spec=msgspec.structs.replace(backend.spec, limits=limits))
