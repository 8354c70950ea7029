"""Holds JSON against TypedDicts and pydantic models, refusing keys that they don't have."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError


class RefusedRequestError(Exception):
    """The request is not one that the provider would take; the text says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def require(is_met: bool, complaint: str, status: int = 400) -> None:
    """Raises RefusedRequestError where a rule is not kept."""
    if not is_met:
        raise RefusedRequestError(complaint, status)


@cache
def _prepared(shape: Any) -> tuple[frozenset[str], TypeAdapter[Any]]:
    """A TypedDict's keys, and the validator; building one takes up to 70 ms."""
    is_typed_dict = isinstance(shape, type) and hasattr(shape, "__total__")
    return frozenset(get_type_hints(shape) if is_typed_dict else ()), TypeAdapter(shape)


def require_shape(shape: Any, value: Any, place: str) -> None:
    """Raises RefusedRequestError where a value has not the published shape, or a TypedDict's unknown keys."""
    known, adapter = _prepared(shape)
    if known and isinstance(value, Mapping):
        unknown = sorted(set(value) - known)
        require(not unknown, f"{place}: unrecognized key {unknown[:1]}")
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise RefusedRequestError(f"{place}.{where}: {first['msg']}") from error


def image_bytes(encoded: str, media_type: str) -> bytes:
    """The image behind base64 text. Raises RefusedRequestError where bytes and media type don't fit."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise RefusedRequestError(f"image is not valid base64: {error}") from error
    starts = {
        "image/jpeg": (b"\xff\xd8\xff",),
        "image/png": (b"\x89PNG",),
        "image/webp": (b"RIFF",),
        "image/gif": (b"GIF8",),
    }
    require(media_type in starts, f"unsupported image media type {media_type}")
    require(content.startswith(starts[media_type]), f"the image does not look like {media_type}")
    return content
