"""Between tlac's records and litellm's form: messages, parameters, the stage-2 schema, responses.

Does not call anything. Shapes of responses were checked against each provider's published types.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from tlac.config import Backend, Prices
from tlac.errors import ConfigError
from tlac.litellm_runtime import load_litellm
from tlac.prices import cost_usd
from tlac.types import ChoiceTask, ImagePart, LMMRequest, LMMResponse, Outcome, PreparedImage, TextPart, Usage

# litellm drops what it does not know for Gemini without a word; these it does send on
_GEMINI_EXTRAS = frozenset(("top_k", "safety_settings"))
# OpenAI refuses a schema with more enum values; above it the index is checked when it is read
_MOST_ENUM_VALUES = 1000


def wire_messages(request: LMMRequest, images: Mapping[str, PreparedImage]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, which litellm turns into each provider's. `images` is keyed by sha256."""
    marks_prefix = "claude" in request.model
    messages = []
    for message in request.messages:
        parts = [_wire_part(part, images, marks_prefix) for part in message.parts]
        is_plain = len(parts) == 1 and set(parts[0]) == {"type", "text"}
        messages.append({"role": message.role, "content": parts[0]["text"] if is_plain else parts})
    return messages


def _wire_part(part: TextPart | ImagePart, images: Mapping[str, PreparedImage], marks_prefix: bool) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        image = images[part.image.sha256]
        encoded = base64.b64encode(image.content).decode("ascii")
        return {"type": "image_url", "image_url": {"url": f"data:{image.media_type};base64,{encoded}"}}
    block: dict[str, Any] = {"type": "text", "text": part.text}
    if part.is_prefix and marks_prefix:
        # the others cache prefixes by themselves, and OpenAI would refuse the key
        block["cache_control"] = {"type": "ephemeral"}
    return block


def call_arguments(request: LMMRequest) -> dict[str, Any]:
    """The arguments of a litellm call that say how to answer: sampling parameters, and the form of a choice."""
    arguments: dict[str, Any] = dict(request.params)
    if request.choice is not None and request.choice.by_index:
        arguments.update(choice_arguments(request.model, request.choice))
    return arguments


def check_params(backend: Backend, request: LMMRequest) -> None:
    """Raises ConfigError for a parameter that litellm would drop in silence."""
    provider, _, model = request.model.partition("/")
    if provider == "gemini":
        known = set(load_litellm().get_supported_openai_params(model, "gemini")) | _GEMINI_EXTRAS
        if unknown := sorted(set(request.params) - known):
            raise ConfigError(
                f"{backend.source}: parameter {unknown[0]!r} under params would be dropped on the way to "
                "Gemini; remove it"
            )


def register_model(model: str) -> None:
    """Have litellm know an Ollama model: else it asks localhost about it before each call, blocking the event loop."""
    provider = model.partition("/")[0]
    if provider in ("ollama", "ollama_chat"):
        entry = {"litellm_provider": provider, "mode": "chat"}
        prices = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
        load_litellm().model_cost.setdefault(model, entry | prices)


def choice_arguments(model: str, task: ChoiceTask) -> dict[str, Any]:
    """The arguments of a call that constrain stage 2 to `{"class_index": "17"}`, an index as a string.

    Strings, since some providers accept an enum of strings only.
    """
    schema = _choice_schema(task)
    if model.startswith("anthropic/"):
        # litellm turns response_format into output_format, which Anthropic's published types no longer hold
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    json_schema = {"name": "choice", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def _choice_schema(task: ChoiceTask) -> dict[str, Any]:
    index: dict[str, Any] = {"type": "string"}
    if len(task.indices) <= _MOST_ENUM_VALUES:
        index["enum"] = [str(position) for position in task.indices]
    return {
        "type": "object",
        "properties": {"class_index": index},
        "required": ["class_index"],
        "additionalProperties": False,
    }


def read_response(response: Any, prices: Prices | None) -> LMMResponse:
    """A litellm response as a record, without its times. `prices` go before litellm's own table."""
    hidden = getattr(response, "_hidden_params", None) or {}
    usage = _read_usage(getattr(response, "usage", None))
    cost = cost_usd(usage, prices) if prices else hidden.get("response_cost")
    outcome, text, reason = _read_outcome(response.choices or ())
    version = hidden.get("provider_response_model") or response.model or ""
    return LMMResponse(
        outcome, _valid(text), _valid(reason), _valid(str(version)), usage, None if cost is None else float(cost)
    )


def _valid(text: str) -> str:
    """The text with half surrogate pairs, which JSON can carry and no file can, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_outcome(choices: Sequence[Any]) -> tuple[Outcome, str, str]:
    if not choices:
        return Outcome.EMPTY, "", "the response holds no candidates"
    message = choices[0].message
    text = message.content or ""
    own = getattr(message, "provider_specific_fields", None) or {}
    finish = str(choices[0].finish_reason or "")
    # the one or the other, by litellm's version
    refusal = getattr(message, "refusal", None) or own.get("refusal")
    if refusal:
        return Outcome.REFUSED, text, str(refusal)
    if finish == "content_filter":
        return Outcome.REFUSED, text, _native_reason(choices[0]) or finish
    if finish == "length":
        return Outcome.TRUNCATED, text, "the answer was cut at max_tokens"
    if not text.strip():
        return Outcome.EMPTY, "", f"the answer holds no text (finish reason {finish or 'none'})"
    return Outcome.ANSWERED, text, ""


def _native_reason(choice: Any) -> str:
    own = getattr(choice, "provider_specific_fields", None) or {}
    return str(own.get("native_finish_reason") or "")


def _read_usage(usage: Any) -> Usage:
    details = getattr(usage, "prompt_tokens_details", None)

    def count(owner: Any, name: str) -> int:
        return int(getattr(owner, name, None) or 0)

    return Usage(
        prompt=count(usage, "prompt_tokens"),
        completion=count(usage, "completion_tokens"),
        cached=count(details, "cached_tokens"),
        image=count(details, "image_tokens"),
    )
