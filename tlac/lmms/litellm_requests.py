"""Requests as a provider's JSON bodies, and its JSON as responses, by litellm's own functions for that provider.

Calls nobody. Bodies and responses equal those of `litellm.acompletion`, at a fraction of its time; tests hold them to
that. What goes over the wire besides (how to connect, how long to wait) is tlac.lmms.http's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from tlac.config.schemas import Backend, Prices
from tlac.errors import ConfigError
from tlac.lmms.prices import cost_usd
from tlac.runtime.litellm_setup import load_litellm
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


PROVIDERS = ("openai", "hosted_vllm", "anthropic", "gemini", "ollama_chat")
"""The providers, by litellm's names, whose requests are formed here."""


# providers whose models stand in litellm's table by their bare names
_UNPREFIXED = ("openai", "anthropic")
# where litellm asks when no address is given
_ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "ollama_chat": "http://localhost:11434",
}
# forms and costs that are remembered: few in a run, but for stage 2 over shortlists
_MOST_REMEMBERED = 4096

_Form: TypeAlias = tuple[dict[str, str], dict[str, Any]]


class UnreadableError(ValueError):
    """A provider's JSON that is no answer, in litellm's words."""


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What is posted, and where to. The headers hold the key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: dict[str, Any] = field(repr=False)

    def encode(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body)


def open_bodies(backend: Backend, api_key: str, api_base: str | None) -> Bodies | None:
    """The bodies of a backend, or None where `litellm.acompletion` is the only way to ask it.

    That is so for providers that need more than a body (a signature, a token, a second call), for models that are
    asked through another interface than chat, and for a litellm without the functions that are used here.
    """
    model = backend.spec.model
    provider, _, name = model.partition("/")
    if provider not in PROVIDERS:
        return None
    entry = load_litellm().model_cost.get(name if provider in _UNPREFIXED else model) or {}
    if entry.get("mode", "chat") != "chat" or name.startswith("responses/"):
        return None
    try:
        return Bodies(backend, api_key, api_base)
    except (ImportError, AttributeError):
        return None


class _NoLog:
    """Stands where litellm's functions tell their logger of a response."""

    optional_params: Mapping[str, Any] = {}
    litellm_params: Mapping[str, Any] = {}

    def post_call(self, *_: object, **__: object) -> None:
        """Nobody is told."""


