"""The JSON forms of answers and embeddings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.support.fake_answers import choice_request, embedding, entry_for, image_request
from tlac.cache.serialization import (
    StoredAnswer,
    answer_text,
    embedding_text,
    parse_answer,
    parse_embedding,
    parse_response,
)
from tlac.cache.store import Store
from tlac.errors import InputError, StoreError, UsageError
from tlac.hashing import sha256_of
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
    answer = replace(ENTRY, response=response)
    row = answer_text(answer).encode()
    assert parse_response(row) == response
    assert parse_answer(row, key=answer.key) == answer
    assert parse_answer(answer_text(answer, has_key=True).encode()) == answer
    line = answer_text(answer, has_key=True, has_backend=False).encode()
    assert parse_answer(line, backend="fake") == answer


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"key": "0" * 64},
        {"backend": "fake"},
        {"key": "../../etc/passwd", "backend": "fake"},
    ],
)
def test_an_answer_without_a_key_or_a_backend_is_refused(line: dict[str, str]) -> None:
    document = json.loads(answer_text(ENTRY, has_backend=False))
    with pytest.raises(InputError, match="key"):
        parse_answer(json.dumps(document | line).encode())


def test_an_answer_that_names_another_key_than_its_rows_is_refused() -> None:
    with pytest.raises(InputError, match="each once"):
        parse_answer(answer_text(ENTRY, has_key=True).encode(), key="0" * 64)


def changed(change: dict[str, Any]) -> bytes:
    document = json.loads(answer_text(ENTRY))
    document["response"] |= change
    return json.dumps(document).encode()


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNPARSED])
def test_what_is_not_an_answer_is_neither_written_nor_read(outcome: Outcome) -> None:
    with pytest.raises(InputError, match=f"outcome {outcome}"):
        answer_text(replace(ENTRY, response=LMMResponse(outcome, "x")))
    with pytest.raises(InputError, match="outcome"):
        parse_response(changed({"outcome": outcome.value}))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UsageError, match="lone surrogate"):
        answer_text(entry_for(image_request(1), "\ud800"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": 1}, "text"),
        ({"extra": 1}, "extra"),
        ({"cost_usd": -1.0}, "cost_usd"),
        ({"usage": {"prompt": -1, "completion": 0, "cached": 0, "image": 0}}, "prompt"),
        ({"usage": {}}, "prompt"),
        ({"usage": {"prompt": 2**53, "completion": 0, "cached": 0, "image": 0}}, "prompt"),
        ({"cost_usd": 1.0000001e9}, "cost_usd"),
        ({"latency_s": -0.001}, "latency_s"),
        ({"latency_s": "fast"}, "latency_s"),
    ],
)
def test_a_response_that_is_not_as_written_is_refused_by_field(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse_response(changed(change))


def test_tokens_that_older_tlacs_do_not_know_are_written_only_where_there_are_any() -> None:
    def usage(counted: Usage) -> dict[str, int]:
        text = answer_text(replace(ENTRY, response=structs.replace(ENTRY.response, usage=counted)))
        return json.loads(text)["response"]["usage"]

    old = {"prompt": 0, "completion": 0, "cached": 0, "image": 0}
    assert usage(Usage()) == old
    assert usage(Usage(reasoning=5)) == {**old, "reasoning": 5}
    assert usage(Usage(cache_write=6)) == {**old, "cache_write": 6}


@pytest.mark.parametrize("row", [b"", b"{", b"[" * 100_000, b'"\xff"', b"1e999", b'{"backend": "\\ud800"}'])
def test_broken_json_is_refused(row: bytes) -> None:
    with pytest.raises(InputError):
        parse_answer(row, key="key")


def test_requests_of_both_stages_are_of_our_form() -> None:
    for request in (image_request(1), choice_request("a cat")):
        answer = StoredAnswer.of(request, ENTRY.response, "fake")
        assert answer.checked() == replace(answer, is_checked=False).checked() == entry_for(request)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"stage": "stage3"}, "stage"),
        ({"messages": [{"role": "user", "parts": [{}]}]}, "either 'text' or 'image_sha256'"),
        (
            {"messages": [{"role": "user", "parts": [{"text": "x", "image_sha256": "a" * 64}]}]},
            "either 'text' or 'image_sha256'",
        ),
        ({"messages": [{"role": "user", "parts": [{"image_sha256": "../../etc/passwd"}]}]}, "image_sha256"),
        ({"messages": [{"role": "assistant", "parts": []}]}, "role"),
        ({"extra": None}, "extra"),
        ({"key_version": 99}, "key version 99; this tlac reads 1: upgrade"),
        ({"repeat": -1}, "repeat"),
    ],
)
def test_a_request_of_another_form_is_refused_even_under_the_key_that_is_its_digest(
    change: dict[str, Any], complaint: str
) -> None:
    request = {**ENTRY.request, **change}
    with pytest.raises(InputError, match=complaint):
        replace(ENTRY, request=request, key=sha256_of(request)).checked()


def test_a_request_under_another_key_is_refused() -> None:
    with pytest.raises(InputError, match="not the digest"):
        replace(ENTRY, request={**ENTRY.request, "model": "another"}).checked()


def test_the_longest_text_that_is_written_is_a_row_and_a_line_that_are_read() -> None:
    spare = 16 * 2**20 - 1 - len(answer_text(replace(ENTRY, response=structs.replace(ENTRY.response, text=""))))
    longest = replace(ENTRY, response=structs.replace(ENTRY.response, text="x" * spare))
    assert len(answer_text(longest)) + len("\n") == 16 * 2**20
    with pytest.raises(InputError, match="16,777,216 bytes is too long"):
        answer_text(replace(ENTRY, response=structs.replace(ENTRY.response, text="x" * (spare + 1))))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [62, 900, 100_000])
def test_a_request_that_is_nested_too_deeply_is_neither_written_nor_read(depth: int) -> None:
    request = {**ENTRY.request, "params": {"stop": "HERE"}}
    text = answer_text(replace(ENTRY, request=request)).replace('"HERE"', "[" * depth + "]" * depth)
    with pytest.raises(InputError, match=r"nested more than 64 deep|not as expected"):
        parse_answer(text.encode(), key=ENTRY.key)
    deep = replace(ENTRY, request={**ENTRY.request, "params": {"stop": nested(depth)}})
    with pytest.raises(UsageError, match=r"nested|not as expected|not the digest"):
        deep.checked()
    with pytest.raises(UsageError, match="nested"):
        answer_text(deep)


def test_a_request_that_is_nested_as_deeply_as_is_read_is_written() -> None:
    deep = StoredAnswer.of(image_request(1, params={"stop": nested(60)}), ENTRY.response, "fake")
    found = parse_answer(answer_text(deep, has_key=True).encode())
    assert found.checked() == deep


def test_an_embedding_comes_back_bit_for_bit() -> None:
    item = embedding("a", 0.1, -1e-30, 3.0, is_truncated=True)
    for found in (
        parse_embedding(embedding_text(item).encode(), item.key),
        parse_embedding(embedding_text(item, has_key=True).encode()),
    ):
        assert (found.key, found.is_truncated) == (item.key, True)
        assert found.vector.tobytes() == item.vector.tobytes()


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf], [0.0] * 65_537])
def test_a_vector_that_could_not_be_read_back_is_not_written(store: Store, values: list[float]) -> None:
    with pytest.raises(StoreError, match="vector"):
        store.put_embeddings([embedding("sound", 1.0), embedding("a", *values)])
    assert list(store.embeddings()) == []


def test_the_longest_vector_that_is_written_is_read(store: Store) -> None:
    # the square of such numbers is more than a float32 holds
    item = embedding("a", *[3e38] * 65_536)
    store.put_embeddings([item])
    (found,) = store.embeddings()
    assert found.vector.tobytes() == item.vector.tobytes()


@pytest.mark.parametrize("vector", ["", "AAA=", "!!!!", "AADAfw==", "AACAfw=="])
def test_a_vector_that_is_not_numbers_is_refused(vector: str) -> None:
    with pytest.raises(InputError, match="vector"):
        parse_embedding(json.dumps({"vector": vector, "is_truncated": False}).encode(), key="a")
