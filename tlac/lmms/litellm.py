"""Hosted and served LMMs through litellm.

Does not retry, count, limit or store: tlac.calls does. litellm itself is imported at the first question, since
the import takes seconds; a missing key or a bad parameter name is found before that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from types import ModuleType
from typing import Any

import msgspec

from tlac.config import Backend, parse
from tlac.errors import ConfigError, InputError, SampleError, TransientError
from tlac.images import prepare
from tlac.litellm_runtime import load_litellm
from tlac.lmms.litellm_errors import provider_message, translate
from tlac.lmms.litellm_wire import choice_arguments, read_response, wire_messages
from tlac.redaction import RedactingFilter
from tlac.resources import Resource
from tlac.types import ImagePart, LMMRequest, LMMResponse, Outcome, PreparedImage

# set by tlac itself, or a way to carry a secret into keys, logs and runs
_RESERVED = {"model", "messages", "stream", "n", "timeout", "num_retries", "max_retries", "fallbacks", "drop_params"}
_RESERVED |= {
    "mock_response",
    "response_format",
    "output_config",
    "api_key",
    "api_base",
    "base_url",
    "headers",
    "extra_headers",
}
# litellm drops what it does not know for Gemini without a word; these it does send on
_GEMINI_EXTRAS = frozenset(("top_k", "safety_settings"))
# a placeholder keeps litellm from sending OPENAI_API_KEY and the like to a server they were not meant for
_NO_KEY = "none"


class LiteLLMOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This adapter's own options in a backend file. `key_optional`: a server that may run without a key."""

    key_optional: bool = False


class LiteLLM:
    """An LMM behind litellm, as a backend file describes it.

    Raises ConfigError at once where the key is missing or a parameter can't be used.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        spec = backend.spec
        options = parse(LiteLLMOptions, Resource(backend.name, f"{backend.source}: options", spec.options))
        for section in ("params", "stage1_params", "stage2_params"):
            if reserved := sorted(_RESERVED & set(getattr(spec, section))):
                raise ConfigError(f"{backend.source}: {section}.{reserved[0]} can't be set there: tlac sets it itself")
        self._api_key = _read_key(backend, options.key_optional)
        self._api_base = (os.environ.get(spec.api_base_env or "") or spec.api_base or "").rstrip("/") or None
        self._listener: Callable[[Mapping[str, str]], None] | None = None

    def __repr__(self) -> str:
        return f"LiteLLM({self._backend.name!r})"

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        """Have `listener` told the headers of every response, for their rate limits."""
        self._listener = listener

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Answer one request.

        Raises TransientError, RateLimitError, PermanentError or SampleError where there is no response, and
        ConfigError for a parameter that the provider would refuse.
        """
        images = await self._prepare_images(request)
        litellm = _load()
        from openai import OpenAIError

        arguments = self._arguments(litellm, request, images)
        timeout_s = self._backend.spec.limits.timeout_s
        started = time.perf_counter()
        try:
            # litellm's own time-out is per read: a body that drips in would never end
            response = await asyncio.wait_for(litellm.acompletion(**arguments), timeout_s)
        except asyncio.TimeoutError as error:
            raise TransientError(f"{self._backend.name}: no answer within {timeout_s:g} s") from error
        except litellm.exceptions.ContentPolicyViolationError as error:
            refusal = LMMResponse(Outcome.REFUSED, "", provider_message(error))
            return self._dated(refusal, started)
        except OpenAIError as error:
            raise translate(error, self._backend) from error
        self._tell(response)
        return self._dated(read_response(response, self._backend.spec.prices), started)

    def _dated(self, response: LMMResponse, started: float) -> LMMResponse:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(response, latency_s=time.perf_counter() - started, created_at=now)

    async def _prepare_images(self, request: LMMRequest) -> dict[str, PreparedImage]:
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        try:
            return {
                part.image.sha256: await asyncio.to_thread(prepare, part.image, request.preparation) for part in parts
            }
        except InputError as error:
            raise SampleError(str(error)) from error

    def _arguments(
        self, litellm: ModuleType, request: LMMRequest, images: Mapping[str, PreparedImage]
    ) -> dict[str, Any]:
        self._check_params(litellm, request)
        arguments: dict[str, Any] = dict(request.params)
        if request.choice is not None and request.choice.by_index:
            arguments.update(choice_arguments(request.model, request.choice))
        arguments.update(
            model=request.model,
            messages=wire_messages(request, images),
            api_key=self._api_key,
            api_base=self._api_base,
            timeout=self._backend.spec.limits.timeout_s,
            num_retries=0,
            max_retries=0,
        )
        return arguments

    def _check_params(self, litellm: ModuleType, request: LMMRequest) -> None:
        provider, _, model = request.model.partition("/")
        if provider == "gemini":
            known = set(litellm.get_supported_openai_params(model, "gemini")) | _GEMINI_EXTRAS
            if unknown := sorted(set(request.params) - known):
                raise ConfigError(
                    f"{self._backend.source}: parameter {unknown[0]!r} under params would be dropped on the way to "
                    "Gemini; remove it"
                )
        elif provider in ("ollama", "ollama_chat"):
            # without an entry litellm asks localhost about the model before each call, blocking the event loop
            entry = {"litellm_provider": provider, "mode": "chat"}
            prices = {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
            litellm.model_cost.setdefault(request.model, entry | prices)

    def _tell(self, response: Any) -> None:
        headers = (getattr(response, "_hidden_params", None) or {}).get("additional_headers")
        if self._listener is not None and headers:
            self._listener({str(name).removeprefix("llm_provider-"): str(value) for name, value in headers.items()})


@cache
def _load() -> ModuleType:
    litellm = load_litellm()
    for name in ("LiteLLM", "httpx", "openai"):
        # these log requests with their headers and errors with whatever the provider sent
        logging.getLogger(name).addFilter(RedactingFilter())
    return litellm


def _read_key(backend: Backend, is_optional: bool) -> str:
    variable = backend.spec.api_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key and not is_optional:
        raise ConfigError(
            f"backend {backend.name!r} needs a key: set the environment variable {variable}, "
            "or try --backend embedded, which needs none"
        )
    return key or _NO_KEY