class _Answer:
    """As much of an httpx.Response as litellm's functions read; a whole one takes half as long as they do."""

    status_code = 200
    headers: Mapping[str, str] = {}

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The content as JSON."""
        return json.loads(self.content)


class Bodies:
    """One backend's requests and responses. Raises ConfigError for a provider that is not in PROVIDERS."""

    def __init__(self, backend: Backend, api_key: str = "none", api_base: str | None = None) -> None:
        load_litellm()
        register_model(backend.spec.model)
        from litellm.types.utils import LlmProviders, all_litellm_params
        from litellm.utils import ProviderConfigManager

        self._backend = backend
        # they tell litellm what to do, and are not for the provider
        self._not_sent = frozenset(all_litellm_params)
        self._provider, _, self._model = backend.spec.model.partition("/")
        if self._provider not in PROVIDERS:
            raise ConfigError(f"{backend.source}: requests to {self._provider!r} can't be formed apart from a call")
        self._api_key, self._api_base = api_key, api_base or _ADDRESSES.get(self._provider)
        self._functions: Any = ProviderConfigManager.get_provider_chat_config(
            model=self._model, provider=LlmProviders(self._provider)
        )
        self._forms: dict[object, _Form] = {}
        self._costs: dict[object, float | None] = {}

    def takes(self, request: LMMRequest) -> bool:
        """Whether the request's parameters all go into its body."""
        return self._not_sent.isdisjoint(request.params)

    def form(self, request: LMMRequest, images: Mapping[str, PreparedImage]) -> WireRequest:
        """What the provider is sent for a request. `images` is keyed by sha256.

        Raises ConfigError for a parameter that would be dropped, and litellm's own errors for one that it refuses.
        """
        messages = wire_messages(request, images)
        key = _form_key(request)
        form = self._forms.get(key)
        if form is None:
            # takes as long as all the rest, and depends on no text
            form = _remember(self._forms, key, self._new_form(request, messages))
        # litellm's functions change both
        headers, options = dict(form[0]), dict(form[1])
        if self._provider == "gemini":
            return WireRequest(self._url(), headers, self._gemini_body(messages, options))
        body: dict[str, Any] = self._functions.transform_request(
            model=self._model, messages=messages, optional_params=options, litellm_params={}, headers=headers
        )
        if self._provider == "anthropic":
            from litellm.anthropic_beta_headers_manager import update_request_with_filtered_beta

            headers, body = update_request_with_filtered_beta(headers, body, "anthropic", self._url())
        return WireRequest(self._url(), headers, body)

    def _new_form(self, request: LMMRequest, messages: list[dict[str, Any]]) -> _Form:
        from litellm.utils import get_optional_params

        check_params(self._backend, request)
        options: dict[str, Any] = get_optional_params(
            model=self._model, custom_llm_provider=self._provider, messages=messages, **call_arguments(request)
        )
        if self._provider in ("openai", "hosted_vllm"):
            # the clients merge the first into the body, and leave the second out
            options.update(options.pop("extra_body", None) or {})
            options.pop("stream", None)
        headers: dict[str, str] = self._functions.validate_environment(
            api_key={"x-goog-api-key": self._api_key} if self._provider == "gemini" else self._api_key,
            headers={},
            model=self._model,
            messages=messages,
            optional_params=options,
            litellm_params={},
            api_base=self._api_base,
        )
        return headers, options

    def _url(self) -> str:
        if self._provider == "gemini":
            return self._gemini_url()
        if self._provider == "anthropic":
            base = str(self._api_base).rstrip("/")
            return base if base.endswith("/v1/messages") else f"{base}/v1/messages"
        url: str = self._functions.get_complete_url(
            api_base=self._api_base, api_key=self._api_key, model=self._model, optional_params={}, litellm_params={}
        )
        return url

    def _gemini_url(self) -> str:
        if self._api_base:
            return f"{self._api_base.rstrip('/')}/models/{self._model}:generateContent"
        from litellm.llms.vertex_ai.common_utils import _get_gemini_url

        url: str = _get_gemini_url(mode="chat", model=self._model, stream=False)[0]
        return url

    def _gemini_body(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
        from litellm.llms.vertex_ai.gemini.transformation import transform_request_body

        body: dict[str, Any] = transform_request_body(
            messages=messages,
            model=self._model,
            optional_params=options,
            custom_llm_provider="gemini",
            litellm_params={},
            cached_content=None,
        )
        return body

    def read(self, content: bytes, body: Mapping[str, Any] | None = None) -> LMMResponse:
        """The response in a provider's JSON, with its cost and without its times. `body` is what was asked.

        Raises UnreadableError for what is no answer.
        """
        try:
            response = self._parse(content, body or {})
            prices = self._backend.spec.prices
            if not prices:
                response._hidden_params["response_cost"] = self._cost_usd(response)
            return read_response(response, prices)
        except Exception as error:
            raise UnreadableError(str(error)) from error

    def _parse(self, content: bytes, body: Mapping[str, Any]) -> Any:
        from litellm.types.utils import ModelResponse

        return self._functions.transform_response(
            model=self._model,
            raw_response=_Answer(content),
            model_response=ModelResponse(),
            logging_obj=_NoLog(),
            request_data=body,
            messages=[],
            optional_params={},
            litellm_params={},
            encoding=None,
        )

    def _cost_usd(self, response: Any) -> float | None:
        """The cost by litellm's table: of the model that answered, for such a count of tokens."""
        usage = getattr(response, "usage", None)
        key = response.model, getattr(response, "service_tier", None), usage and usage.model_dump_json()
        if key not in self._costs:
            _remember(self._costs, key, self._new_cost_usd(response))
        return self._costs[key]

    def _new_cost_usd(self, response: Any) -> float | None:
        litellm = load_litellm()
        try:
            cost: float = litellm.completion_cost(
                completion_response=response,
                model=self._model,
                custom_llm_provider=self._provider,
                call_type="acompletion",
            )
        except Exception:  # noqa: BLE001 - a plain Exception is what litellm raises for a model without a price
            return None
        return cost


def _remember(known: dict[object, Any], key: object, value: Any) -> Any:
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
    return value


def _form_key(request: LMMRequest) -> object:
    choice = request.choice
    by_index = (len(choice.classes), choice.candidates) if choice is not None and choice.by_index else None
    return msgspec.json.encode(request.params, order="sorted"), by_index, _has_prefix(request)


def _has_prefix(request: LMMRequest) -> bool:
    parts: Iterable[TextPart | ImagePart] = (part for message in request.messages for part in message.parts)
    return any(isinstance(part, TextPart) and part.is_prefix for part in parts)
