"""How long a provider's wish to wait is, in all its forms, and what our texts advise: each value is a literal."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from tlac.config.schemas import Backend, load_backend
from tlac.errors import CallError, ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.lmms.litellm_errors import provider_message, translate

GPT = load_backend("gpt-4o")
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def raised(status: int | None, text: str, headers: dict[str, str] | None = None, kind: str = "APIError") -> Exception:
    """What litellm raises: an exception of that name with a status and headers."""
    error: Exception = type(kind, (Exception,), {})(text)
    error.status_code = status  # type: ignore[attr-defined]
    error.litellm_response_headers = headers or {}  # type: ignore[attr-defined]
    return error


def body(message: str, **more: object) -> str:
    return json.dumps({"error": {"message": message, **more}})


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": " 2.5 "}, 2.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 08:28:00 GMT", "Date": DATE}, 3600.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT", "date": DATE}, 0.0),
        # our own clock may be off by more than the wait
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "today"}, None),
    ],
)
def test_a_wish_to_wait_is_read_in_seconds_milliseconds_and_as_a_date(
    headers: dict[str, str], wait_s: float | None
) -> None:
    error = translate(raised(429, body("slow down"), headers), GPT)
    assert isinstance(error, RateLimitError)
    assert error.retry_after_s == wait_s


def test_googles_wish_to_wait_stands_in_the_body() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}]
    error = translate(raised(429, body("slow down", details=details)), load_backend("gemini"))
    assert isinstance(error, RateLimitError)
    assert error.retry_after_s == 7.5


def test_a_server_that_names_a_wait_is_asked_again_after_it_and_one_that_does_not_soon() -> None:
    named = translate(raised(503, body("overloaded"), {"retry-after": "12"}), GPT)
    assert isinstance(named, RateLimitError)
    assert named.retry_after_s == 12
    unnamed = translate(raised(503, body("overloaded")), GPT)
    assert type(unnamed) is TransientError
    assert str(unnamed) == "gpt-4o: the provider failed (HTTP 503: overloaded)"


SPENT = "You exceeded your current quota, please check your plan and billing details."


def test_a_spent_quota_ends_the_run_unless_the_provider_says_when_to_come_back() -> None:
    spent = translate(raised(429, body(SPENT)), GPT)
    assert isinstance(spent, PermanentError)
    assert str(spent).startswith("gpt-4o: the account's quota or credit is used up (")
    passing = translate(raised(429, body(f"{SPENT} Please retry in 20s.")), GPT)
    assert isinstance(passing, RateLimitError)


@pytest.mark.parametrize(
    ("status", "text", "kind", "advice"),
    [
        (401, "no", PermanentError, "the key was refused; check OPENAI_API_KEY"),
        (403, "no", PermanentError, "not allowed; check OPENAI_API_KEY and what it may use"),
        (404, "no", PermanentError, f"model 'openai/gpt-4o-2024-08-06' or its address was not found; see {GPT.source}"),
        (302, "", PermanentError, f"; check api_base in {GPT.source}"),
        (413, "no", SampleError, "the request is too large; lower image.max_side_px"),
        (400, "request payload size exceeds the limit", SampleError, "lower image.max_side_px"),
        (400, "what is that?", SampleError, f"the request was refused; check params in {GPT.source}"),
        (422, "could not process image", SampleError, "the provider can't use this image"),
        (408, "late", TransientError, "no answer in time"),
        (None, "connection reset", TransientError, "the provider failed (HTTP unknown: connection reset)"),
        (500, "oops", TransientError, "the provider failed (HTTP 500: oops)"),
    ],
)
def test_the_text_says_what_to_do_about_each_status(
    status: int | None, text: str, kind: type[CallError], advice: str
) -> None:
    spec = msgspec.structs.replace(GPT.spec, model="openai/gpt-4o-2024-08-06")
    error = translate(raised(status, text), replace(GPT, spec=spec))
    assert type(error) is kind
    assert str(error).startswith("gpt-4o: ")
    assert advice in str(error)
    assert "\n" not in str(error)


def test_where_no_variable_is_named_the_text_names_none() -> None:
    spec = msgspec.structs.replace(GPT.spec, api_key_env=None)
    for status in (401, 403):
        assert "check the API key" in str(translate(raised(status, "no"), replace(GPT, spec=spec)))


def test_what_litellm_calls_a_full_context_or_a_time_out_is_taken_at_its_word() -> None:
    full = translate(raised(400, "no", kind="ContextWindowExceededError"), GPT)
    assert isinstance(full, SampleError)
    assert "too large" in str(full)
    late = translate(raised(None, "no", kind="Timeout"), GPT)
    assert type(late) is TransientError
    assert "no answer in time" in str(late)


def test_a_parameter_that_litellm_would_not_send_is_named_with_its_file() -> None:
    text = "litellm.UnsupportedParamsError: openai does not support parameters: ['seed'], for model=o1. To drop these"
    error = translate(raised(400, text, kind="UnsupportedParamsError"), GPT)
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{GPT.source}: parameter 'seed' is refused: ")
    assert str(error).endswith("change or remove it under params")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("litellm.BadRequestError: OpenAIException - wrong", "wrong"),
        ("litellm.APIError: APIError: OpenAIException - wrong", "wrong"),
        ("a BadRequestError: is not a class here", "a BadRequestError: is not a class here"),
        ("wrong.\nTo drop these, set `litellm.drop_params=True`", "wrong"),
        ("wrong\nTraceback (most recent call last):\n  File x", "wrong"),
        ("two\nlines\tand  gaps", "two lines and gaps"),
        (body("wrong, and more"), "wrong, and more"),
        ("x" * 240, "x" * 240),
        ("x" * 241, "x" * 240 + "…"),
        ("", "APIError"),
    ],
)
def test_the_providers_own_words_are_shown_without_class_names_advice_and_traces(text: str, shown: str) -> None:
    assert provider_message(raised(400, text)) == shown


def test_a_key_that_a_provider_repeats_is_not_shown() -> None:
    key = "sk-planted-planted-planted-planted-01"
    for status in (400, 401, 429, 500):
        assert key not in str(translate(raised(status, body(f"the key {key} is wrong")), GPT))


def test_a_backend_is_named_in_each_text_by_its_own_name() -> None:
    other: Backend = replace(GPT, name="mine")
    assert str(translate(raised(500, "oops"), other)) == "mine: the provider failed (HTTP 500: oops)"
