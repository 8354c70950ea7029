"""What a cassette keeps of a request and a response: no key, no image, nothing of this machine.

It is applied on replay too, so that requests are matched by what is kept: an image by its sha256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vcr.request import Request

from tlac.runtime.redaction import redact

HEADER = {
    "emulator": "# Recorded against tests/support/emulator, which speaks this provider's format; "
    "no provider was asked.\n",
    "provider": "# Recorded against the provider itself.\n",
}
# where the shipped backends ask, by the end of the path
_HOSTS = {
    ":generateContent": "https://generativelanguage.googleapis.com",
    "/v1/chat/completions": "https://api.openai.com",
    "/v1/messages": "https://api.anthropic.com",
    "/api/chat": "http://127.0.0.1:11434",
}
_KEPT_REQUEST_HEADERS = re.compile(r"content-type|anthropic-(version|beta)", re.IGNORECASE)
_KEPT_RESPONSE_HEADERS = re.compile(r"content-type|retry-after|(x-|anthropic-)ratelimit-.*", re.IGNORECASE)
_DATA_URL = re.compile(r"^data:image/\w+;base64,(.*)$", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{64,}={0,2}")


def scrub_request(request: Request) -> Request:
    """The request as a cassette keeps it, and as it is matched."""
    place = urlsplit(request.uri)
    for end, host in _HOSTS.items():
        if place.path.endswith(end):
            found = urlsplit(host)
            place = place._replace(scheme=found.scheme, netloc=found.netloc)
    request.uri = urlunsplit(place)
    kept = {name: value for name, value in request.headers.items() if _KEPT_REQUEST_HEADERS.fullmatch(name)}
    request.headers = {name.lower(): value for name, value in kept.items()}
    if request.body:
        document = _without_images(json.loads(request.body))
        request.body = redact(json.dumps(document, sort_keys=True, ensure_ascii=False)).encode()
    return request


def scrub_response(response: dict[str, Any]) -> dict[str, Any]:
    """The response as a cassette keeps it."""
    kept = {name: value for name, value in response["headers"].items() if _KEPT_RESPONSE_HEADERS.fullmatch(name)}
    body = response["body"]["string"]
    text = body.decode() if isinstance(body, bytes) else body
    return response | {"headers": kept, "body": {"string": redact(text).encode()}}


def _without_images(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_images(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_images(item) for item in value]
    if isinstance(value, str):
        found = _DATA_URL.match(value)
        encoded = found[1] if found else value
        if _BASE64.fullmatch(encoded):
            return _digest(encoded)
    return value


def _digest(encoded: str) -> str:
    try:
        return f"sha256:{hashlib.sha256(base64.b64decode(encoded, validate=True)).hexdigest()}"
    except binascii.Error:
        return encoded
