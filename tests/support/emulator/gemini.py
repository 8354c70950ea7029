"""Gemini's generateContent: reads and checks requests, shapes answers and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.genai import types

from .checks import image_bytes, require, require_shape
from .replies import Asked, Reply, count_tokens

PATH = "/v1beta/models/{model}:generateContent"
_TOP = {"contents", "system_instruction", "systemInstruction", "generationConfig", "safetySettings"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def read(model: str, body: dict[str, Any], headers: Mapping[str, str]) -> Asked:
    """The request, checked against google-genai's types. Raises RefusedRequestError."""
    key = headers.get("x-goog-api-key", "")
    require(bool(key), "Method doesn't allow unregistered callers. Please use API Key.", 403)
    unknown = sorted(set(body) - _TOP)
    require(not unknown, f"Invalid JSON payload received. Unknown name {unknown[:1]}")
    contents = body.get("contents") or []
    require(bool(contents), "contents is not specified")
    for position, content in enumerate(contents):
        require_shape(types.Content, content, f"contents[{position}]")
    config = body.get("generationConfig") or {}
    require_shape(types.GenerationConfig, config, "generationConfig")
    for setting in body.get("safetySettings") or []:
        require_shape(types.SafetySetting, setting, "safetySettings")
    system = body.get("system_instruction") or body.get("systemInstruction") or {}
    parts = list(system.get("parts", [])) + [part for content in contents for part in content["parts"]]
    data = [part["inline_data"] for part in parts if "inline_data" in part]
    schema = config.get("response_json_schema") or config.get("responseJsonSchema")
    require(not schema or config.get("response_mime_type") == "application/json", "schema needs a JSON mime type")
    return Asked(
        "gemini",
        model,
        "\n".join(part["text"] for part in parts if "text" in part),
        tuple(image_bytes(blob["data"], blob["mime_type"]) for blob in data),
        schema,
        key,
        body,
        dict(headers),
    )


def shape(asked: Asked, reply: Reply) -> dict[str, Any]:
    """The answer as Gemini gives it."""
    text, images, completion = count_tokens(asked, reply)
    details = [{"modality": "TEXT", "tokenCount": text}]
    if images:
        details.append({"modality": "IMAGE", "tokenCount": images})
    usage = {
        "promptTokenCount": text + images,
        "candidatesTokenCount": completion,
        "totalTokenCount": text + images + completion + reply.reasoning_tokens,
        "promptTokensDetails": details,
    }
    if reply.reasoning_tokens:
        usage["thoughtsTokenCount"] = reply.reasoning_tokens
    if reply.cached_tokens:
        usage["cachedContentTokenCount"] = reply.cached_tokens
    document: dict[str, Any] = {"usageMetadata": usage, "modelVersion": asked.model, "responseId": "r-1"}
    if reply.kind == "blocked":
        document["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
        return document
    if reply.kind == "empty":
        document["candidates"] = []
        return document
    document["candidates"] = [candidate := _candidate(reply)]
    config = asked.body.get("generationConfig") or {}
    if (config.get("responseLogprobs") or config.get("response_logprobs")) and "content" in candidate:
        tokens = [{"token": token, "tokenId": 1, "logProbability": logprob} for token, logprob in reply.logprobs]
        candidate["logprobsResult"] = {"chosenCandidates": tokens, "topCandidates": []}
        candidate["avgLogprobs"] = sum(logprob for _, logprob in reply.logprobs) / max(1, len(tokens))
    return document


def _candidate(reply: Reply) -> dict[str, Any]:
    if reply.kind == "refusal":
        ratings = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}]
        return {"finishReason": "SAFETY", "index": 0, "safetyRatings": ratings}
    parts: list[dict[str, Any]] = [{"text": reply.text}]
    if reply.kind == "thinking":
        parts.insert(0, {"text": "Let me look closely.", "thought": True})
    finish = reply.finish or ("MAX_TOKENS" if reply.kind == "truncated" else "STOP")
    return {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": 0}


def shape_error(status: int, message: str, retry_after: str | None) -> dict[str, Any]:
    """The error as Gemini gives it; the wish to wait stands in its details, not in a header."""
    error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
    if retry_after is not None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        error["details"] = [{"@type": kind, "retryDelay": f"{retry_after}s"}]
    return {"error": error}
