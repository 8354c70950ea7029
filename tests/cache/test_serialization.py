"""The JSON forms of answers and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_answers import choice_request, entry_for, image_request
from tlac.cache.serialization import (
    answer_text,
    check_request,
    embedding_text,
    parse_answer,
    parse_answer_response,
    parse_embedding,
    parse_response,
    parse_vector,
    response_document,
    vector_text,
)
from tlac.errors import InputError, UsageError
from tlac.hashing import request_document
from tlac.types import LMMResponse, Outcome, Usage

KEPT = [Outcome.ANSWERED, Outcome.REFUSED, Outcome.EMPTY, Outcome.TRUNCATED]
ENTRY = entry_for(image_request(1))


@given(
    st.sampled_from(KEPT),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    st.none() | st.floats(0, 1e6),
)
def test_a_kept_response_comes_back_as_it_was_and_says_that_it_was_kept(
    outcome: Outcome, text: str, reason: str, cost_usd: float | None
) -> None:
    response = LMMResponse(outcome, text, reason, "v", Usage(1, 2, 3, 4), cost_usd, 0.5, "2025-01-01T00:00:00Z", True)
    row = answer_text(ENTRY.request, response, "fake").encode()
    assert parse_response(response_document(response)) == response
    assert parse_answer_response(row) == response
    assert parse_answer(ENTRY.key, row).request == ENTRY.request


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNPARSED])
def test_what_is_not_an_answer_is_neither_written_nor_read(outcome: Outcome) -> None:
    with pytest.raises(InputError, match=f"outcome {outcome}"):
        response_document(LMMResponse(outcome, "x"))
    with pytest.raises(InputError, match="outcome"):
        parse_response({**response_document(LMMResponse(Outcome.ANSWERED, "x")), "outcome": outcome.value})


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UsageError, match="lone surrogate"):
        answer_text(ENTRY.request, LMMResponse(Outcome.ANSWERED, "\ud800"), "fake")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": 1}, "text"),
        ({"extra": 1}, "extra"),
        ({"cost_usd": -1.0}, "cost_usd"),
        ({"usage": {"prompt": -1, "completion": 0, "cached": 0, "image": 0}}, "prompt"),
        ({"usage": {}}, "prompt"),
        ({"latency_s": "fast"}, "latency_s"),
    ],
)
def test_a_response_that_is_not_as_written_is_refused_by_field(change: dict[str, Any], complaint: str) -> None:
    document = {**response_document(LMMResponse(Outcome.ANSWERED, "x")), **change}
    with pytest.raises(InputError, match=complaint):
        parse_response(document)


@pytest.mark.parametrize("row", [b"", b"{", b"[" * 100_000, b'"\xff"', b"1e999", b'{"backend": "\\ud800"}'])
def test_broken_json_is_refused(row: bytes) -> None:
    with pytest.raises(InputError):
        parse_answer("key", row)


def test_the_requests_of_both_stages_fit_the_schema() -> None:
    check_request(request_document(image_request(1)))
    check_request(request_document(choice_request("a cat")))


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "stage3"},
        {"messages": [{"role": "user", "parts": [{}]}]},
        {"messages": [{"role": "user", "parts": [{"text": "x", "image_sha256": "a" * 64}]}]},
        {"messages": [{"role": "user", "parts": [{"image_sha256": "../../etc/passwd"}]}]},
        {"extra": None},
        {"key_version": 99},
    ],
)
def test_a_request_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        check_request({**ENTRY.request, **change})


def test_an_embedding_comes_back_bit_for_bit() -> None:
    vector = np.array([0.1, -1e-30, 3.0], np.float32)
    found = parse_embedding("key", embedding_text(vector, True).encode())
    assert found.vector.tobytes() == vector.tobytes()
    assert found.is_truncated


@pytest.mark.parametrize("text", ["", "AAA=", "!!!!", vector_text(np.array([np.nan], np.float32))])
def test_a_vector_that_is_not_numbers_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="vector"):
        parse_vector(text)
