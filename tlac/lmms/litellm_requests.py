"""Requests as a provider's JSON bodies, and its JSON as responses, by litellm's own functions for that provider.

Bodies and responses equal those of `litellm.acompletion`, at a fraction of its time; tests hold them to that.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec

from tlac.config.schemas import MAX_ENUM_VALUES, Backend
from tlac.errors import ConfigError, InputError, SampleError
from tlac.images import prepare, within_limits
from tlac.lmms.http import HTTPResponse
from tlac.lmms.litellm_responses import read_body
from tlac.lmms.prices import model_entry, prices_of
from tlac.runtime.litellm_setup import load_litellm
from tlac.types import ChoiceTask, Image, LMMRequest, LMMResponse, Preparation, TextPart

PROVIDERS = ("openai", "hosted_vllm", "anthropic", "gemini", "ollama_chat")
"""The providers, by litellm's names, whose requests are formed here."""

INTERNALS = {
    "LlmProviders": "litellm.types.utils",
    "ModelResponse": "litellm.types.utils",
    "all_litellm_params": "litellm.types.utils",
    "ProviderConfigManager": "litellm.utils",
    "get_optional_params": "litellm.utils",
    "exception_type": "litellm.litellm_core_utils.exception_mapping_utils",
    "update_request_with_filtered_beta": "litellm.anthropic_beta_headers_manager",
    "_get_gemini_url": "litellm.llms.vertex_ai.common_utils",
    "transform_request_body": "litellm.llms.vertex_ai.gemini.transformation",
}
"""What is used of litellm beyond its documented interface. Where one is missing, its whole call is the only road."""

# where litellm asks when no address is given
_ADDRESSES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "ollama_chat": "http://localhost:11434",
}
# what a server of Ollama's gives a prompt and its answer together, unless it is told
_OLLAMA_CONTEXT_TOKENS = 4096
# on the safe side for class names and for the vision models that run at home
_BYTES_PER_TOKEN = 3
_TOKENS_PER_LOCAL_IMAGE = 1024
# newer servers of Ollama's give log-probabilities, which litellm knows nothing of
_OLLAMA = "ollama_chat"
# parameters whose values reach the body as they are, under whatever name
_PLAIN_PARAMS = {
    *("temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"),
    "stop",
}
# litellm drops what it does not know for Gemini without a word; these it does send on
_GEMINI_EXTRAS = frozenset(("top_k", "safety_settings"))
# request templates that are remembered: few in a run, except in stage 2 over shortlists
_MAX_REMEMBERED = 4096
# litellm's functions tell their logger of each response
_NO_LOGGER = SimpleNamespace(optional_params={}, litellm_params={}, post_call=lambda *_, **__: None)


def wire_messages(request: LMMRequest) -> list[dict[str, Any]]:
    """Return the messages in OpenAI's form, which litellm turns into each provider's, with their images made ready.

    Raises SampleError for an image that can't be used.
    """
    preparation, marks_prefix = within_limits(request.preparation, request.model), "claude" in request.model
    messages = []
    for message in request.messages:
        parts = [_wire_part(part, preparation, marks_prefix) for part in message.parts]
        is_plain = len(parts) == 1 and set(parts[0]) == {"type", "text"}
        messages.append({"role": message.role, "content": parts[0]["text"] if is_plain else parts})
    return messages


def _wire_part(part: TextPart | Image, preparation: Preparation, marks_prefix: bool) -> dict[str, Any]:
    if isinstance(part, Image):
        try:
            content, media_type = prepare(part, preparation)
        except InputError as error:
            raise SampleError(str(error)) from error
        encoded = base64.b64encode(content).decode("ascii")
        return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{encoded}"}}
    block: dict[str, Any] = {"type": "text", "text": part.text}
    if part.is_prefix and marks_prefix:
        # the other providers cache prefixes by themselves, and OpenAI would refuse the key
        block["cache_control"] = {"type": "ephemeral"}
    return block


def call_arguments(request: LMMRequest) -> dict[str, Any]:
    """Return the arguments of a litellm call that say how to answer: sampling parameters, and the form of a choice."""
    arguments: dict[str, Any] = dict(request.params)
    if request.choice is not None and (request.choice.by_index or request.choice.by_schema):
        arguments.update(choice_arguments(request.model, request.choice))
    if request.model.startswith("ollama") and "num_ctx" not in arguments:
        needed = context_tokens(request)
        if needed > _OLLAMA_CONTEXT_TOKENS:
            # Ollama cuts a longer prompt in silence; powers of two, since each other size loads the model anew
            arguments["num_ctx"] = 1 << (needed - 1).bit_length()
    return arguments


