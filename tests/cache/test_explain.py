"""Why a request has no answer in the store."""

from __future__ import annotations

import pytest

from tests.support.fake_answers import choice_request, entries, entry_for, image_request
from tlac.cache.select import explain
from tlac.cache.store import Store


def test_a_stored_request_needs_no_explanation(store: Store) -> None:
    entry = entries(1)[0]
    store.put_entries([entry])
    assert explain(store, entry.request) == (entry.key, {})


def test_an_empty_store_has_nothing_near(store: Store) -> None:
    entry = entries(1)[0]
    assert explain(store, entry.request) == (None, {})


def test_the_nearest_is_about_the_same_image_and_the_fields_that_differ_are_shown(store: Store) -> None:
    same_image = entry_for(image_request(1, "What do you see?", params={"temperature": 1, "seed": 3}))
    other_image = entry_for(image_request(2))
    store.put_entries([same_image, other_image, entry_for(choice_request("a cat"))])
    asked = entry_for(image_request(1)).request
    nearest, differences = explain(store, asked)
    assert nearest == same_image.key
    assert differences == {
        "messages.0.parts.0.text": ('"What is shown?"', '"What do you see?"'),
        "params.seed": ("(missing)", "3"),
        "params.temperature": ("0", "1"),
    }


def test_another_image_is_the_difference_where_none_is_about_the_same(store: Store) -> None:
    store.put_entries([entry_for(image_request(2))])
    _, differences = explain(store, entry_for(image_request(1)).request)
    assert list(differences) == ["messages.0.parts.1.image_sha256"]


def test_long_texts_are_shown_where_they_begin_to_differ(store: Store) -> None:
    classes = tuple(f"class number {number}" for number in range(300))
    store.put_entries([entry_for(choice_request("a cat", (*classes, "last")))])
    _, differences = explain(store, entry_for(choice_request("a cat", (*classes, "final"))).request)
    ((asked, stored),) = differences.values()
    assert asked.endswith('final"')
    assert stored.endswith('last"')
    assert len(asked) < 70


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        # sixty characters, quotes included, are shown whole
        ("a" * 57, "", '"' + "a" * 57 + 'X"'),
        ("a" * 58, "", "..." + "a" * 20 + 'X"'),
        ("", "b" * 100, '"X' + "b" * 58 + "..."),
        ("a" * 100, "b" * 100, "..." + "a" * 20 + "X" + "b" * 39 + "..."),
        ("a" * 100, "b" * 38, "..." + "a" * 20 + "X" + "b" * 38 + '"'),
        ("a" * 100, "b" * 39, "..." + "a" * 20 + "X" + "b" * 39 + "..."),
        ("a" * 20, "b" * 100, "..." + "a" * 20 + "X" + "b" * 39 + "..."),
        ("a" * 19, "b" * 100, '"' + "a" * 19 + "X" + "b" * 39 + "..."),
    ],
)
def test_sixty_characters_of_a_long_text_are_shown_and_twenty_of_them_before_the_difference(
    store: Store, before: str, after: str, shown: str
) -> None:
    store.put_entries([entry_for(image_request(1, f"{before}Y{after}"))])
    _, differences = explain(store, entry_for(image_request(1, f"{before}X{after}")).request)
    assert differences == {"messages.0.parts.0.text": (shown, shown.replace("X", "Y"))}


def test_numbers_that_are_equal_do_not_differ(store: Store) -> None:
    entry = entry_for(image_request(1, params={"temperature": 0}))
    store.put_entries([entry])
    assert explain(store, entry_for(image_request(1, params={"temperature": 0.0})).request) == (entry.key, {})
