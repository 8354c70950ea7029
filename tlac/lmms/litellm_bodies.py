"""Requests as a provider's JSON bodies, and its JSON as responses, by litellm's own functions for that provider.

Calls nobody. Bodies and responses equal those of `litellm.acompletion`, at a fraction of its time; tests hold them to
that. What goes over the wire besides (how to connect, how long to wait) is tlac.lmms.transport's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from tlac.config import Backend
from tlac.errors import ConfigError
from tlac.litellm_runtime import load_litellm
from tlac.lmms.litellm_wire import call_arguments, check_params, read_response, register_model, wire_messages
from tlac.types import ImagePart, LMMRequest, LMMResponse, PreparedImage, TextPart

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
    by_index = (len(choice.classes), choice.offered) if choice is not None and choice.by_index else None
    return msgspec.json.encode(request.params, order="sorted"), by_index, _has_prefix(request)


def _has_prefix(request: LMMRequest) -> bool:
    parts: Iterable[TextPart | ImagePart] = (part for message in request.messages for part in message.parts)
    return any(isinstance(part, TextPart) and part.is_prefix for part in parts)