def context_tokens(request: LMMRequest) -> int:
    """Return at most how many tokens a request and its answer take, on the safe side."""
    text_bytes = sum(len(part.text.encode()) for part in request.texts)
    answer = request.params.get("max_tokens") or request.params.get("num_predict") or 0
    return text_bytes // _BYTES_PER_TOKEN + len(request.images) * _TOKENS_PER_LOCAL_IMAGE + int(answer)


def check_params(backend: Backend, request: LMMRequest) -> None:
    """Raise ConfigError for a parameter that litellm would drop or change in silence.

    What it refuses aloud is left to the call itself, which says why.
    """
    litellm = load_litellm()
    from openai import OpenAIError

    try:
        model, provider, _, _ = litellm.get_llm_provider(request.model)
        if provider == "gemini":
            known = set(litellm.get_supported_openai_params(model, "gemini")) | _GEMINI_EXTRAS
            lost = sorted(set(request.params) - known)
        else:
            given = {name: value for name, value in request.params.items() if name in _PLAIN_PARAMS}
            lost = _lost(given, litellm.get_optional_params(model=model, custom_llm_provider=provider, **given))
    except (OpenAIError, AttributeError):
        return
    if lost:
        raise ConfigError(
            f"{backend.source}: parameter {lost[0]!r} under params would be dropped or changed on the way to "
            f"{provider.capitalize()}; remove it"
        )


def _lost(given: Mapping[str, Any], options: Any) -> list[str]:
    """The parameters whose values are not among the options that they were turned into, under whatever names."""
    leaves = list(_leaves(options))
    lost = []
    for name, value in given.items():
        if value in leaves:
            leaves.remove(value)
        elif value is not None:
            lost.append(name)
    return lost


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif not isinstance(value, bool):
        # True equals 1, and is no temperature
        yield value


def register_model(model: str) -> None:
    """Make an Ollama model known to litellm, which else asks localhost about it before each call, blocking the loop."""
    provider = model.partition("/")[0]
    if provider in ("ollama", "ollama_chat"):
        entry = {"litellm_provider": provider, "mode": "chat"}
        prices = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
        load_litellm().model_cost.setdefault(model, entry | prices)


