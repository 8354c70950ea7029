"""Choosing and forgetting answers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tests.support.fake_answers import choice_request, embedding, entries, entry_for, image_request, insert_row
from tlac.cache.select import Selection, prune, select
from tlac.cache.store import AnswerCount, Store
from tlac.cache.verify import prune_damaged, verify_store
from tlac.errors import StoreError, UsageError
from tlac.types import Outcome

OLD = entry_for(image_request(1), created_at="2024-12-31T23:59:59Z", backend="a")
NEW = entry_for(image_request(2), created_at="2025-06-01T00:00:00+02:00", backend="a")
REFUSED = entry_for(image_request(3), "", Outcome.REFUSED, created_at="", cost_usd=None, backend="b")
YEAR = datetime(2025, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def filled(store: Store) -> Store:
    store.put_entries([OLD, NEW, REFUSED])
    return store


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        (Selection(), [OLD, NEW, REFUSED]),
        (Selection(backend="a"), [OLD, NEW]),
        (Selection(outcome=Outcome.REFUSED), [REFUSED]),
        (Selection(created_before=YEAR), [OLD]),
        (Selection(created_before=YEAR.replace(tzinfo=None)), [OLD]),
        (Selection(created_before=YEAR + timedelta(days=900)), [OLD, NEW]),
        (Selection(created_before=datetime(2025, 5, 31, 22, 0, 1, tzinfo=timezone.utc)), [OLD, NEW]),
        (Selection(created_before=datetime(2025, 5, 31, 22, 0, 0, tzinfo=timezone.utc)), [OLD]),
        (Selection(keys=frozenset({NEW.key, "unknown"})), [NEW]),
        (Selection(backend="b", keys=frozenset({NEW.key})), []),
    ],
)
def test_a_selection_fits_what_it_says(filled: Store, selection: Selection, chosen: list[object]) -> None:
    assert list(select(filled, selection)) == sorted(chosen, key=lambda answer: answer.key)  # type: ignore[attr-defined]


def test_a_dry_run_counts_and_keeps(filled: Store) -> None:
    assert prune(filled, Selection(backend="a"), is_dry_run=True) == (AnswerCount("a", "stage1", "answered", 2, 1.0),)
    assert len(list(filled.entries())) == 3


def test_what_is_pruned_is_gone_and_nothing_else(filled: Store) -> None:
    assert prune(filled, Selection(outcome=Outcome.REFUSED)) == (AnswerCount("b", "stage1", "refused", 1, None),)
    assert list(filled.entries()) == sorted([OLD, NEW], key=lambda answer: answer.key)


def test_everything_is_not_forgotten_by_saying_nothing(filled: Store) -> None:
    with pytest.raises(UsageError, match="say what to forget"):
        prune(filled, Selection())
    assert len(list(filled.entries())) == 3


def test_damaged_rows_can_be_forgotten_and_the_rest_stays(store: Store) -> None:
    kept = sorted([*entries(3), entry_for(choice_request("x" * 2000))], key=lambda answer: answer.key)
    store.put_entries(kept)
    store.put_embeddings([embedding("a", 1.0)])
    insert_row(store.path / "responses", value="{}")
    insert_row(store.path / "responses", key=b"pickled", raw=0)
    insert_row(store.path / "embeddings", mode=4)
    with pytest.raises(StoreError, match="cache verify"):
        list(store.entries())
    assert prune_damaged(store, is_dry_run=True) == 3
    assert len(verify_store(store.path).problems) == 3
    assert prune_damaged(store) == 3
    assert verify_store(store.path).problems == ()
    assert list(store.entries()) == kept
    assert len(list(store.embeddings())) == 1
    assert prune_damaged(store) == 0
