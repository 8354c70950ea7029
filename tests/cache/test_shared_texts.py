"""Long texts of requests are kept once."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_answers import choice_request, entry_for, image_request
from tlac.cache.serialization import fold, parse_text_row, unfold
from tlac.errors import InputError

LONG = entry_for(choice_request("a cat", tuple(f"class number {number}" for number in range(200)))).request


def test_a_long_text_is_put_aside_and_found_again() -> None:
    folded, rows = fold(LONG)
    assert len(str(folded)) < 700
    ((key, content),) = rows.items()
    assert unfold(folded, lambda wanted: parse_text_row(wanted, rows[wanted].encode())) == LONG
    assert "class number 7" in parse_text_row(key, content.encode())


def test_a_request_of_short_texts_stays_as_it_is() -> None:
    request = entry_for(image_request(1)).request
    assert fold(request) == (request, {})


@pytest.mark.parametrize(("length", "is_put_aside"), [(1023, False), (1024, True)])
def test_a_text_of_1024_characters_is_a_long_one(length: int, is_put_aside: bool) -> None:
    request = {"messages": [{"role": "user", "parts": [{"text": "\u732b" * length}]}], "model": "m"}
    folded, rows = fold(request)
    assert (folded != request, len(rows)) == (is_put_aside, is_put_aside)
    # sha256sum of the text
    digest = hashlib.sha256(("\u732b" * length).encode()).hexdigest()
    if is_put_aside:
        assert folded["messages"][0]["parts"] == [{"text_sha256": digest}]
        assert list(rows) == [f"text:{digest}"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=3000), max_size=4))
def test_any_texts_come_back(texts: list[str]) -> None:
    request = {"messages": [{"role": "user", "parts": [{"text": text} for text in texts]}]}
    folded, rows = fold(request)
    assert unfold(folded, lambda key: parse_text_row(key, rows[key].encode())) == request


@pytest.mark.parametrize("request_", [{}, {"messages": 1}, {"messages": [1]}, {"messages": [{"parts": [1]}]}])
def test_a_request_of_another_shape_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(InputError, match="without messages"):
        unfold(request_, lambda key: key)
