"""A method by its name and options in one text: "tlac-shortlist", or "tlac-shortlist:k=40".

A method's options are the fields of its dataclass that hold a number, a word, or true or false.
Does not know any method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from tlac.config.registry import load_plugin
from tlac.errors import UnknownNameError, UsageError
from tlac.interfaces import ImageMethod, Method
from tlac.types import Combination

# marks the fingerprint of an encoder whose image side took part
IMAGES = "+images"
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
        chosen[key] = _read(f"--method {text}: {key}", value, options[key])
    method: Method | ImageMethod = made(**chosen)
    return method


def method_options(made: Any) -> dict[str, Any]:
    """The options of a method's class and their defaults."""
    if not dataclasses.is_dataclass(made):
        return {}
    fields = dataclasses.fields(made)
    return {field.name: field.default for field in fields if field.name != "name" and type(field.default) in _READERS}


def with_option(text: str, key: str, value: float | str) -> str:
    """The method with one more option where it has that option and does not set it itself, else as it is."""
    name, _, given = text.partition(":")
    has_own = any(part.partition("=")[0].strip() == key for part in given.split(","))
    if has_own or key not in method_options(load_plugin("tlac.methods", name)):
        return text
    written = value if isinstance(value, str) else f"{value:g}"
    return f"{name}:{','.join(filter(None, (given, f'{key}={written}')))}"


def combination_of(method: Any) -> Combination:
    """How scoring makes one prediction of a method's members."""
    combine: Combination = getattr(method, "combine", "first")
    return combine


def sees_image(method: Any) -> bool:
    """Whether scoring also compares the image's own vector with the class names."""
    return bool(getattr(method, "image", False))


def scale_of(method: Any, fingerprint: str) -> str:
    """The text encoder's fingerprint as digests and calibrations name it: with the image, scores and margins have
    another scale."""
    return f"{fingerprint}{IMAGES}" if sees_image(method) else fingerprint


def prompts_of(method: Any) -> tuple[str, ...]:
    """The prompt sets that a method asks in beside the run's own."""
    return tuple(getattr(method, "further_prompts", ()))


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
    return read
