"""Posts JSON over HTTP: one long-lived aiohttp session for each event loop, a time for the whole call, bounded answers.

Does not know providers, nor what an answer means. Redirects are not followed: they would carry a key to another host.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import ssl
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tlac.runtime.redaction import redact

if TYPE_CHECKING:
    import aiohttp

MOST_BYTES = 2**24
"""An answer may be so long; real ones have a few kilobytes."""

_CHUNK_BYTES = 2**16
# aiohttp warns of longer ones that are handed over in one piece
_LARGE_BODY_BYTES = 2**20
_CLOSING_S = 1.0
_LONGEST_REASON = 240

_openings: dict[asyncio.AbstractEventLoop, AsyncGenerator[aiohttp.ClientSession, None]] = {}
_sessions: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}


class NoAnswerError(Exception):
    """There is no whole answer; the text says why in one line, without secrets."""


@dataclass(frozen=True, slots=True)
class Posted:
    """What came back. The names of headers are told apart without case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


async def post(url: str, headers: Mapping[str, str], content: bytes, timeout_s: float) -> Posted:
    """Post JSON and read the whole answer, whatever its status.

    Raises NoAnswerError where the connection fails or the answer is too long, asyncio.TimeoutError where it is not
    there within `timeout_s`.
    """
    import aiohttp

    session = await _session()
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
            return Posted(response.status, response.headers, await _read(response))
    except asyncio.TimeoutError:
        raise
    except aiohttp.ClientConnectorError as error:
        raise NoAnswerError(f"no connection to {error.host}:{error.port}: {_reason(error.os_error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswerError(_reason(error)) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        content += chunk
        if len(content) > MOST_BYTES:
            raise NoAnswerError(f"the answer has more than {MOST_BYTES:,} bytes")
    return bytes(content)


def _reason(error: BaseException) -> str:
    text = " ".join(redact(str(error)).split())
    return text[:_LONGEST_REASON] or type(error).__name__


async def _session() -> aiohttp.ClientSession:
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None:
        opening = _opening()
        # asyncio.run ends the generators of its loop, and so closes the session before the loop is gone
        session = await anext(opening)
        _openings[loop], _sessions[loop] = opening, session
    return session


async def _opening() -> AsyncGenerator[aiohttp.ClientSession, None]:
    import aiohttp

    loop = asyncio.get_running_loop()
    session = aiohttp.ClientSession(
        # how many calls are in flight is decided elsewhere
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        # answers are short: nothing to gain from packing, and nothing that unpacks to gigabytes
        headers={"accept": "application/json", "accept-encoding": "identity"},
    )
    try:
        yield session
    finally:
        _sessions.pop(loop, None)
        _openings.pop(loop, None)
        await session.close()


@atexit.register
def _close_all() -> None:
    for loop, opening in list(_openings.items()):
        if loop.is_running():
            with suppress(FutureTimeoutError, RuntimeError):
                asyncio.run_coroutine_threadsafe(opening.aclose(), loop).result(_CLOSING_S)


@lru_cache
def _proxy(place: tuple[str, str]) -> str | None:
    """The proxy that the environment names for a scheme and a host."""
    scheme, host = place
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(host):
        return None
    return proxies.get(scheme) or proxies.get("all")


@cache
def _tls() -> ssl.SSLContext | bool:
    # which certificates to trust is said in the environment, in the same words as for all of litellm's calls
    from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

    found = get_ssl_configuration()
    return found if isinstance(found, ssl.SSLContext) else bool(found)
