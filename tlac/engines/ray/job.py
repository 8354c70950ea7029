"""What every worker is told of a run, as a record that travels, and the names of the columns that it works on.

Does not know Ray.
"""

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
    """A dataset without its samples, which is all of it that a question needs."""

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
    """One run: its spec without samples, the classes in the order in which they are shown, the folder of the answer
    logs, and how many samples a worker has in hand at a time."""

    spec: RunConfig
    shown: tuple[int, ...]
    logs: Path
    concurrency: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def without_samples(spec: RunConfig) -> RunConfig:
    """The spec with a class list in its dataset's place."""
    found = spec.dataset
    listed = ClassList(found.name, found.split, found.protocol, found.prompt, tuple(found.classes))
    return replace(spec, dataset=listed)


def backends_of(spec: RunConfig) -> dict[str, Backend]:
    """All backends that a run asks, by their digests."""
    asked = (spec.backend, spec.stage2_backend, *spec.ensemble)
    return {backend.digest: backend for backend in asked if backend is not None}


def is_in_process(backend: Backend) -> bool:
    """Whether the backend is a model that a worker runs by itself: it has neither a key nor an address."""
    spec = backend.spec
    return spec.api_key_env is None and spec.api_base is None and spec.api_base_env is None


def shared_by(backend: Backend, workers: int) -> Backend:
    """The backend with the limits of the whole cluster: a model in the workers is there once for each."""
    if not is_in_process(backend):
        return backend
    limits = msgspec.structs.replace(backend.spec.limits, concurrency=backend.spec.limits.concurrency * workers)
    return replace(backend, spec=msgspec.structs.replace(backend.spec, limits=limits))
