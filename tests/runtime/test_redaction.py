"""No secret stands in what is shown or written."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
from urllib.parse import quote, quote_plus

import pytest

from tlac.runtime.redaction import RedactingFilter, redact, redacted_traceback, remember_secret


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


SECRET = 'pat/of "a" provider+with=odd&signs<>'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        base64.b64encode(b"user:" + SECRET.encode() + b":rest").decode(),
        base64.b64encode(b"Bearer " + SECRET.encode()).decode(),
        json.dumps(SECRET),
        html.escape(SECRET),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        SECRET[:20],
        quote(SECRET, safe="")[:30],
    ],
)
def test_a_key_under_any_name_is_masked_in_each_of_its_forms_and_cut_short(form: str) -> None:
    remember_secret(SECRET)
    masked = redact(f"refused: {form} (400)")
    assert "[secret]" in masked
    assert masked.startswith("refused: ")
    # of a form that stands in the midst of other bytes, what belongs to these may stay
    assert not any(form[place : place + 12] in masked for place in range(6, len(form) - 18))


def test_the_password_of_a_proxy_is_masked_alone_and_in_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://someone:pass%2Fword-of-proxy@proxy.example:3128")
    for shown in (
        "407 from http://someone:pass%2Fword-of-proxy@proxy.example:3128",
        "no: pass/word-of-proxy",
        f"Proxy-Authorization: Basic {base64.b64encode(b'someone:pass/word-of-proxy').decode()}",
        "http://other:short@proxy.example",
    ):
        masked = redact(shown)
        assert "[secret]" in masked
        assert "word-of-proxy" not in masked
        assert "short" not in masked


def test_a_key_of_several_lines_is_masked_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PRIVATE_KEY", "-----BEGIN-----\nfirst-line-of-it\nsecond-line-of-it\n")
    assert redact("it says second-line-of-it, first-line-of-it") == "it says [secret], [secret]"


def test_the_beginning_that_all_keys_share_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-abcdefghijklmnopqrstuvwxyz")
    assert redact("a key begins with sk-proj- here") == "a key begins with sk-proj- here"


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
