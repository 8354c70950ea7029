"""Turns what litellm raises, and what providers say instead of an answer, into tlac's errors: one line, no secret.

Does not retry. The same fault comes in another class from each provider (a 403 as BadRequestError, APIError or
PermissionDeniedError), so the status decides first, the class only where there is no status to trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from tlac.config.schemas import Backend
from tlac.errors import CallError, ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.runtime.redaction import redact

_LONGEST_MESSAGE = 240
_REFUSED_IMAGE = re.compile(
    r"(could not|unable to|failed to|cannot|can't) (process|parse|decode|read|load)[^.]{0,30}image|"
    r"(invalid|unsupported|corrupt(ed)?|too large|exceeds)[^.]{0,40}image|"
    r"image[^.]{0,40}(invalid|not valid|unsupported|corrupt|too large|too small|exceeds|maximum)",
    re.IGNORECASE,
)
_SPENT_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|credit balance is too low", re.IGNORECASE)
_REFUSED_KEY = re.compile(r"api[ _]key not valid|api_key_invalid|invalid x-api-key", re.IGNORECASE)
_REFUSED_PARAMS = re.compile(r"parameters: \[(.*?)\]|doesn't support (\w+)=|(\w+) is not supported", re.IGNORECASE)
_TOO_LARGE = re.compile(r"request_too_large|payload size exceeds|request entity too large|\b413\b", re.IGNORECASE)
_BROKEN_JSON = re.compile(r"converting to valid response|json\.?decode|expecting value|invalid json", re.IGNORECASE)

# litellm's own advice, and the trace that it appends
_NOT_FOR_USERS = re.compile(r"To drop (?:these|unsupported)|Traceback \(most recent|File an issue")
_CLASS_NAMES = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Exception)(?:: ?| - ))+")


class StatusError(Exception):
    """A provider's answer that says that there is none: its HTTP status, headers and text."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str) -> None:
        super().__init__(text)
        # named as litellm's exceptions name them
        self.status_code, self.litellm_response_headers = status, headers


def is_refusal(error: Exception) -> bool:
    """Whether the provider would not answer because of what the image or the text shows."""
    if type(error).__name__ == "ContentPolicyViolationError":
        return True
    return _status(error) == 400 and "content_policy_violation" in str(error)


def unreadable(error: Exception, content: bytes, backend: Backend) -> TransientError:
    """What it means for the run that a provider's answer can't be read for `error`."""
    text = content.decode("utf-8", "replace")
    # some send an error as if it were an answer
    words = provider_message(RuntimeError(text)) if '"error"' in text else provider_message(error)
    return TransientError(f"{backend.name}: the provider failed (HTTP 200: {words})")


def translate(error: Exception, backend: Backend) -> CallError | ConfigError:
    """The error of ours that says what a litellm exception means for the run."""
    kind = type(error).__name__
    message = provider_message(error)
    if kind == "UnsupportedParamsError":
        return ConfigError(f"{backend.source}: {_name_params(message)}: {message}; change or remove it under params")
    status = _status(error)
    if status == 429 or kind == "RateLimitError":
        return _limited(error, backend, message)
    if status == 413 or kind == "ContextWindowExceededError" or _TOO_LARGE.search(message):
        return SampleError(f"{backend.name}: the request is too large; lower image.max_side_px ({message})")
    if status is not None and 300 <= status < 400:
        return PermanentError(
            f"{backend.name}: its address sends calls on to another, which would be told the key (HTTP {status}); "
            f"check api_base in {backend.source}"
        )
    is_refused = status is not None and 400 <= status < 500 and status != 408
    if status is not None and is_refused and kind != "Timeout" and not _BROKEN_JSON.search(message):
        return _refused(status, backend, message)
    return _failed(error, status, backend, message)


def _failed(error: Exception, status: int | None, backend: Backend, message: str) -> TransientError:
    if type(error).__name__ == "Timeout" or status == 408:
        return TransientError(f"{backend.name}: no answer in time ({message})")
    wait_s = retry_after_s(error)
    if wait_s is not None:
        return RateLimitError(f"{backend.name}: the provider asks to wait (HTTP {status}: {message})", wait_s)
    return TransientError(f"{backend.name}: the provider failed (HTTP {status or 'unknown'}: {message})")


def _limited(error: Exception, backend: Backend, message: str) -> CallError:
    if _SPENT_QUOTA.search(message) and "retry" not in message.lower():
        return PermanentError(f"{backend.name}: the account's quota or credit is used up ({message})")
    return RateLimitError(f"{backend.name}: asked too fast (HTTP 429: {message})", retry_after_s(error))


def _refused(status: int, backend: Backend, message: str) -> CallError:
    where = f"HTTP {status}: {message}"
    variable = backend.spec.api_key_env or "the API key"
    if status == 401 or _REFUSED_KEY.search(message):
        return PermanentError(f"{backend.name}: the key was refused; check {variable} ({where})")
    if status in (402, 403):
        return PermanentError(f"{backend.name}: not allowed; check {variable} and what it may use ({where})")
    if status == 404:
        return PermanentError(
            f"{backend.name}: model {backend.spec.model!r} or its address was not found; see {backend.source} ({where})"
        )
    if status in (400, 422) and _REFUSED_IMAGE.search(message):
        return SampleError(f"{backend.name}: the provider can't use this image ({where})")
    # one image's fault or everybody's: tlac.lmms.middleware ends the run when it repeats
    return SampleError(f"{backend.name}: the request was refused; check params in {backend.source} ({where})")


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _name_params(message: str) -> str:
    match = _REFUSED_PARAMS.search(message)
    names = next((group for group in match.groups() if group), "") if match else ""
    return f"parameter {names.replace(chr(39), '')!r} is refused" if names else "a parameter is refused"


def provider_message(error: BaseException) -> str:
    """The provider's own words in an exception's text, in one line, shortened, without secrets."""
    text = str(error)
    inner = re.search(r'"(?:message|error)"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    text = inner[1].replace('\\"', '"').replace("\\n", " ") if inner else text
    text = _NOT_FOR_USERS.split(text)[0]
    text = _CLASS_NAMES.sub("", " ".join(redact(text).split())).strip(" .")
    return text[:_LONGEST_MESSAGE] + ("…" if len(text) > _LONGEST_MESSAGE else "") or type(error).__name__


def retry_after_s(error: Exception) -> float | None:
    """How long the provider wishes to be left alone, in seconds: from headers, or Gemini's RetryInfo."""
    headers = {str(name).lower(): str(value) for name, value in _headers(error).items()}
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    if (value := headers.get("retry-after")) is not None:
        return _number(value) if _number(value) is not None else _seconds_until(value, headers.get("date"))
    info = re.search(r'retryDelay\\?"\s*:\s*\\?"([\d.]+)s', str(error))
    return float(info[1]) if info else None


def _headers(error: Exception) -> dict[str, Any]:
    headers = getattr(error, "litellm_response_headers", None)
    if not headers:
        headers = getattr(getattr(error, "response", None), "headers", None)
    return dict(headers or {})


def _number(value: str | None) -> float | None:
    return float(value) if value and re.fullmatch(r"\d+(\.\d+)?", value.strip()) else None


def _seconds_until(moment: str, now: str | None) -> float | None:
    # against the server's own Date: the two clocks may differ by more than the wait
    try:
        wait = parsedate_to_datetime(moment) - parsedate_to_datetime(now or "")
    except (TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())
