"""Hosted and served LMMs through litellm.

litellm itself is imported at the first question, since the import takes seconds; a missing key or a bad parameter name
is found before that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from tlac.config.schemas import Backend, check_options
from tlac.errors import ConfigError, TransientError
from tlac.lmms.http import MAX_RESPONSE_BYTES, open_session, post
from tlac.lmms.litellm_errors import ErrorFacts, facts_of, parse_json, refusal_of, translate, unasked_error
from tlac.lmms.litellm_requests import (
    WireFormat,
    WireRequest,
    call_arguments,
    check_params,
    context_tokens,
    open_wire_format,
    register_model,
    wire_messages,
)
from tlac.lmms.litellm_responses import native_finish_reason, read_body, read_response, readable_body, with_logprob
from tlac.lmms.prices import prices_of
from tlac.runtime.litellm_setup import LiteLLMCall, litellm_call, load_litellm
from tlac.runtime.redaction import remember_secret
from tlac.types import LMMRequest, LMMResponse

# set by tlac itself, or a way to carry a secret into keys, logs and runs
_RESERVED = {
    *("model", "messages", "stream", "n", "timeout", "num_retries", "max_retries", "fallbacks", "drop_params"),
    *("mock_response", "response_format", "output_config"),
    *("api_key", "api_base", "base_url", "headers", "extra_headers"),
}
# keeps litellm from sending OPENAI_API_KEY and the like to a server they were not meant for
_NO_KEY = "none"
# these have credentials besides a key, which litellm finds in the environment, and a key would override
_OWN_CREDENTIALS = {
    *("bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat", "vertex_ai", "vertex_ai_beta", "azure", "azure_ai"),
    *("watsonx", "oci", "snowflake", "databricks", "sap"),
}
_OK = 200

_log = logging.getLogger(__name__)


class LiteLLM:
    """An LMM behind litellm, as a backend file describes it.

    Raises ConfigError at once where the key is missing or a parameter can't be used.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        spec = backend.spec
        # of a server that may run without a key
        check_options(backend, {"key_optional": bool})
        for section in ("params", "stage1_params", "stage2_params"):
            if reserved := sorted(_RESERVED & set(getattr(spec, section))):
                raise ConfigError(f"{backend.source}: {section}.{reserved[0]} can't be set there: tlac sets it itself")
        self._api_base = spec.address or None
        if "@" in urlsplit(self._api_base or "").netloc:
            place = spec.api_base_env if os.environ.get(spec.api_base_env or "") else f"{backend.source}: api_base"
            raise ConfigError(f"{place}: the address holds a user and a password: leave them out, and use api_key_env")
        self._api_key = _read_key(backend, spec.options.get("key_optional", False), self._api_base)
        self._checked: set[bytes] = set()
        self._has_warned = False
        self._on_headers: Callable[[Mapping[str, str]], None] = lambda _headers: None

    def __repr__(self) -> str:
        return f"LiteLLM({self._backend.name!r})"

    def listen(self, listener: Callable[[Mapping[str, str]], None]) -> None:
        """Call `listener` with the headers of every response, for their rate limits."""
        self._on_headers = listener

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """Answer one request.

        Raises TransientError, RateLimitError, PermanentError or SampleError where there is no response, and
        ConfigError for a parameter that the provider would refuse.
        """
        with litellm_call(MAX_RESPONSE_BYTES, readable_body) as marked:
            # one change of thread for all that an image needs; text alone takes less time than that
            is_quick = "litellm" in sys.modules and not request.images
            call = self._prepare(request) if is_quick else await asyncio.to_thread(self._prepare, request)
            started = time.perf_counter()
            try:
                response = await (self._complete(call, marked) if isinstance(call, dict) else self._post(*call))
            except asyncio.TimeoutError as error:
                timeout_s = self._backend.spec.limits.timeout_s
                message = f"{self._backend.name}: no answer within {timeout_s:g} s"
                raise TransientError(message, kind="time-out") from error
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(response, latency_s=time.perf_counter() - started, created_at=now)

    def _prepare(self, request: LMMRequest) -> tuple[WireFormat, WireRequest, bytes] | dict[str, Any]:
        """Form the body to post, or the arguments of `litellm.acompletion` where that is the only way."""
        messages = wire_messages(request)
        load_litellm()
        from openai import OpenAIError

        register_model(request.model)
        key = msgspec.json.encode(request.params, order="sorted")
        if key not in self._checked:
            check_params(self._backend, request)
            self._checked.add(key)
        self._check_context(request)
        wire_format = self._wire_format
        if wire_format is not None and wire_format.accepts(request):
            # what can't be formed is left to acompletion, which says why
            with suppress(OpenAIError):
                wire = wire_format.form(request, messages)
                return wire_format, wire, wire.encode()
        arguments = call_arguments(request) | {
            "model": request.model,
            "messages": messages,
            "api_key": self._api_key,
            "api_base": self._api_base,
            "timeout": self._backend.spec.limits.timeout_s,
        }
        if not request.model.startswith("huggingface/"):
            # OpenAI's client tries three times without them; litellm posts them to Hugging Face as sampling parameters
            arguments |= {"num_retries": 0, "max_retries": 0}
        if self._azure_client is not None:
            arguments["client"] = self._azure_client
        return arguments

    def _check_context(self, request: LMMRequest) -> None:
        num_ctx = request.params.get("num_ctx")
        if not self._has_warned and isinstance(num_ctx, int) and (needed := context_tokens(request)) > num_ctx:
            self._has_warned = True
            _log.warning(
                "%s: a prompt of up to %s tokens may pass num_ctx (%s), and Ollama cuts it in silence: raise num_ctx",
                *(self._backend.name, needed, num_ctx),
            )

    @cached_property
    def _azure_client(self) -> Any:
        """OpenAI's client for Azure: litellm's own overlooks AZURE_AD_TOKEN."""
        token = os.environ.get("AZURE_AD_TOKEN")
        key = self._api_key or os.environ.get("AZURE_API_KEY")
        if not self._backend.spec.model.startswith("azure/") or not self._api_base or not (key or token):
            return None
        import httpx
        from openai import AsyncAzureOpenAI

        settings: dict[str, Any] = {"api_key": key} if key else {"azure_ad_token": token}
        settings["api_version"] = os.environ.get("AZURE_API_VERSION") or load_litellm().AZURE_DEFAULT_API_VERSION
        settings["http_client"] = httpx.AsyncClient(follow_redirects=False, timeout=self._backend.spec.limits.timeout_s)
        return AsyncAzureOpenAI(**settings, azure_endpoint=self._api_base, max_retries=0)

    @cached_property
    def _wire_format(self) -> WireFormat | None:
        return open_wire_format(self._backend, self._api_key, self._api_base)

    async def _post(self, wire_format: WireFormat, wire: WireRequest, content: bytes) -> LMMResponse:
        """Ask over our own transport, which takes a fifth of the processor time of acompletion."""
        name = self._backend.name
        try:
            posted = await post(wire.url, wire.headers, content, self._backend.spec.limits.timeout_s)
        except TransientError as error:
            raise TransientError(f"{name}: the provider failed ({error})", kind="no connection") from error
        _log.debug(
            "%s: %s bytes posted, HTTP %s, %s bytes", name, len(content), posted.status_code, len(posted.content)
        )
        if posted.status_code != _OK:
            headers = {name.lower(): value for name, value in posted.headers.items()}
            kind = wire_format.error_kind(posted.status_code, headers, posted.text)
            return self._refusal(ErrorFacts(posted.status_code, kind, headers, posted.text))
        response = wire_format.read(posted.content, wire.body)
        self._on_headers(posted.headers)
        return response

    async def _complete(self, arguments: dict[str, Any], marked: LiteLLMCall) -> LMMResponse:
        """Ask through litellm's whole call."""
        litellm = load_litellm()
        from openai import OpenAIError

        try:
            call = litellm.acompletion(**arguments, shared_session=await open_session())
            # litellm's own time-out is per read: a body that drips in would never end
            response = await asyncio.wait_for(call, arguments["timeout"])
        except OpenAIError as error:
            _log.debug("%s: litellm's call failed", self._backend.name, exc_info=True)
            if not marked.hosts and (unasked := unasked_error(error, self._backend)):
                raise unasked from error
            if marked.answer:
                # it is paid for, and litellm can't read it
                return read_body(marked.answer, self._backend, prices_of(self._backend.spec))
            return self._refusal(error)
        headers = (getattr(response, "_hidden_params", None) or {}).get("additional_headers") or {}
        self._on_headers({str(name).removeprefix("llm_provider-"): str(value) for name, value in headers.items()})
        return self._read(response, marked.answer)

    def _read(self, response: Any, answer: bytes) -> LMMResponse:
        """Read the response of litellm's whole call, which passes errors over and knows no answer without an end."""
        document = parse_json(answer)
        if isinstance(document, dict) and document.get("error"):
            # raises what that means
            return read_body(answer, self._backend, prices_of(self._backend.spec))
        try:
            read = read_response(response, prices_of(self._backend.spec), native_finish_reason(document))
            return with_logprob(read, document)
        except TransientError as error:
            raise TransientError(f"{self._backend.name}: {error}", kind=error.kind) from error

    def _refusal(self, error: Exception | ErrorFacts) -> LMMResponse:
        """Return the refusal that an error is. Raises what else it means."""
        refusal = refusal_of(error if isinstance(error, ErrorFacts) else facts_of(error))
        if refusal is None:
            raise translate(error, self._backend) from (error if isinstance(error, Exception) else None)
        return refusal


def _read_key(backend: Backend, is_optional: bool, address: str | None) -> str | None:
    """Return the key for a backend; None leaves it to litellm, which takes the provider's own for its own address."""
    variable, key = backend.spec.api_key_env, backend.spec.api_key
    remember_secret(key)
    if variable and not key and not is_optional:
        raise ConfigError(
            f"backend {backend.name!r} needs a key: set the environment variable {variable}, "
            "or try --backend embedded, which needs none"
        )
    if "\n" in key or "\r" in key:
        raise ConfigError(f"backend {backend.name!r}: the key in {variable} has a line break in it: set it anew")
    provider = backend.spec.model.partition("/")[0]
    is_local = provider in ("ollama", "ollama_chat", "hosted_vllm")
    needs_placeholder = (address or is_local or variable) and provider not in _OWN_CREDENTIALS
    return key or (_NO_KEY if needs_placeholder else None)
