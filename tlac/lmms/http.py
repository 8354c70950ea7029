"""Post JSON over HTTP: one long-lived aiohttp session per event loop, one time-out for the whole call, bounded answers.

Redirects are not followed: they would carry a key and an image to another host.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import ssl
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tlac.errors import TransientError, one_line
from tlac.runtime.formatting import valid_utf8
from tlac.runtime.redaction import redact

if TYPE_CHECKING:
    import aiohttp

MAX_RESPONSE_BYTES = 2**24
"""Longer answers are given up; real ones have a few kilobytes."""

_CHUNK_BYTES = 2**16
# aiohttp warns of longer bodies that are handed over in one piece
_LARGE_BODY_BYTES = 2**20
_CLOSE_TIMEOUT_S = 1.0
_MAX_REASON_CHARS = 240

_sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}
# the generators that hold the sessions open, see _open_session
_holders: dict[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession, None]] = {}


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A whole response, in UTF-8. Header names are matched without case.

    Has what litellm's functions read of an httpx.Response; a real one takes half as long to make as they take to run.
    """

    status_code: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The content as JSON. Raises ValueError."""
        return json.loads(self.content)


async def post(url: str, headers: Mapping[str, str], content: bytes, timeout_s: float) -> HTTPResponse:
    """Post JSON and read the whole answer, whatever its status.

    Raises TransientError where the connection fails or the answer is too long, asyncio.TimeoutError where it is not
    complete within `timeout_s`.
    """
    import aiohttp

    session = await open_session()
    data = content if len(content) < _LARGE_BODY_BYTES else io.BytesIO(content)
    is_secure = url.startswith("https:")
    try:
        async with session.post(
            url,
            data=data,
            headers={"content-type": "application/json", **{name.lower(): value for name, value in headers.items()}},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            allow_redirects=False,
            proxy=_proxy(urlsplit(url)[:2]),
            ssl=_tls() if is_secure else True,
        ) as response:
            return HTTPResponse(response.status, response.headers, valid_utf8(await _read(response), response.charset))
    except asyncio.TimeoutError:
        raise
    except aiohttp.ClientConnectorError as error:
        raise TransientError(
            f"no connection to {error.host}:{error.port}: {redact(one_line(error.os_error))[:_MAX_REASON_CHARS]}"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise TransientError(redact(one_line(error))[:_MAX_REASON_CHARS]) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise TransientError(f"the answer has more than {MAX_RESPONSE_BYTES:,} bytes")
    return bytes(content)


async def open_session() -> aiohttp.ClientSession:
    """Return the session of this event loop."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None:
        # asyncio.run closes the async generators of its loop, and so the session, before the loop is gone
        _holders[loop] = _open_session()
        session = _sessions[loop] = await anext(_holders[loop])
    return session


async def _open_session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    import aiohttp

    loop = asyncio.get_running_loop()
    session = aiohttp.ClientSession(
        # the middleware decides how many calls are in flight
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        # answers are short: compressing gains nothing, and could hide gigabytes in a small body
        headers={"accept": "application/json", "accept-encoding": "identity"},
    )
    try:
        yield session
    finally:
        _sessions.pop(loop, None)
        _holders.pop(loop, None)
        await session.close()


@atexit.register
def _close_all() -> None:
    for loop, holder in list(_holders.items()):
        if loop.is_running():
            with suppress(FutureTimeoutError, RuntimeError):
                asyncio.run_coroutine_threadsafe(holder.aclose(), loop).result(_CLOSE_TIMEOUT_S)


@lru_cache
def _proxy(place: tuple[str, str]) -> str | None:
    """The proxy that the environment names for a (scheme, host)."""
    scheme, host = place
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(host):
        return None
    return proxies.get(scheme) or proxies.get("all")


@cache
def _tls() -> ssl.SSLContext | bool:
    # the variables that say which certificates to trust are those of litellm's whole call
    try:
        from litellm.llms.custom_httpx.http_handler import get_ssl_configuration
    except ImportError:
        return True
    found = get_ssl_configuration()
    return found if isinstance(found, ssl.SSLContext) else bool(found)
