"""Opens adapters by name through entry points; ours are declared there like anybody's.

    tlac.lmms      called with a Backend, gives an LMM
    tlac.encoders  called with an EncoderConfig, gives a TextEncoder
    tlac.datasets  called with a DatasetConfig, gives a Dataset
    tlac.methods   called with nothing, gives a Method or an ImageMethod
    tlac.image_encoders  called with an EncoderConfig, gives an ImageEncoder
    tlac.batch_interfaces  called with a Backend, gives a BatchInterface; named as the provider's models begin
    tlac.loggers   called with nothing, gives a function that is called with each finished Run

Does not know any adapter, and imports one only when it is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias

from tlac.config.destinations import check_destination
from tlac.config.schemas import Backend, DatasetConfig, EncoderConfig, load_encoder_config
from tlac.errors import ConfigError, UnknownNameError, UsageError
from tlac.interfaces import LMM, BatchInterface, Dataset, ImageEncoder, TextEncoder

Group: TypeAlias = Literal[
    "tlac.lmms",
    "tlac.encoders",
    "tlac.image_encoders",
    "tlac.datasets",
    "tlac.methods",
    "tlac.batch_interfaces",
    "tlac.loggers",
]
_NOUNS: dict[Group, str] = {
    "tlac.lmms": "adapter",
    "tlac.encoders": "encoder adapter",
    "tlac.image_encoders": "image encoder adapter",
    "tlac.datasets": "dataset loader",
    "tlac.methods": "method",
    "tlac.batch_interfaces": "batch interface",
    "tlac.loggers": "experiment tracker",
}


@cache
def _entry_points(group: Group) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def list_plugins(group: Group) -> list[str]:
    """The names in an entry-point group, sorted."""
    return sorted(_entry_points(group))


def load_plugin(group: Group, name: str) -> Any:
    """What the entry point of that name points to.

    Raises UnknownNameError, or ConfigError where the plug-in's own imports fail.
    """
    points = _entry_points(group)
    if name not in points:
        raise UnknownNameError(_NOUNS[group], name, points)
    try:
        return points[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{_NOUNS[group]} {name!r} ({points[name].value}) can't be loaded: {error}") from error


def open_lmm(backend: Backend) -> LMM:
    """The LMM that a backend file describes. Raises ConfigError where a key or package is missing."""
    check_destination(backend)
    lmm: LMM = load_plugin("tlac.lmms", backend.spec.adapter)(backend)
    return lmm


def open_batch_interface(backend: Backend) -> BatchInterface:
    """The batch interface of a backend's provider.

    Raises UsageError where it has none, ConfigError where a key or package is missing.
    """
    check_destination(backend)
    opened: BatchInterface = _batch_plugin(backend)(backend)
    return opened


def batch_discount(backend: Backend) -> float:
    """The share of the live price that a batch of this backend saves, in [0, 1]. Needs no key.

    Raises UsageError where its provider has no batch interface.
    """
    discount: float = _batch_plugin(backend).discount
    return discount


def _batch_plugin(backend: Backend) -> Any:
    provider = backend.spec.model.partition("/")[0]
    known = list_plugins("tlac.batch_interfaces")
    # a server of one's own speaks a provider's format, but not its batch interface
    is_own_server = bool(backend.spec.options.get("key_optional"))
    if backend.spec.adapter != "litellm" or provider not in known or is_own_server:
        raise UsageError(
            f"backend {backend.name!r} has no batch interface: --batch asks models of {', '.join(known)}, "
            "such as --backend gpt-4o; leave --batch out"
        )
    return load_plugin("tlac.batch_interfaces", provider)


def open_encoder(encoder: str | EncoderConfig) -> TextEncoder:
    """The text encoder of that name or description. Weights are loaded at the first encode."""
    config = load_encoder_config(encoder) if isinstance(encoder, str) else encoder
    check_destination(config)
    opened: TextEncoder = load_plugin("tlac.encoders", config.spec.adapter)(config)
    return opened


def open_image_encoder(config: EncoderConfig, method: str = "clip") -> ImageEncoder:
    """The image side of that text encoder, for a method. Raises UsageError where it has none."""
    adapters = list_plugins("tlac.image_encoders")
    if config.spec.adapter not in adapters:
        raise UsageError(
            f"encoder {config.name!r} encodes texts alone: the method {method} needs one whose adapter is "
            f"{' or '.join(adapters)}, such as --encoder clip-vit-b-16"
        )
    opened: ImageEncoder = load_plugin("tlac.image_encoders", config.spec.adapter)(config)
    return opened


def open_dataset(config: DatasetConfig) -> Dataset:
    """The dataset that a description stands for. Raises InputError where its files can't be used."""
    dataset: Dataset = load_plugin("tlac.datasets", config.spec.loader)(config)
    return dataset
