"""Opens adapters by name through entry points; ours are declared there like anybody's.

    tlac.lmms      called with a Backend, gives an LMM
    tlac.encoders  called with an EncoderConfig, gives a TextEncoder
    tlac.datasets  called with a DatasetConfig, gives a Dataset
    tlac.methods   called with its options, gives a Method or an ImageMethod
    tlac.image_encoders  called with an EncoderConfig, gives an ImageEncoder
    tlac.batch_interfaces  called with a Backend, gives a BatchInterface; named as the provider's models begin
    tlac.loggers   called with nothing, gives a function that is called with each finished Run

A method and its options are one text: "tlac-shortlist", or "tlac-shortlist:k=40". A method's options are the fields of
its dataclass that hold a number, a word, or true or false.

An adapter is imported only when it is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Literal, TypeAlias

from tlac.config.destinations import check_destination
from tlac.config.schemas import Backend, DatasetConfig, EncoderConfig, load_encoder_config
from tlac.errors import ConfigError, UnknownNameError, UsageError
from tlac.interfaces import LMM, BatchInterface, Dataset, ImageEncoder, ImageMethod, Method, TextEncoder

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
    return {point.name: point for point in _entry_point_finder()(group=group)}


@cache
def _entry_point_finder() -> Callable[..., EntryPoints]:
    # a file of each package that is installed: read once, not for each group
    return entry_points().select


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


_FLAGS = {"true": True, "false": False}
_READERS: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _FLAGS.__getitem__}


def base_name(text: str) -> str:
    """The method's name without its options."""
    return text.partition(":")[0]


def open_method(text: str) -> Method | ImageMethod:
    """The method that the text names, with its options set.

    Raises UnknownNameError for a method or an option that there is not, UsageError for a value of the wrong kind.
    """
    name, _, given = text.partition(":")
    made = load_plugin("tlac.methods", name)
    options = method_options(made)
    chosen: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in options:
            raise UnknownNameError(f"option of the method {name}", key, options)
        if key in chosen:
            raise UsageError(f"--method {text}: {key} is given twice")
        chosen[key] = _read(f"--method {text}: {key}", value, options[key])
    method: Method | ImageMethod = made(**chosen)
    return method


def method_options(made: Any) -> dict[str, Any]:
    """The options of a method's class and their defaults."""
    if not dataclasses.is_dataclass(made):
        return {}
    # what all methods have in common comes behind a method's own
    fields = sorted(dataclasses.fields(made), key=lambda field: bool(field.kw_only))
    return {field.name: field.default for field in fields if field.name != "name" and type(field.default) in _READERS}


def with_option(text: str, key: str, value: float | str) -> str:
    """The method with one more option where it has that option and does not set it itself, else as it is."""
    name, _, given = text.partition(":")
    has_own = any(part.partition("=")[0].strip() == key for part in given.split(","))
    if has_own or key not in method_options(load_plugin("tlac.methods", name)):
        return text
    written = value if isinstance(value, str) else f"{value:g}"
    return f"{name}:{','.join(filter(None, (given, f'{key}={written}')))}"


def _read(place: str, value: str, default: Any) -> Any:
    try:
        read = _READERS[type(default)](value)
    except KeyError as error:
        raise UsageError(f"{place}: {value!r} is neither true nor false") from error
    except ValueError as error:
        raise UsageError(f"{place}: {value!r} is not a number; its default is {default}") from error
    # every number that our methods take counts or bounds something
    if not isinstance(read, str) and not 0 <= read < float("inf"):
        raise UsageError(f"{place}: {value} must be 0 or more")
    # a count that is 1 or more by default is of what the method can't do without
    if type(default) is int and default and not read:
        raise UsageError(f"{place}: {value} must be 1 or more")
    return read
