"""What travels between driver and workers: a run, and errors; and where and by what a worker asks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tlac import errors
from tlac.config.registry import open_encoder
from tlac.config.schemas import Backend, EncoderConfig
from tlac.errors import ConfigError, InputError, RateLimitError, TlacError, UnknownNameError
from tlac.evaluation.run_config import ClassList, RunConfig
from tlac.interfaces import TextEncoder
from tlac.lmms.middleware.policy import CallPolicy
from tlac.runtime.redaction import redact
from tlac.types import Encoding

SHARD = "shard"
"""The column with files of samples, or of choices: a worker is given one file at a time."""

MOST_DEATHS = 3
"""So many deaths of a worker without anything gained are no accident."""


@dataclass(frozen=True, slots=True)
class RayJob:
    """One run: its config without samples, the folder of the answer logs, how many samples a worker has in hand at a
    time, and the backends' `addresses` by their digests."""

    config: RunConfig
    logs: Path
    concurrency: int
    policy: CallPolicy = field(default_factory=CallPolicy)
    addresses: Mapping[str, str | None] = field(default_factory=dict)


def without_samples(config: RunConfig) -> RunConfig:
    """The config with a class list in its dataset's place."""
    whole = config.dataset
    listed = ClassList(tuple(whole.classes), whole.prompt, whole.name, whole.split, whole.protocol)
    return replace(config, dataset=listed)


def backends_of(config: RunConfig) -> dict[str, Backend]:
    """All backends that a run asks, by their digests."""
    asked = (config.backend, config.stage2_backend, *config.ensemble)
    return {backend.digest: backend for backend in asked if backend is not None}


def address_of(backend: Backend) -> str | None:
    """Where a backend is asked from this process; None for its provider's own address.

    Raises ConfigError for an address that holds a password: it would be sent to the workers.
    """
    variable = backend.spec.api_base_env
    address = (os.environ.get(variable or "") or "").strip() or backend.spec.api_base
    if address and urlsplit(address).username is not None:
        raise ConfigError(f"{variable or backend.source}: the address holds a user name or password; leave them out")
    return address


def at_address(backend: Backend, address: str | None) -> Backend:
    """The backend as a worker asks it: at the driver's address, whatever the worker's environment says.

    Raises ConfigError where the environment names another one: it may be meant.
    """
    variable = backend.spec.api_base_env
    if variable and address_of(backend) != address and os.environ.get(variable):
        raise ConfigError(
            f"{variable} is {os.environ[variable]} there and {address or 'not set'} where the command runs: set both "
            "alike, or the worker's not at all"
        )
    return replace(backend, spec=msgspec.structs.replace(backend.spec, api_base=address, api_base_env=None))


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


class WorkersEncoder:
    """A text encoder that is opened for the first text, which most methods don't have, and has to be the driver's."""

    def __init__(self, config: EncoderConfig, fingerprint: str) -> None:
        self._config, self.fingerprint = config, fingerprint
        self._opened: TextEncoder | None = None

    def encode(self, texts: Sequence[str]) -> Encoding:
        """See `TextEncoder.encode`. Raises ConfigError where it is another one than the driver's."""
        if self._opened is None:
            opened = open_encoder(self._config)
            if opened.fingerprint != self.fingerprint:
                raise ConfigError(
                    f"the text encoder {self._config.name} is another one on a worker of the cluster: "
                    "install the same weights and versions there"
                )
            self._opened = opened
        return self._opened.encode(texts)


# Errors travel as records: Ray would wrap an exception, and lose its class.
_KINDS: dict[str, type[TlacError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    # it is made of other things than a text: a UsageError does
    if isinstance(kind, type) and issubclass(kind, TlacError) and kind is not UnknownNameError
}


class SerializedError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error: the name of its class, and its text without secrets. `is_input` says that a file caused it."""

    kind: str
    text: str
    retry_after_s: float | None = None
    is_input: bool = False

    def to_error(self) -> TlacError:
        """The error again; one of an unknown class is a TlacError."""
        if self.kind == RateLimitError.__name__:
            return RateLimitError(self.text, self.retry_after_s)
        error = _KINDS.get(self.kind, TlacError)(self.text)
        if self.is_input:
            error.__cause__ = InputError(self.text)
        return error


def serialize_error(error: TlacError) -> SerializedError:
    """The record of an error; one of a class that other modules define counts as its nearest base here."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    retry_after_s = error.retry_after_s if isinstance(error, RateLimitError) else None
    return SerializedError(kind, redact(str(error)), retry_after_s, isinstance(error.__cause__, InputError))
