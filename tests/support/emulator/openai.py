"""OpenAI's chat completions: reads and checks requests, shapes answers and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai.types.chat import (
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from .checks import image_bytes, require, require_shape
from .replies import Asked, Reply, count_tokens

PATH = "/v1/chat/completions"
_MESSAGES = {"system": ChatCompletionSystemMessageParam, "user": ChatCompletionUserMessageParam}
_PARTS = {"text": ChatCompletionContentPartTextParam, "image_url": ChatCompletionContentPartImageParam}
_TYPES = {401: "invalid_request_error", 429: "rate_limit_exceeded", 500: "server_error", 503: "server_error"}


def read(_model: str, body: dict[str, Any], headers: Mapping[str, str]) -> Asked:
    """The request, checked against openai's types. Raises RefusedRequestError."""
    authorization = headers.get("Authorization", "")
    require(authorization.startswith("Bearer "), "You didn't provide an API key.", 401)
    require_shape(CompletionCreateParamsNonStreaming, body, "body")
    texts: list[str] = []
    images: list[bytes] = []
    require(bool(body["messages"]), "messages: too short")
    for position, message in enumerate(body["messages"]):
        role = message.get("role")
        require(role in _MESSAGES, f"messages[{position}].role is {role!r}")
        # pydantic leaves an Iterable unread: the parts are checked one by one below
        require_shape(_MESSAGES[role], message, f"messages[{position}]")
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            require(part.get("type") in _PARTS, f"messages[{position}].content.type is {part.get('type')!r}")
            require_shape(_PARTS[part["type"]], part, f"messages[{position}].content")
            if part["type"] == "text":
                texts.append(part["text"])
            else:
                images.append(_image(part["image_url"]["url"]))
    schema = _schema(body)
    key = authorization.removeprefix("Bearer ")
    return Asked("openai", body["model"], "\n".join(texts), tuple(images), schema, key, body, dict(headers))


def _image(url: str) -> bytes:
    require(url.startswith("data:image/") and ";base64," in url, "Invalid image_url: expected a base64 data URL")
    head, _, data = url.partition(";base64,")
    return image_bytes(data, head.removeprefix("data:"))


def _schema(body: dict[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") != "json_schema":
        return None
    schema: dict[str, Any] = wanted["json_schema"]["schema"]
    if wanted["json_schema"].get("strict"):
        require(schema.get("additionalProperties") is False, "strict schema: additionalProperties must be false")
        require(set(schema["required"]) == set(schema["properties"]), "strict schema: all properties are required")
        values = [value for item in schema["properties"].values() for value in item.get("enum", ())]
        require(len(values) <= 1000, "strict schema: at most 1000 enum values")
    return schema


def shape(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The answer as OpenAI gives it."""
    text, images, completion = count_tokens(asked, reply)
    usage = {
        "prompt_tokens": text + images,
        "completion_tokens": completion,
        "total_tokens": text + images + completion,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": reply.reasoning_tokens or (7 if reply.kind == "thinking" else 0)
        },
    }
    choice = {"index": 0, "message": _message(reply), "finish_reason": _finish(reply), "logprobs": None}
    if asked.body.get("logprobs"):
        tokens = [
            {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
            for token, logprob in reply.logprobs
        ]
        choice["logprobs"] = {"content": tokens, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": asked.model,
        "choices": [] if reply.kind == "empty" else [choice],
        "usage": usage,
    }


def _message(reply: Reply) -> dict[str, Any]:
    if reply.kind == "refusal":
        return {"role": "assistant", "content": None, "refusal": reply.text or "I can't help with that."}
    if reply.kind == "blocked":
        return {"role": "assistant", "content": "", "refusal": None}
    message = {"role": "assistant", "content": reply.text if reply.content is None else reply.content, "refusal": None}
    if reply.kind == "thinking":
        message["reasoning_content"] = "Let me look closely."
    return message


def _finish(reply: Reply) -> str | None:
    if reply.finish is not None:
        return reply.finish or None
    return {"blocked": "content_filter", "truncated": "length"}.get(reply.kind, "stop")


def shape_error(status: int, message: str, _retry_after: str | None) -> dict[str, Any]:
    """The error as OpenAI gives it."""
    kind = _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
