"""What a provider's error means: decided on status, code and details, and the same on both roads to a provider."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.emulated import backend_at, image_question
from tests.support.emulator import Emulator, Fault, script_of
from tlac.config.schemas import Backend, BackendSpec
from tlac.errors import PermanentError, RateLimitError, SampleError, TlacError, TransientError
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.litellm_errors import ErrorFacts, translate, unreadable
from tlac.lmms.litellm_requests import open_wire_format
from tlac.runtime import aio
from tlac.types import LMMResponse

pytestmark = pytest.mark.usefixtures("keys")

_FILLER = "For more information on this error, head to the documentation of the API. " * 3


def google(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def openai(message: str, code: str | None = None, kind: str = "invalid_request_error", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def quota(name: str, value: str = "10") -> dict[str, Any]:
    violation = {"quotaMetric": "requests", "quotaId": name, "quotaValue": value}
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]}


def reason(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": name, "domain": "googleapis.com"}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "35s"}
EXCEEDED = (
    f"You exceeded your current quota, please check your plan and billing details. {_FILLER} Please retry in 35.9s."
)

FIELDS = {
    "@type": "type.googleapis.com/google.rpc.BadRequest",
    "fieldViolations": [{"description": 'Invalid JSON payload received. Unknown name "temprature"'}],
}

# (backend, status, body) -> our error, or the refusal; and what its text says
TABLE: list[tuple[str, int, Any, type[TlacError] | None, str]] = [
    # RateLimitError
    (
        "gemini",
        429,
        google(429, "RESOURCE_EXHAUSTED", EXCEEDED, quota("RequestsPerMinutePerModel"), RETRY),
        RateLimitError,
        "asked too fast",
    ),
    (
        "gemini",
        429,
        [google(429, "RESOURCE_EXHAUSTED", EXCEEDED, quota("RequestsPerMinutePerModel"), RETRY)],
        RateLimitError,
        "asked too fast",
    ),
    ("gemini", 429, google(429, "RESOURCE_EXHAUSTED", "Resource exhausted."), RateLimitError, "asked too fast"),
    (
        "gemini",
        429,
        google(429, "RESOURCE_EXHAUSTED", EXCEEDED, quota("RequestsPerDayPerModel-FreeTier"), RETRY),
        PermanentError,
        "midnight Pacific",
    ),
    (
        "gemini",
        429,
        google(429, "RESOURCE_EXHAUSTED", EXCEEDED, quota("RequestsPerMinute-FreeTier", "0"), RETRY),
        PermanentError,
        "is 0",
    ),
    (
        "gpt-4o",
        429,
        openai(f"{_FILLER} Rate limit reached. Please try again in 7.5s.", "rate_limit_exceeded", "tokens"),
        RateLimitError,
        "asked too fast",
    ),
    (
        "gpt-4o",
        429,
        openai(
            "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 34567.",
            "rate_limit_exceeded",
            "tokens",
        ),
        SampleError,
        "over the account's limit",
    ),
    (
        "gpt-4o",
        429,
        openai("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
        PermanentError,
        "used up",
    ),
    (
        "claude",
        429,
        anthropic("rate_limit_error", "This would exceed your rate limit."),
        RateLimitError,
        "asked too fast",
    ),
    ("ollama", 429, {"error": "too many requests"}, RateLimitError, "asked too fast"),
    # OpenRouter's
    (
        "gpt-4o",
        429,
        {"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits.", "code": 429}},
        PermanentError,
        "quota of the day",
    ),
    (
        "gpt-4o",
        429,
        openai("Rate limit reached on requests per day (RPD): Limit 200. Please try again in 7m12s.", "requests"),
        RateLimitError,
        "asked too fast",
    ),
    *(
        ("gpt-4o", 400, openai(words, "invalid_request_error"), SampleError, "the request is too large")
        for words in (
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
            "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
            "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens).",
            "Input is too long for requested model.",
            "too many tokens: total number of tokens in the prompt cannot exceed 4081",
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 6000",
        )
    ),
    # AuthenticationError, PermissionDeniedError
    (
        "gemini",
        400,
        google(400, "INVALID_ARGUMENT", "API key not valid.", reason("API_KEY_INVALID")),
        PermanentError,
        "key was refused",
    ),
    ("gpt-4o", 401, openai("Incorrect API key provided.", "invalid_api_key"), PermanentError, "key was refused"),
    ("claude", 401, anthropic("authentication_error", "invalid x-api-key"), PermanentError, "key was refused"),
    (
        "gemini",
        403,
        google(403, "PERMISSION_DENIED", "Not allowed.", reason("SERVICE_DISABLED")),
        PermanentError,
        "not allowed",
    ),
    ("claude", 403, anthropic("permission_error", "Not allowed."), PermanentError, "not allowed"),
    # money
    (
        "claude",
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        PermanentError,
        "credit is used up",
    ),
    ("gpt-4o", 402, openai("Insufficient Balance"), PermanentError, "credit is used up"),
    # NotFoundError
    ("gemini", 404, google(404, "NOT_FOUND", "models/x is not found."), PermanentError, "was not found"),
    ("gpt-4o", 404, openai("The model does not exist", "model_not_found"), PermanentError, "was not found"),
    ("claude", 404, anthropic("not_found_error", "model: x"), PermanentError, "was not found"),
    ("ollama", 404, {"error": "model 'x' not found, try pulling it first"}, PermanentError, "was not found"),
    # ContextWindowExceededError
    (
        "gemini",
        400,
        google(
            400,
            "INVALID_ARGUMENT",
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        SampleError,
        "too large",
    ),
    (
        "gpt-4o",
        400,
        openai("This model's maximum context length is 128000 tokens.", "context_length_exceeded"),
        SampleError,
        "too large",
    ),
    (
        "claude",
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        SampleError,
        "too large",
    ),
    ("claude", 413, anthropic("request_too_large", "Request exceeds the maximum size"), SampleError, "too large"),
    (
        "gpt-4o",
        400,
        {
            "error": {
                "code": 400,
                "type": "exceed_context_size_error",
                "message": "the request exceeds the available context size",
            }
        },
        SampleError,
        "too large",
    ),
    # ContentPolicyViolationError
    (
        "gpt-4o",
        400,
        openai("Your request was rejected as a result of our safety system.", "content_policy_violation"),
        None,
        "safety system",
    ),
    (
        "gpt-4o",
        400,
        openai("The response was filtered.", "content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}),
        None,
        "filtered",
    ),
    (
        "claude",
        400,
        anthropic("invalid_request_error", "Output blocked by content filtering policy"),
        None,
        "content filtering",
    ),
    # BadRequestError
    (
        "gemini",
        400,
        google(
            400,
            "INVALID_ARGUMENT",
            'Invalid JSON payload received. Unknown name "temprature": Cannot find field.',
            FIELDS,
        ),
        PermanentError,
        "'temprature' is refused",
    ),
    (
        "gpt-4o",
        400,
        openai("Unsupported value: 'temperature' does not support 0.", "unsupported_value", param="temperature"),
        PermanentError,
        "'temperature' is refused",
    ),
    (
        "claude",
        400,
        anthropic("invalid_request_error", "temprature: Extra inputs are not permitted"),
        PermanentError,
        "'temprature' is refused",
    ),
    (
        "gemini",
        400,
        google(400, "INVALID_ARGUMENT", "Unable to process input image. Please retry."),
        SampleError,
        "can't use this image",
    ),
    (
        "gpt-4o",
        400,
        openai("You uploaded an unsupported image.", "image_parse_error"),
        SampleError,
        "can't use this image",
    ),
    (
        "claude",
        400,
        anthropic(
            "invalid_request_error",
            "messages.0.content.0.image.source.base64: image exceeds 5 MB maximum: 6 bytes > 5 bytes",
        ),
        SampleError,
        "max_size_bytes",
    ),
    ("gpt-4o", 400, openai("Something is wrong with it.", None), SampleError, "request was refused"),
    (
        "gpt-4o",
        422,
        {"detail": [{"loc": ["body", "foo"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]},
        PermanentError,
        "'foo' is refused",
    ),
    # models without eyes
    (
        "gpt-4o",
        500,
        {
            "error": {
                "code": 500,
                "message": "image input is not supported - hint: provide the mmproj",
                "type": "server_error",
            }
        },
        PermanentError,
        "takes no images",
    ),
    (
        "gpt-4o",
        404,
        openai("No endpoints found that support image input", kind="not_found"),
        PermanentError,
        "takes no images",
    ),
    (
        "gpt-4o",
        400,
        {"object": "error", "message": "x is not a multimodal model", "type": "BadRequestError", "code": 400},
        PermanentError,
        "takes no images",
    ),
    # InternalServerError, ServiceUnavailableError, BadGatewayError, Timeout
    ("gemini", 500, google(500, "INTERNAL", "An internal error has occurred."), TransientError, "provider failed"),
    ("gemini", 503, google(503, "UNAVAILABLE", "The model is overloaded."), TransientError, "provider failed"),
    (
        "gpt-4o",
        500,
        openai("The server had an error processing your request.", kind="server_error"),
        TransientError,
        "provider failed",
    ),
    ("gpt-4o", 503, openai("Busy.", kind="server_error"), TransientError, "provider failed"),
    ("gpt-4o", 502, "<html>Bad Gateway</html>", TransientError, "provider failed"),
    ("gpt-4o", 408, openai("Request timed out."), TransientError, "in time"),
    ("claude", 529, anthropic("overloaded_error", "Overloaded"), TransientError, "provider failed"),
    ("ollama", 500, {"error": "model runner has unexpectedly stopped"}, TransientError, "provider failed"),
    (
        "ollama",
        500,
        {"error": "model requires more system memory (9.1 GiB) than is available (4.0 GiB)"},
        PermanentError,
        "can't do this",
    ),
    ("gpt-4o", 501, openai("Not implemented"), PermanentError, "can't do this"),
    # a call that the provider's own side gave up; an overload
    ("gemini", 499, google(499, "CANCELLED", "The operation was cancelled."), TransientError, "the provider failed"),
    (
        "claude",
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        TransientError,
        "the provider failed (HTTP 529: Overloaded)",
    ),
    (
        "claude",
        400,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        TransientError,
        "the provider failed (HTTP 400: Overloaded)",
    ),
]


def meaning(server: Emulator, name: str, fault: Fault) -> LMMResponse | TlacError:
    server.asked.clear()
    server.script = script_of(fault)
    backend = backend_at(server, name)
    try:
        found: LMMResponse | TlacError = aio.run(LiteLLM(backend).ask(image_question(backend)))
    except TlacError as error:
        found = error
    # neither litellm nor its clients ask again by themselves
    assert len(server.asked) == 1
    return found


@pytest.mark.parametrize(("name", "status", "body", "kind", "says"), TABLE, ids=lambda value: str(value)[:40])
def test_an_error_means_the_same_on_both_roads(  # noqa: PLR0917 - a row of the table
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    status: int,
    body: Any,
    kind: type[TlacError] | None,
    says: str,
) -> None:
    fault = Fault(status=status, document=body)
    found = meaning(server, name, fault)
    monkeypatch.setattr("tlac.lmms.litellm.open_wire_format", lambda *_: None)
    other = meaning(server, name, fault)
    if isinstance(found, LMMResponse):
        assert isinstance(other, LMMResponse)
        assert (kind, found.outcome, found.reason) == (None, other.outcome, other.reason)
        assert says in found.reason
        return
    assert type(found) is type(other) is kind
    assert says in str(found)
    assert str(found) == str(other)
    assert len(str(found)) < 600
    if isinstance(found, RateLimitError):
        assert found.retry_after_s == other.retry_after_s  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"error": ' + "[" * 100_000, '{"error": {"code": ' + "9" * 10_000 + "}}"]
)
def test_a_body_that_is_nested_or_long_without_end_is_a_failure_like_others(status: int, text: str) -> None:
    mine = Backend("mine", "mine.yaml", BackendSpec(adapter="a", model="m"))
    error = (
        unreadable(ValueError("x"), text.encode(), mine)
        if status == 200
        else translate(ErrorFacts(status, "", {}, text), mine)
    )
    assert type(error) is (SampleError if status == 400 else TransientError)
    assert len(str(error)) < 600


def test_of_a_proxys_page_its_title_is_shown() -> None:
    page = "\n<!DOCTYPE html><html><head><style>p {}</style><title>502 Bad\nGateway</title></head><body>x</body></html>"
    error = translate(ErrorFacts(502, "", {}, page), Backend("mine", "mine.yaml", BackendSpec(adapter="a", model="m")))
    assert str(error) == "mine: the provider failed (HTTP 502: 502 Bad Gateway)"


def test_the_wait_that_a_provider_asks_for_is_found_wherever_it_stands(server: Emulator) -> None:
    def wait_s(name: str, body: Any, *headers: tuple[str, str]) -> float | None:
        found = meaning(server, name, Fault(status=429, document=body, headers=headers))
        assert isinstance(found, RateLimitError)
        return found.retry_after_s

    per_minute = google(429, "RESOURCE_EXHAUSTED", EXCEEDED, quota("RequestsPerMinutePerModel"), RETRY)
    assert wait_s("gemini", per_minute) == 35.0
    assert wait_s("gemini", google(429, "RESOURCE_EXHAUSTED", EXCEEDED)) == 35.9
    assert wait_s("gpt-4o", openai("Please try again in 1m30.5s.")) == 90.5
    assert wait_s("gpt-4o", openai("Please try again in 20 seconds.")) == 20.0
    assert wait_s("gpt-4o", openai("slow down"), ("retry-after-ms", "1500")) == 1.5
    assert wait_s("gpt-4o", openai("slow down")) is None


def test_litellm_has_no_class_of_error_that_the_table_forgets(server: Emulator) -> None:
    classes = set()
    for name, status, body, _, _ in TABLE:
        backend = backend_at(server, name)
        wire_format = open_wire_format(backend, "k", backend.spec.api_base)
        assert wire_format is not None
        classes.add(wire_format.error_kind(status, {}, json.dumps(body)))
    assert classes >= {
        *("RateLimitError", "AuthenticationError", "PermissionDeniedError", "NotFoundError", "BadRequestError"),
        *(
            "ContextWindowExceededError",
            "ContentPolicyViolationError",
            "InternalServerError",
            "ServiceUnavailableError",
        ),
        "Timeout",
    }
