"""What litellm may do in a call of ours: it follows no redirect, sends nothing of the environment but the key, and logs
nothing on the terminal.

litellm makes its HTTP clients and loggers in dozens of places, and takes none from us for most providers. So httpx's
clients and the loggers are watched, in calls of ours alone: what the user's own clients follow is not ours to decide.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlac.runtime.hub import HTTP_CLIENTS
from tlac.runtime.redaction import RedactingFilter

if TYPE_CHECKING:
    import httpx

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


def watch_http_clients() -> None:
    """Have httpx's clients heed what a call of ours allows, and note there what was asked and answered. Called once."""
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
        content = await _read(response, call.max_bytes)
        if request.method == "POST":
            # of the last one alone: an earlier one may have fetched a token
            call.answer = content if response.status_code == httpx.codes.OK else b""
            content = call.rewrite(content) if call.rewrite else content
        headers = [(name, value) for name, value in response.headers.items() if name not in _OF_THE_TRANSFER]
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
