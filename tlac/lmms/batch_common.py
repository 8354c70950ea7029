"""What the batch adapters share: a backend's address and key, requests formed, results read, SDKs imported.

Does not know any provider's batch interface.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from tlac.config.schemas import Backend
from tlac.errors import CallError, ConfigError, InputError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.images import prepare, within_limits
from tlac.interfaces import BatchResult, UnknownBatchError
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.litellm_errors import provider_message, translate
from tlac.lmms.litellm_requests import WireFormat, WireRequest, open_wire_format
from tlac.runtime.hub import http_errors
from tlac.types import ImagePart, LMMRequest

BATCH_DISCOUNT = 0.5
"""OpenAI, Anthropic and Google each publish half of the live price for batches."""

_NO_KEY = "none"


class BatchBodies:
    """A backend's requests and results, with its address and key; `address` is that of the provider, where the backend
    names none. Raises ConfigError where a live call would."""

    def __init__(self, backend: Backend, address: str) -> None:
        # knows what a backend file may not say, and how to complain of a missing key
        LiteLLM(backend)
        self.backend = backend
        spec = backend.spec
        # where none is given, the SDKs take keys and addresses from the environment that live calls know nothing of
        self.api_key = os.environ.get(spec.api_key_env or "", "").strip() or _NO_KEY
        self.api_base = (os.environ.get(spec.api_base_env or "") or spec.api_base or address).rstrip("/")
        self._bodies: WireFormat | None = None

    async def form(self, request: LMMRequest) -> WireRequest:
        """The request as a live call would post it, but for the key. Raises as BatchInterface.form does."""
        parts = [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]
        preparation = within_limits(request.preparation, request.model)
        try:
            images = {part.image.sha256: await asyncio.to_thread(prepare, part.image, preparation) for part in parts}
        except InputError as error:
            raise SampleError(str(error)) from error
        bodies = self._opened()
        from openai import OpenAIError

        if not bodies.accepts(request):
            raise ConfigError(f"{self.backend.source}: params hold what is not sent to the provider: leave --batch out")
        try:
            return bodies.form(request, images)
        except OpenAIError as error:
            raise translate(error, self.backend) from error

    def read(self, custom_id: str, body: Any) -> BatchResult:
        """A result from the provider's JSON of an answer, at the price of a batch."""
        bodies = self._opened()
        from openai import OpenAIError

        try:
            response = bodies.read(json.dumps(body).encode())
        except (OpenAIError, CallError) as error:
            return BatchResult(custom_id, None, f"the result can't be read: {provider_message(error)}")
        cost = None if response.cost_usd is None else response.cost_usd * (1 - BATCH_DISCOUNT)
        return BatchResult(custom_id, replace(response, cost_usd=cost))

    def _opened(self) -> WireFormat:
        # imports litellm, which takes seconds
        if self._bodies is None:
            self._bodies = open_wire_format(self.backend, _NO_KEY, self.api_base)
        if self._bodies is None:
            raise ConfigError(
                f"{self.backend.source}: {self.backend.spec.model} is not asked through the interface that batches "
                "take: leave --batch out"
            )
        return self._bodies


def as_object(value: Any) -> dict[str, Any]:
    """A JSON object from a provider; an empty one where something else stands in its place."""
    return value if isinstance(value, dict) else {}


def plain_reason(kind: str, error: Any) -> str:
    """A provider's error as one line: its own words where it has any."""
    document = error if isinstance(error, dict) else {"message": str(error or "")}
    inner = document.get("error", document)
    text = inner.get("message") if isinstance(inner, dict) else str(inner)
    return f"{kind}: {provider_message(RuntimeError(str(text)))}" if text else kind


def load_sdk(name: str, package: str) -> ModuleType:
    """An SDK of the extra `batch`. Raises ConfigError saying how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"--batch needs the package {package} here: pip install 'tlac[batch]'") from error


@contextmanager
def known_batch(backend: Backend, job: str) -> Iterator[None]:
    """Turns the provider's word that there is no such thing into UnknownBatchError."""
    try:
        yield
    except PermanentError as error:
        if getattr(error.__cause__, "status_code", None) != 404:
            raise
        words = provider_message(error.__cause__ or error)
        raise UnknownBatchError(
            f"{backend.name}: the provider has no batch {job} for this key (HTTP 404: {words})"
        ) from error


@contextmanager
def translated(backend: Backend, *kinds: type[Exception]) -> Iterator[None]:
    """Turns an SDK's errors of those kinds into tlac's; connections that break are among them."""
    expected: tuple[type[Exception], ...] = (*kinds, *http_errors(), OSError)
    try:
        yield
    except expected as error:
        code = getattr(error, "code", None)
        if not isinstance(getattr(error, "status_code", None), int) and isinstance(code, int):
            # where google-genai keeps the HTTP status
            error.status_code = code  # type: ignore[attr-defined]
        meaning = translate(error, backend)
        if isinstance(meaning, RateLimitError) and getattr(error, "status_code", 429) != 429:
            # a server that asks to wait may have done its work; one that says 429 has not
            meaning = TransientError(str(meaning))
        raise meaning from error


def json_lines(content: bytes, name: str) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines. Raises TransientError where it is cut short or no JSON."""
    for line in content.splitlines():
        if line.strip():
            try:
                document = json.loads(line)
            except ValueError as error:
                raise TransientError(f"{name}: the file of results is cut short or broken; run it again") from error
            if isinstance(document, dict):
                yield document
