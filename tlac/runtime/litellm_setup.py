"""Import litellm quietly and without network, once for every adapter that needs it; and hold it, in a call of ours, to
following no redirect, sending nothing of the environment but the key, and logging nothing on the terminal.

What is set here was measured: without it the import asks for a price map over the network and reads a .env file, and
calls print advice on stderr. litellm makes its HTTP clients and loggers in dozens of places, and takes none from us for
most providers. So httpx's clients and the loggers are watched, in calls of ours alone: what the user's own clients
follow is not ours to decide.
"""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tlac.runtime.formatting import valid_utf8
from tlac.runtime.libraries import HTTP_CLIENTS, library_settings, restored_environment
from tlac.runtime.redaction import RedactingFilter

if TYPE_CHECKING:
    import httpx

_ENVIRONMENT = {
    # else the import blocks for seconds on a machine without network
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # else the import loads a .env file of the working directory
    "LITELLM_MODE": "PRODUCTION",
}
_LOG_LEVEL = "LITELLM_LOG"
# these log requests with their headers, errors with whatever the provider sent, and advice
LITELLM_LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", *HTTP_CLIENTS)
# OpenAI's and Anthropic's clients put these in every request, whoever it goes to
_HEADERS_OF_ENVIRONMENT = (
    ("openai-organization", "OPENAI_ORG_ID"),
    ("openai-organization", "OPENAI_ORGANIZATION"),
    ("openai-project", "OPENAI_PROJECT_ID"),
)
_LINES_OF_HEADERS = ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")
# headers that speak of a body as it was sent, and not of it unpacked
_OF_THE_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")


def load_litellm() -> ModuleType:
    """Return the litellm module: local price map, no telemetry, no advice on the terminal, none of its own retries.

    Takes about 4 s the first time.
    """
    # two threads that load it at once would each put back what the other has set
    with library_settings:
        return _load()


@functools.cache
def _load() -> ModuleType:
    for name in LITELLM_LOGGERS:
        logging.getLogger(name).addFilter(OurCallsFilter())
    with restored_environment([*_ENVIRONMENT, _LOG_LEVEL]), _without_garbage_collection(), litellm_call():
        os.environ.update(_ENVIRONMENT)
        # a level that logging doesn't know would end the import
        if not isinstance(getattr(logging, os.environ.get(_LOG_LEVEL, "").upper(), None), int):
            os.environ.pop(_LOG_LEVEL, None)
        litellm = importlib.import_module("litellm")
        # else it is fetched over the network with the first call that needs it
        with suppress(ImportError, AttributeError):
            importlib.import_module("litellm.anthropic_beta_headers_manager").reload_beta_headers_config()
    litellm.telemetry = False  # type: ignore[attr-defined]
    litellm.suppress_debug_info = True  # type: ignore[attr-defined]
    litellm.num_retries = 0  # type: ignore[attr-defined]
    # embedding() takes max_retries=0 for "not given" and falls back to this
    litellm.DEFAULT_MAX_RETRIES = 0  # type: ignore[attr-defined]
    _watch_http_clients()
    return litellm


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Don't look for garbage: an import makes none, and looking for it takes a tenth of its time.

    What is there afterwards, half a million objects, stays out of later searches as well: they would double the
    processor time of a call.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@dataclass
class LiteLLMCall:
    """What is known of one call of ours: the hosts that it has posted to, the last HTTP status that came back, and the
    body of its answer (HTTP 200)."""

    hosts: list[str] = field(default_factory=list)
    status: int = 0
    answer: bytes = b""
    max_bytes: int | None = None
    rewrite: Callable[[bytes], bytes] | None = None


_call: ContextVar[LiteLLMCall | None] = ContextVar("call", default=None)


class OurCallsFilter(RedactingFilter):
    """Takes what libraries log in our calls: dropped, but for tlac's own logger at DEBUG, which writes it with secrets
    masked.

    Records of other calls in this process pass as they are: their loggers are not ours to change.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be written where the library writes it."""
        if _call.get() is None:
            return True
        log = logging.getLogger("tlac")
        if log.isEnabledFor(logging.DEBUG) and super().filter(record):
            # litellm's own handler writes to stdout, which is for results
            record.msg = str(record.msg).strip()
            log.handle(record)
        return False


@contextmanager
def litellm_call(
    max_bytes: int | None = None, rewrite: Callable[[bytes], bytes] | None = None
) -> Iterator[LiteLLMCall]:
    """Mark what litellm does meanwhile, in this task and those that it starts, as a call of ours.

    What it logs is kept from the terminal, and no redirect is followed: it would take a key and an image to another
    host. With `max_bytes` an answer that is awaited is given up when it is longer, kept, and given to litellm as
    `rewrite` makes it.
    """
    call = LiteLLMCall(max_bytes=max_bytes, rewrite=rewrite)
    token = _call.set(call)
    try:
        yield call
    finally:
        _call.reset(token)


def _watch_http_clients() -> None:
    """Have httpx's clients heed what a call of ours allows, and note there what was asked and answered."""
    import httpx

    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    @functools.wraps(send)
    def watched(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        return _noted(send(client, request, **options | _options_of(request)))

    @functools.wraps(send_async)
    async def watched_async(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        call = _call.get()
        if call is None or call.max_bytes is None:
            return _noted(await send_async(client, request, **options | _options_of(request)))
        response = _noted(await send_async(client, request, **options | _options_of(request) | {"stream": True}))
        sent = await _read(response, call.max_bytes)
        content = valid_utf8(sent, response.charset_encoding)
        if request.method == "POST":
            # of the last one alone: an earlier one may have fetched a token
            call.answer = content if response.status_code == httpx.codes.OK else b""
            content = call.rewrite(content) if call.rewrite else content
        headers = [(name, value) for name, value in response.headers.items() if name not in _OF_THE_TRANSFER]
        if content is not sent:
            headers = [(name, value) for name, value in headers if name != "content-type"]
            headers.append(("content-type", "application/json"))
        whole = httpx.Response(
            response.status_code, headers=headers, content=content, request=request, extensions=response.extensions
        )
        whole.elapsed = response.elapsed
        return whole

    httpx.Client.send = watched  # type: ignore[assignment, method-assign]
    httpx.AsyncClient.send = watched_async  # type: ignore[assignment, method-assign]


def _options_of(request: httpx.Request) -> dict[str, bool]:
    call = _call.get()
    if call is None:
        return {}
    if request.method == "POST":
        # litellm gets other things, such as a tokenizer's settings, from other hosts
        call.hosts.append(request.url.host)
    drop_headers_of_environment(request)
    return {"follow_redirects": False}


def drop_headers_of_environment(request: httpx.Request) -> None:
    """Take out of a request what the providers' clients found in the environment besides the key.

    Other providers and servers have no business with it, and our own transport does not send it either.
    """
    lines = [line for name in _LINES_OF_HEADERS for line in os.environ.get(name, "").splitlines()]
    found = [(name, os.environ.get(variable, "")) for name, variable in _HEADERS_OF_ENVIRONMENT]
    for name, value in (*found, *((name, value) for name, _, value in (line.partition(":") for line in lines))):
        # as it was found, and not what the call itself says under that name
        if value.strip() and request.headers.get(name.strip()) == value.strip():
            del request.headers[name.strip()]


def _noted(response: httpx.Response) -> httpx.Response:
    call = _call.get()
    if call is not None:
        call.status = response.status_code
    return response


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    content = bytearray()
    try:
        # unpacked: a small body may hold gigabytes
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > max_bytes:
                raise ValueError(f"the answer has more than {max_bytes:,} bytes")
    finally:
        await response.aclose()
    return bytes(content)
