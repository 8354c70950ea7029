"""Ollama's chat: reads and checks requests, shapes answers and errors."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from ollama import Options
from ollama._types import ChatRequest

from .checks import image_bytes, require, require_shape
from .replies import Asked, Reply, count_tokens

PATH = "/api/chat"


def read(_model: str, body: dict[str, Any], headers: Mapping[str, str]) -> Asked:
    """The request, checked against ollama's types. Raises RefusedRequestError."""
    unknown = sorted(set(body) - set(ChatRequest.model_fields))
    require(not unknown, f"unknown field {unknown[:1]}")
    require_shape(ChatRequest, body, "body")
    unknown = sorted(set(body.get("options") or {}) - set(Options.model_fields))
    require(not unknown, f"unknown option {unknown[:1]}")
    require(body.get("stream") is False, "the emulator does not stream")
    images = [image for message in body["messages"] for image in message.get("images") or ()]
    form = body.get("format")
    return Asked(
        "ollama",
        body["model"],
        "\n".join(message["content"] for message in body["messages"]),
        tuple(image_bytes(image, _media_type(image)) for image in images),
        form if isinstance(form, dict) else None,
        headers.get("Authorization", "").removeprefix("Bearer "),
        body,
        dict(headers),
    )


def _media_type(image: str) -> str:
    # Ollama is told no media type, and its server reads JPEG and PNG only
    return "image/png" if base64.b64decode(image[:8]).startswith(b"\x89PNG") else "image/jpeg"


def shape(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The answer as Ollama gives it. A local model refuses in words, and blocks nothing."""
    text, images, completion = count_tokens(asked, reply)
    message = {"role": "assistant", "content": "" if reply.kind in ("empty", "blocked") else reply.text}
    if reply.kind == "thinking":
        message["thinking"] = "Let me look closely."
    tokens = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in reply.logprobs]
    return {
        **({"logprobs": tokens} if asked.body.get("logprobs") else {}),
        "model": asked.model,
        "created_at": "2025-01-01T00:00:00Z",
        "message": message,
        "done": True,
        "done_reason": reply.finish or ("length" if reply.kind == "truncated" else "stop"),
        "total_duration": 1_000_000,
        "load_duration": 0,
        "prompt_eval_count": text + images,
        "prompt_eval_duration": 0,
        "eval_count": completion,
        "eval_duration": 0,
    }


def shape_error(_status: int, message: str, _retry_after: str | None) -> dict[str, Any]:
    """The error as Ollama gives it."""
    return {"error": message}
