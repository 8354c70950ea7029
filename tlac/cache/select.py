"""Select stored answers by backend, outcome, age or key; delete them; explain why a request has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import AnswerCount, Store, count_answers
from tlac.errors import UsageError
from tlac.hashing import canonical_json, sha256_of
from tlac.types import Outcome

_SHOWN_CHARACTERS = 60
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers to select: those that match every field that is given; all where none is.

    `created_before` without a time zone is UTC; an answer that does not say when it was given does not fit it.
    """

    backend: str | None = None
    outcome: Outcome | None = None
    created_before: datetime | None = None
    keys: frozenset[str] | None = None

    def fits(self, answer: StoredAnswer) -> bool:
        """Whether an answer is selected."""
        return (
            (self.backend is None or answer.backend == self.backend)
            and (self.outcome is None or answer.response.outcome is self.outcome)
            and (self.created_before is None or _is_before(answer.response.created_at, self.created_before))
            and (self.keys is None or answer.key in self.keys)
        )


def select(store: Store, selection: Selection) -> Iterator[StoredAnswer]:
    """Yield the selected answers by key. Raises StoreError."""
    if selection.keys is None:
        return (answer for answer in store.entries() if selection.fits(answer))
    found = (store.get_entry(key) for key in sorted(selection.keys))
    return (answer for answer in found if answer is not None and selection.fits(answer))


def prune(store: Store, selection: Selection, is_dry_run: bool = False) -> tuple[AnswerCount, ...]:
    """Delete the selected answers; returns how many there were, and what they cost.

    Raises UsageError for a selection of everything, StoreError.
    """
    if selection == Selection():
        raise UsageError("say what to forget, by backend, outcome or age; to forget all, delete the store's folder")
    counts = count_answers(select(store, selection))
    if not is_dry_run:
        store.delete_entries([answer.key for answer in select(store, selection)])
    return counts


def _is_before(created_at: str, limit: datetime) -> bool:
    try:
        # Python 3.10 does not read the Z
        created = datetime.fromisoformat(created_at.replace("Z", "+00:00"))
    except ValueError:
        return False
    return _aware(created) < _aware(limit)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def explain(store: Store, request: dict[str, Any]) -> tuple[str | None, dict[str, tuple[str, str]]]:
    """Compare a request (its JSON, from tlac.hashing.request_document) with all stored ones.

    Gives the key of the nearest one, None where the store holds no answer at all; and, by field, such as
    "params.temperature", the value asked for and the stored one, as short JSON: nothing where its answer is stored.
    Nearest is one of the same stage, then about the same image, then with the fewest differing fields, then with the
    least key. Raises StoreError.
    """
    key = sha256_of(request)
    if store.get_response(key) is not None:
        return key, {}
    asked = dict(_fields(request))
    nearest = min(
        ((*_distance(asked, dict(_fields(entry.request))), entry.key) for entry in store.entries()), default=None
    )
    entry = store.get_entry(nearest[-1]) if nearest else None
    if entry is None:
        return None, {}
    stored = dict(_fields(entry.request))
    differing = _differing(asked, stored)
    return entry.key, {place: _shown(asked.get(place, _MISSING), stored.get(place, _MISSING)) for place in differing}


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a JSON value with their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if items is None or not value:
        yield path, value
        return
    for name, item in items:
        yield from _fields(item, f"{path}.{name}" if path else str(name))


def _differing(asked: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    return sorted(place for place in {*asked, *stored} if asked.get(place, _MISSING) != stored.get(place, _MISSING))


def _distance(asked: dict[str, Any], stored: dict[str, Any]) -> tuple[bool, bool, int]:
    differing = _differing(asked, stored)
    return "stage" in differing, any("image_sha256" in place for place in differing), len(differing)


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
