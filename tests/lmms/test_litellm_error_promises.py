"""How long a provider's wish to wait is, in all its forms, and what our texts advise: each value is a literal."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from tlac.config.schemas import Backend, load_backend
from tlac.errors import CallError, ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.lmms.litellm_errors import (
    ErrorFacts,
    facts_inside,
    provider_message,
    refusal_of,
    retry_after_s,
    translate,
)

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


def facts(status: int | None, text: str, kind: str = "APIError", headers: dict[str, str] | None = None) -> ErrorFacts:
    return ErrorFacts(status, kind, headers or {}, text)


@pytest.mark.parametrize(
    ("status", "text", "kind", "named"),
    [
        (500, "oops", "APIError", "HTTP 500"),
        (400, "what?", "APIError", "HTTP 400"),
        (401, "no", "APIError", "HTTP 401"),
        (None, "reset", "APIConnectionError", "no connection"),
        (429, "slow down", "APIError", "rate limit"),
        (None, "slow down", "RateLimitError", "rate limit"),
        (408, "late", "APIError", "time-out"),
        (None, "late", "Timeout", "time-out"),
        (400, "could not process image", "APIError", "image"),
    ],
)
def test_a_fault_is_counted_under_a_name_of_its_own(status: int | None, text: str, kind: str, named: str) -> None:
    error = translate(facts(status, body(text), kind), GPT)
    assert isinstance(error, CallError)
    assert (error.kind, error.words) == (named, text)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, PermanentError) for status in (300, 301, 399, 401, 402, 403, 404, 405, 501)),
        *((status, TransientError) for status in (408, 409, 425, 499, 500, 502, 503, 599, 200)),
        *((status, SampleError) for status in (400, 406, 410, 413, 422, 498)),
        (429, RateLimitError),
    ],
)
def test_a_status_alone_decides_what_becomes_of_the_run(status: int, expected: type[CallError]) -> None:
    assert type(translate(facts(status, "no"), GPT)) is expected


@pytest.mark.parametrize(
    ("status", "text", "is_refused"),
    [
        *((status, "blocked by our safety filter", True) for status in (400, 403, 422)),
        *((status, "blocked by our safety filter", False) for status in (401, 404, 413, 500, None)),
        (451, json.dumps({"error": {"message": "no", "code": "Content_Filter"}}), True),
        (499, json.dumps({"error": {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}), True),
        (500, json.dumps({"error": {"message": "no", "code": "content_filter"}}), False),
        (400, json.dumps({"error": {"message": "no", "details": [{"reason": "SAFETY"}]}}), True),
    ],
)
def test_a_refusal_is_one_by_code_or_by_words_under_few_statuses(
    status: int | None, text: str, is_refused: bool
) -> None:
    assert (refusal_of(facts(status, text)) is not None) == is_refused


@pytest.mark.parametrize(
    ("limit", "requested", "is_alone"),
    [("30000", "30001", True), ("30000", "30000", False), ("30,000", "9,999", False), ("9,999", "30,000", True)],
)
def test_a_request_that_alone_is_over_the_limit_is_not_asked_again(limit: str, requested: str, is_alone: bool) -> None:
    for used in ("", " Used 5,000,"):
        words = f"Rate limit reached on tokens per min (TPM): Limit {limit},{used} Requested {requested}."
        error = translate(facts(429, body(words, code="rate_limit_exceeded")), GPT)
        assert type(error) is (SampleError if is_alone else RateLimitError)


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("Please try again in 6ms.", 0.006),
        ("Please retry in 35.9s.", 35.9),
        ("try again in 1m30s", 90.0),
        ("Retry after 20 seconds", 20.0),
        ("retry after 1 second", 1.0),
        ("try again in 2 minutes", 120.0),
        ("try again in 1 hour", 3600.0),
        ("try again in 1d", 86_400.0),
        ("try again in a while", None),
        ("retry later, within 20 seconds", None),
    ],
)
def test_a_wish_to_wait_in_words_is_read_in_every_unit(words: str, wait_s: float | None) -> None:
    assert retry_after_s(facts(429, body(words))) == (None if wait_s is None else pytest.approx(wait_s))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (body("plain"), "plain"),
        (json.dumps({"error": "plain"}), "plain"),
        (json.dumps([{"error": {"message": "in a list"}}]), "in a list"),
        (json.dumps({"message": "at the top"}), "at the top"),
        (json.dumps({"Message": "as AWS writes it"}), "as AWS writes it"),
        (json.dumps({"detail": "FastAPI's"}), "FastAPI's"),
        (
            json.dumps({"detail": [{"loc": ["body", "a", 0], "msg": "missing"}, {"msg": "odd"}, "text"]}),
            "a.0: missing; odd; text",
        ),
        (
            json.dumps({"error": {"message": "handed on", "metadata": {"raw": body("the provider's own")}}}),
            "the provider's own",
        ),
        (json.dumps({"error": {"message": "handed on", "metadata": {"raw": "no JSON"}}}), "handed on: no JSON"),
        (json.dumps({"error": {"message": "handed on", "metadata": {"raw": "[1]"}}}), "handed on"),
        (json.dumps({"error": {"message": "handed on", "metadata": {}}}), "handed on"),
        ("no JSON at all", "no JSON at all"),
        ("[]", "[]"),
        ("3", "3"),
    ],
)
def test_the_providers_words_are_found_wherever_they_stand(text: str, words: str) -> None:
    assert facts(400, text).words == words


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"error": {"message": "overloaded", "code": 503}}, 503),
        ({"error": {"message": "no", "code": "429"}}, 429),
        ({"error": {"message": "no", "code": 499}}, 499),
        ({"error": {"message": "no", "code": 600}}, 200),
        ({"error": {"message": "no", "code": 5030}}, 200),
        ({"error": {"message": "no", "code": 399}}, 200),
        ({"error": {"message": "no"}}, 200),
        ({"choices": []}, None),
        ({"error": None}, None),
        ({"error": {}}, None),
    ],
)
def test_an_error_sent_as_an_answer_has_the_status_that_it_names(content: dict, status: int | None) -> None:
    found = facts_inside(json.dumps(content).encode())
    assert (None if found is None else found.status) == status


@pytest.mark.parametrize(
    ("status", "words", "says"),
    [
        (400, "Invalid API key", "the key was refused"),
        (499, "invalid x-api-key", "the key was refused"),
        (500, "invalid api key", "the server can't do this"),
        (599, "not implemented", "the server can't do this"),
        (400, "image input is not supported", "takes no images"),
        (599, "image input is not supported", "takes no images"),
        (399, "image input is not supported", "check api_base"),
        (None, "image input is not supported", "the provider failed"),
        (400, "insufficient funds", "credit is used up"),
        (500, "insufficient funds", "the provider failed"),
        (400, "maximum context", "too large"),
        (500, "maximum context", "the provider failed"),
    ],
)
def test_words_count_under_the_statuses_that_they_come_with(status: int | None, words: str, says: str) -> None:
    assert says in str(translate(facts(status, body(words)), GPT))


@pytest.mark.parametrize("message", ["the image exceeds 5 MB", "image too large", "image is larger than 4 MB maximum"])
def test_an_image_that_is_too_large_is_said_to_be_lowered_and_another_is_not(message: str) -> None:
    assert "lower image.max_size_bytes or image.max_side_px" in str(translate(facts(400, body(message)), GPT))
    assert "lower image" not in str(translate(facts(400, body("unsupported image")), GPT))


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ({"message": "no", "param": "top_k", "code": "unsupported_parameter"}, "top_k"),
        ({"message": "no", "param": "top_k", "code": "other"}, None),
        ({"message": "no", "param": "messages[0].content", "code": "unsupported_parameter"}, None),
        ({"message": "Unknown name 'topK'"}, "topK"),
        ({"message": "body.top_k: Extra inputs are not permitted"}, "top_k"),
        ({"message": "messages: field required"}, None),
        ({"message": "Unrecognized request argument supplied: top_k"}, "top_k"),
        ({"message": "'top_k' is deprecated for this model"}, "top_k"),
        ({"message": "Unknown name 'x'", "details": [{"fieldViolations": [{"field": "contents[0].parts"}]}]}, None),
    ],
)
def test_a_parameter_is_refused_by_name_and_a_part_of_a_sample_is_none(error: dict, name: str | None) -> None:
    found = translate(facts(400, json.dumps({"error": error})), GPT)
    assert type(found) is (PermanentError if name else SampleError)
    if name:
        assert f"parameter {name!r} is refused" in str(found)
