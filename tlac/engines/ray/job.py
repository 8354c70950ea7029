"""What every worker is told of a run, as a record that travels, and the columns of the tables that it works on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from tlac.config.schemas import Backend
from tlac.evaluation.run_config import ClassList, RunConfig
from tlac.lmms.middleware.retry import RetryPolicy

SHARD = "shard"
"""The column with the files of samples: a worker is given one file at a time."""

GROUP = "group"
"""The column by which rows come together for stage 2: rows with one key lie in one batch."""


@dataclass(frozen=True, slots=True)
class RayJob:
    """One run: its config without samples, the folder of the answer logs, and
    how many samples a worker has in hand at a time."""

    config: RunConfig
    logs: Path
    concurrency: int
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names as they are listed."""
        return tuple(self.config.dataset.classes[index] for index in self.config.class_order)


def without_samples(config: RunConfig) -> RunConfig:
    """The config with a class list in its dataset's place."""
    whole = config.dataset
    listed = ClassList(tuple(whole.classes), whole.prompt, whole.name, whole.split, whole.protocol)
    return replace(config, dataset=listed)


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
