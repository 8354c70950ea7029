"""Anthropic's messages: reads and checks requests, shapes answers and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anthropic.types import (
    ImageBlockParam,
    MessageParam,
    TextBlockParam,
)
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

from .checks import image_bytes, require, require_shape
from .replies import Asked, Reply, count_tokens

PATH = "/v1/messages"
_BLOCKS = {"text": TextBlockParam, "image": ImageBlockParam}
# sampling parameters left the published types with the models that refuse them; these models still take them
_TAKES_SAMPLING = re.compile(r"claude-(3|haiku-4-5|sonnet-4-[0-6]|opus-4-[0-6])")
_SAMPLING = ("temperature", "top_p", "top_k")
_LARGEST_IMAGE_CHARACTERS = 5_000_000
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def read(_model: str, body: dict[str, Any], headers: Mapping[str, str]) -> Asked:
    """The request, checked against anthropic's types. Raises RefusedRequestError."""
    key = headers.get("x-api-key", "")
    require(bool(key), "x-api-key header is required", 401)
    require("anthropic-version" in headers, "anthropic-version: header is required")
    has_sampling = _TAKES_SAMPLING.search(body.get("model", "")) is not None
    published = {name: value for name, value in body.items() if not (has_sampling and name in _SAMPLING)}
    require_shape(MessageCreateParamsNonStreaming, published, "body")
    blocks: list[dict[str, Any]] = _blocks(body.get("system") or [], "system")
    for position, message in enumerate(body["messages"]):
        require_shape(MessageParam, message, f"messages.{position}")
        blocks += _blocks(message["content"], f"messages.{position}.content")
    require(0.0 <= body.get("temperature", 1.0) <= 1.0, "temperature: range: 0..1")
    images = [block["source"] for block in blocks if block["type"] == "image"]
    for image in images:
        require(len(image["data"]) <= _LARGEST_IMAGE_CHARACTERS, "image exceeds 5 MB maximum")
    form = (body.get("output_config") or {}).get("format") or {}
    return Asked(
        "anthropic",
        body["model"],
        "\n".join(block["text"] for block in blocks if block["type"] == "text"),
        tuple(image_bytes(image["data"], image["media_type"]) for image in images),
        form.get("schema"),
        key,
        body,
        dict(headers),
    )


def _blocks(content: Any, place: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for block in content:
        require(block.get("type") in _BLOCKS, f"{place}: unexpected block {block.get('type')!r}")
        require_shape(_BLOCKS[block["type"]], block, place)
    return list(content)


def shape(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The answer as Anthropic gives it."""
    text, images, completion = count_tokens(asked, reply)
    usage = {
        "input_tokens": text + images - reply.cached_tokens - reply.written_tokens,
        "cache_read_input_tokens": reply.cached_tokens,
        "cache_creation_input_tokens": reply.written_tokens,
        "output_tokens": completion,
    }
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": _content(reply),
        "stop_reason": reply.finish
        or {"refusal": "refusal", "blocked": "refusal", "truncated": "max_tokens"}.get(reply.kind, "end_turn"),
        "stop_sequence": None,
        "usage": usage,
    }


def _content(reply: Reply) -> list[dict[str, Any]]:
    if reply.kind in ("refusal", "blocked", "empty"):
        return []
    blocks: list[dict[str, Any]] = [{"type": "text", "text": reply.text}]
    if reply.kind == "thinking":
        blocks.insert(0, {"type": "thinking", "thinking": "Let me look closely.", "signature": "c2ln"})
    return blocks


def shape_error(status: int, message: str, _retry_after: str | None) -> dict[str, Any]:
    """The error as Anthropic gives it."""
    return {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}
