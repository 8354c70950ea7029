"""Says why a request has no answer in the store: the nearest request that has one, and where they differ.

Does not know how requests are formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tlac.keys import canonical_json, sha256_of
from tlac.store.store import Store

_SHOWN_CHARACTERS = 60
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two requests differ, such as "params.temperature", and both values as short JSON."""

    field: str
    asked: str
    stored: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a request's answer is stored, and else the nearest stored request.

    `nearest` is None where the store holds no answer at all.
    """

    key: str
    is_stored: bool
    nearest: str | None
    differences: tuple[Difference, ...]


def explain(store: Store, request: dict[str, Any]) -> Explanation:
    """Compare a request (its JSON, from tlac.keys.request_document) with all stored ones.

    Nearest is one of the same stage, then about the same image, then with the fewest differing fields, then with
    the least key. Raises StoreError.
    """
    key = sha256_of(request)
    if store.get_response(key) is not None:
        return Explanation(key, True, key, ())
    asked = dict(_fields(request))
    nearest = min(
        ((*_distance(asked, dict(_fields(entry.request))), entry.key) for entry in store.entries()), default=None
    )
    entry = store.get_entry(nearest[-1]) if nearest else None
    if entry is None:
        return Explanation(key, False, None, ())
    stored = dict(_fields(entry.request))
    differences = [
        Difference(field, *_shown(asked.get(field, _MISSING), stored.get(field, _MISSING)))
        for field in _differing(asked, stored)
    ]
    return Explanation(key, False, entry.key, tuple(differences))


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value by their paths; numbers that are equal compare so."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None or not value:
        yield path, value
        return
    for name, item in items:
        yield from _fields(item, f"{path}.{name}" if path else str(name))


def _differing(asked: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    return sorted(field for field in {*asked, *stored} if asked.get(field, _MISSING) != stored.get(field, _MISSING))


def _distance(asked: dict[str, Any], stored: dict[str, Any]) -> tuple[bool, bool, int]:
    differing = _differing(asked, stored)
    return "stage" in differing, any("image_sha256" in field for field in differing), len(differing)


def _shown(asked: Any, stored: Any) -> tuple[str, str]:
    texts = ["(missing)" if value is _MISSING else canonical_json(value) for value in (asked, stored)]
    same = next((place for place, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, same - _SHOWN_CHARACTERS // 3)
    return _clip(texts[0], start), _clip(texts[1], start)


def _clip(text: str, start: int) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    shown = text[start : start + _SHOWN_CHARACTERS]
    return ("..." if start else "") + shown + ("..." if start + _SHOWN_CHARACTERS < len(text) else "")
