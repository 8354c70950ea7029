"""Keeps the long texts of requests once: thousands of stage-2 requests share one class list.

Does not know rows or databases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from tlac.documents import Document, decode
from tlac.errors import InputError
from tlac.keys import canonical_json

# after all keys of answers, which are hexadecimal
TEXT_KEY_PREFIX = "text:"
LONG_CHARACTERS = 1024


class _TextRow(Document, frozen=True):
    text: str


def text_row(text: str) -> tuple[str, str]:
    """The key of a text and the JSON text that is kept under it."""
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return TEXT_KEY_PREFIX + digest, canonical_json({"text": text})


def parse_text_row(key: str, content: bytes) -> str:
    """The text kept under a key. Raises InputError where it is not the one that the key is the digest of."""
    row: _TextRow = decode(content, _TextRow)
    if text_row(row.text)[0] != key:
        raise InputError("a text that its key is not the digest of")
    return row.text


def fold(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A request with each long text replaced by its digest, and the rows of these texts by their keys."""
    rows: dict[str, str] = {}

    def fold_part(part: dict[str, Any]) -> dict[str, Any]:
        if len(part.get("text") or "") < LONG_CHARACTERS:
            return part
        key, content = text_row(part["text"])
        rows[key] = content
        return {"text_sha256": key.removeprefix(TEXT_KEY_PREFIX)}

    return _map_parts(request, fold_part), rows


def unfold(request: dict[str, Any], text_of: Callable[[str], str]) -> dict[str, Any]:
    """The request that `fold` was given; `text_of` finds the text of a row's key.

    Raises InputError for a request that has no messages with parts, and what `text_of` raises.
    """

    def unfold_part(part: dict[str, Any]) -> dict[str, Any]:
        if "text_sha256" not in part:
            return part
        return {"text": text_of(TEXT_KEY_PREFIX + str(part["text_sha256"]))}

    try:
        return _map_parts(request, unfold_part)
    except (KeyError, TypeError) as error:
        raise InputError("a request without messages of parts") from error


def _map_parts(request: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    messages = [{**message, "parts": [change(part) for part in message["parts"]]} for message in request["messages"]]
    return {**request, "messages": messages}