def choice_arguments(model: str, task: ChoiceTask) -> dict[str, Any]:
    """Return the arguments of a call that constrain stage 2 to `{"class_index": "17"}`, or to `{"class_name": "cat"}`.

    The index is a string, since some providers accept an enum of strings only.
    """
    key = "class_name" if task.by_schema else "class_index"
    value: dict[str, Any] = {"type": "string"}
    if task.by_schema:
        value["enum"] = list(task.names)
    elif len(task.indices) <= MAX_ENUM_VALUES:
        value["enum"] = [str(position) for position in task.indices]
    schema = {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
    if model.startswith("anthropic/"):
        # litellm turns response_format into output_format, which is gone from Anthropic's published types
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    json_schema = {"name": "choice", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What is posted, and where. The headers hold the key."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: dict[str, Any] = field(repr=False)

    def encode(self) -> bytes:
        """The body as JSON."""
        return msgspec.json.encode(self.body)


def open_wire_format(backend: Backend, api_key: str | None, api_base: str | None) -> WireFormat | None:
    """Return the wire format of a backend, or None where `litellm.acompletion` is the only way to ask it.

    That is so for providers that need more than a body (a signature, a token, a second call), for models with another
    interface than chat, and for a litellm without the functions that are used here.
    """
    model = backend.spec.model
    provider, _, name = model.partition("/")
    if provider not in PROVIDERS or api_key is None:
        return None
    if model_entry(model).get("mode", "chat") != "chat" or name.startswith("responses/"):
        return None
    try:
        return WireFormat(backend, api_key, api_base)
    except (ImportError, AttributeError):
        return None


class WireFormat:
    """Forms one backend's requests and reads its responses. Raises ConfigError for a provider not in PROVIDERS."""

    def __init__(self, backend: Backend, api_key: str = "none", api_base: str | None = None) -> None:
        load_litellm()
        register_model(backend.spec.model)
        # all at once: what is missing must show before the first request is formed
        self._litellm = SimpleNamespace(
            **{name: getattr(importlib.import_module(module), name) for name, module in INTERNALS.items()}
        )
        self._backend = backend
        # these tell litellm what to do, and are not for the provider
        self._not_sent = frozenset(self._litellm.all_litellm_params)
        self._provider, _, self._model = backend.spec.model.partition("/")
        if self._provider not in PROVIDERS:
            raise ConfigError(f"{backend.source}: requests to {self._provider!r} can't be formed apart from a call")
        self._api_key, self._api_base = api_key, api_base or _ADDRESSES.get(self._provider)
        self._functions: Any = self._litellm.ProviderConfigManager.get_provider_chat_config(
            model=self._model, provider=self._litellm.LlmProviders(self._provider)
        )
        # headers and options by what they depend on
        self._templates: dict[object, tuple[dict[str, str], dict[str, Any]]] = {}
        self._prices = prices_of(backend.spec)

    def accepts(self, request: LMMRequest) -> bool:
        """Whether the request's parameters all go into its body."""
        return self._not_sent.isdisjoint(request.params)

    def form(self, request: LMMRequest, messages: list[dict[str, Any]]) -> WireRequest:
        """Return what the provider is sent for a request, whose messages `wire_messages` has made.

        Raises ConfigError for a parameter that would be dropped, and litellm's own errors for one that it refuses.
        """
        key = _template_key(request)
        template = self._templates.get(key)
        if template is None:
            # takes as long as all the rest, and depends on no text
            if len(self._templates) >= _MAX_REMEMBERED:
                self._templates.clear()
            template = self._templates[key] = self._new_template(request, messages)
        # copies: litellm's functions change both
        headers, options = dict(template[0]), dict(template[1])
        told = {"model": self._model, "messages": messages, "optional_params": options, "litellm_params": {}}
        if self._provider == "gemini":
            gemini = {"custom_llm_provider": "gemini", "cached_content": None}
            return WireRequest(self._url(), headers, self._litellm.transform_request_body(**told, **gemini))
        body: dict[str, Any] = self._functions.transform_request(**told, headers=headers)
        if self._provider == _OLLAMA and request.params.get("logprobs"):
            body["logprobs"] = True
        if self._provider == "anthropic":
            filtered = self._litellm.update_request_with_filtered_beta(headers, body, "anthropic", self._url())
            headers, body = filtered
        return WireRequest(self._url(), headers, body)

    def _new_template(
        self, request: LMMRequest, messages: list[dict[str, Any]]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        arguments = call_arguments(request)
        if self._provider == _OLLAMA:
            arguments.pop("logprobs", None)
        options: dict[str, Any] = self._litellm.get_optional_params(
            model=self._model, custom_llm_provider=self._provider, messages=messages, **arguments
        )
        if self._provider in ("openai", "hosted_vllm"):
            # OpenAI's client merges the first into the body, and leaves the second out
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
        if self._provider == "gemini" and self._api_base:
            return f"{self._api_base.rstrip('/')}/models/{self._model}:generateContent"
        if self._provider == "gemini":
            return str(self._litellm._get_gemini_url(mode="chat", model=self._model, stream=False)[0])
        if self._provider == "anthropic":
            base = str(self._api_base).rstrip("/")
            return base if base.endswith("/v1/messages") else f"{base}/v1/messages"
        return str(
            self._functions.get_complete_url(
                api_base=self._api_base, api_key=self._api_key, model=self._model, optional_params={}, litellm_params={}
            )
        )

    def read(self, content: bytes, body: Mapping[str, Any] | None = None) -> LMMResponse:
        """Return the response in a provider's JSON, with its cost and without its times. `body` is what was asked.

        Raises TransientError for what is no answer.
        """
        return read_body(content, self._backend, self._prices, lambda whole: self._parse(whole, body or {}))

    def error_kind(self, status: int, headers: Mapping[str, str], text: str) -> str:
        """Return the name of the class that litellm has for a provider's error, as acompletion would raise it."""
        try:
            error = self._functions.get_error_class(error_message=text, status_code=status, headers=headers)
            self._litellm.exception_type(self._model, error, self._provider)
        except Exception as mapped:  # noqa: BLE001
            # raising is its way to return
            return type(mapped).__name__
        return ""

    def _parse(self, content: bytes, body: Mapping[str, Any]) -> Any:
        return self._functions.transform_response(
            model=self._model,
            raw_response=HTTPResponse(200, {}, content),
            model_response=self._litellm.ModelResponse(),
            logging_obj=_NO_LOGGER,
            request_data=body,
            messages=[],
            optional_params={},
            litellm_params={},
            encoding=None,
        )


def _template_key(request: LMMRequest) -> object:
    choice = request.choice
    listed: object = None
    if choice is not None and choice.by_schema:
        listed = choice.names
    elif choice is not None and choice.by_index:
        listed = (len(choice.classes), choice.candidates)
    num_ctx = call_arguments(request).get("num_ctx") if request.model.startswith("ollama") else None
    return (
        msgspec.json.encode(request.params, order="sorted"),
        listed,
        any(part.is_prefix for part in request.texts),
        num_ctx,
    )
