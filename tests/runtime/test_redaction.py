"""No secret stands in what is shown or written."""

from __future__ import annotations

import io
import logging

import pytest

from tlac.runtime.redaction import RedactingFilter, redact, redacted_traceback


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "MY_SERVER_TOKEN", "DB_PASSWORD", "CLIENT_SECRET", "hf_token"])
def test_what_the_environment_calls_a_secret_is_masked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "correct horse battery")
    assert redact("sent: correct horse battery.") == "sent: [secret]."


def test_a_secret_that_is_part_of_another_leaves_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefghijkl")
    assert redact("abcdefghijkl") == "[secret]"


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abcdefghijklmnop1234",
        "sk-ant-api03-abcdefghijklmnop",
        "AIzaSyA1234567890abcdefghijklmnopqrstu",
        "gsk_abcdefghijklmnopqrstuvwx",
        "hf_abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
        "Authorization: Bearer abc.def-ghi_jkl",
        "{'x-api-key': 'abcdefgh12345'}",
        "x-goog-api-key: abcdefgh12345",
        "https://host/v1?api_key=abcdefgh12345",
    ],
)
def test_what_looks_like_a_key_is_masked_wherever_it_comes_from(text: str) -> None:
    masked = redact(text)
    assert "[secret]" in masked
    assert "abc" not in masked.lower().replace("authorization", "")


@pytest.mark.parametrize(
    "text", ["a dog on a task-force risk-assessment desk-top", "set GEMINI_API_KEY", "no key here", "token 1 of 3"]
)
def test_ordinary_words_stay(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_TOKEN", "1")
    assert redact(text) == text


def test_a_traceback_is_masked_with_all_its_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted-secret")
    try:
        try:
            raise ValueError("got planted-secret")
        except ValueError as error:
            raise RuntimeError("failed") from error
    except RuntimeError as error:
        shown = redacted_traceback(error)
    assert "got [secret]" in shown
    assert "planted-secret" not in shown.replace('"got planted-secret"', "")


def test_a_log_handler_with_the_filter_writes_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted-secret")
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(RedactingFilter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.error("header %s", "planted-secret")
    try:
        raise ValueError(f"body {'planted'}-secret")
    except ValueError:
        logger.exception("call failed")
    assert "header [secret]" in written.getvalue()
    assert "ValueError: body [secret]" in written.getvalue()
    assert "planted-secret" not in written.getvalue()
