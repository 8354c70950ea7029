"""What the batch adapters share: a backend's address and key, requests formed, results read, SDKs imported."""

from __future__ import annotations

import asyncio
import errno
import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from tlac.config.schemas import Backend
from tlac.errors import ConfigError, PermanentError, RateLimitError, SampleError, StoreError, TransientError
from tlac.interfaces import BatchResult, UnknownBatchError
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.litellm_errors import provider_message, translate
from tlac.lmms.litellm_requests import WireFormat, WireRequest, check_params, open_wire_format, wire_messages
from tlac.runtime.libraries import http_errors
from tlac.types import LMMRequest

CLOCK_SLACK = timedelta(days=1)
"""How far a batch may lie before the moment that we wrote it down: clocks are set wrong, and set right again."""

_NO_KEY = "none"
_DATE_TIMEOUT_S = 20.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# our ids of requests, in a line that is no JSON
_CUSTOM_ID = re.compile(rb"\b[0-9a-f]{8}-[0-9a-f]{40}\b")


class BatchAdapter:
    """Forms one backend's requests and reads its results; the base of the adapters for the providers' interfaces.

    `address` is asked where the backend names none. Raises ConfigError where a live call would.
    """

    # OpenAI, Anthropic and Google each publish half of the live price for batches
    discount = 0.5
    address: str

    def __init__(self, backend: Backend) -> None:
        # knows what a backend file may not say, and how to complain of a missing key
        LiteLLM(backend)
        self._backend = backend
        # where none is given, the SDKs take keys and addresses from the environment that live calls know nothing of
        self._api_key = backend.spec.api_key or _NO_KEY
        self._api_base = backend.spec.address or self.address

    async def form(self, request: LMMRequest) -> bytes:
        """See tlac.interfaces.BatchInterface."""
        return (await self._form(request)).encode()

    async def _form(self, request: LMMRequest) -> WireRequest:
        """The request as a live call would post it, but for the key. Raises as BatchInterface.form does."""
        messages = await asyncio.to_thread(wire_messages, request)
        wire_format = self._wire_format
        from openai import OpenAIError

        check_params(self._backend, request)
        if not wire_format.accepts(request):
            raise ConfigError(
                f"{self._backend.source}: params hold what is not sent to the provider: leave --batch out"
            )
        try:
            return wire_format.form(request, messages)
        except OpenAIError as error:
            raise translate(error, self._backend) from error

    @cached_property
    def _wire_format(self) -> WireFormat:
        # imports litellm, which takes seconds
        found = open_wire_format(self._backend, _NO_KEY, self._api_base)
        if found is None:
            raise ConfigError(
                f"{self._backend.source}: {self._backend.spec.model} is not asked through the interface that batches "
                "take: leave --batch out"
            )
        return found

    def _read_answer(self, custom_id: str, body: Any) -> BatchResult:
        """A result from the provider's JSON of an answer, at the price of a batch."""
        wire_format = self._wire_format
        if error := as_object(body).get("error"):
            # some send an error as if it were an answer
            return BatchResult(custom_id, None, plain_reason("the provider failed", error))
        try:
            response = wire_format.read(json.dumps(body).encode())
        except Exception as error:  # noqa: BLE001 - one result's fault is its request's, whatever a library raises
            words = f": {provider_message(error)}" if str(error) else ""
            return BatchResult(custom_id, None, f"the result can't be read{words}")
        cost = None if response.cost_usd is None else response.cost_usd * (1 - self.discount)
        return BatchResult(custom_id, replace(response, cost_usd=cost))

    @contextmanager
    def _known_batch(self, job: str, is_for_results: bool = False) -> Iterator[None]:
        """Turns the provider's word that there is no such batch, or no results of it, into UnknownBatchError."""
        try:
            yield
        except PermanentError as error:
            status = getattr(error.__cause__, "status_code", None)
            # Gemini forbids to read a file whose time is over
            if status not in ((403, 404, 410) if is_for_results else (404,)):
                raise
            words = provider_message(error.__cause__ or error)
            what = f"no results of batch {job} (any more)" if is_for_results else f"no batch {job} for this key"
            raise UnknownBatchError(
                f"{self._backend.name}: the provider has {what} (HTTP {status}: {words})"
            ) from error

    @contextmanager
    def _translated(self, *kinds: type[Exception]) -> Iterator[None]:
        """Turns an SDK's errors of those kinds into tlac's; connections that break are among them."""
        expected: tuple[type[Exception], ...] = (*kinds, *http_errors(), OSError)
        try:
            yield
        except expected as error:
            if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_ERRORS):
                where = f"{error.filename}: " if error.filename is not None else ""
                raise StoreError(
                    f"{where}{error.strerror or error}; free some space or choose another --store"
                ) from error
            code = getattr(error, "code", None)
            if not isinstance(getattr(error, "status_code", None), int) and isinstance(code, int):
                # where google-genai keeps the HTTP status
                error.status_code = code  # type: ignore[attr-defined]
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> Exception:
        status, meaning = getattr(error, "status_code", None), translate(error, self._backend)
        if isinstance(meaning, SampleError) or status == 409:
            # it is said of the batch as a whole: nobody's image or parameters are to blame; a batch that is over can't
            # be cancelled
            words = f"HTTP {status or 'unknown'}: {provider_message(error)}"
            return PermanentError(f"{self._backend.name}: the provider refused ({words})")
        if isinstance(meaning, RateLimitError) and getattr(error, "status_code", 429) != 429:
            # a server that asks to wait may have done its work; one that says 429 has not
            return TransientError(str(meaning))
        return meaning


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


def read_lines(
    chunks: Iterable[bytes], read: Callable[[dict[str, Any]], BatchResult], name: str
) -> Iterator[BatchResult]:
    """The results in a file of JSON lines. A line that is no JSON object is the failure of its request alone.

    Raises TransientError at the end where the last line is cut short.
    """
    rest, number = b"", 0
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for number, line in enumerate(lines, start=number + 1):  # noqa: B020 - goes on counting
            if line.strip():
                yield _read_line(line, read) or _broken(line, number)
    if rest.strip():
        result = _read_line(rest, read)
        if result is None:
            raise TransientError(f"{name}: the file of results is cut short")
        yield result


def _read_line(line: bytes, read: Callable[[dict[str, Any]], BatchResult]) -> BatchResult | None:
    with suppress(ValueError, RecursionError):
        document = json.loads(line)
        return read(document) if isinstance(document, dict) else None
    return None


def _broken(line: bytes, number: int) -> BatchResult:
    found = _CUSTOM_ID.search(line)
    return BatchResult(found[0].decode() if found else "", None, f"line {number} of the results can't be read")


def clock_shift(address: str) -> timedelta:
    """How far the provider's clock is ahead of ours, by the date that it answers with; zero where it gives none."""
    import httpx

    with suppress(httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, TypeError):
        # whatever it answers has a date, so that no key is needed
        date = parsedate_to_datetime(httpx.head(address, timeout=_DATE_TIMEOUT_S).headers["date"])
        return date - datetime.now(timezone.utc)
    return timedelta()
