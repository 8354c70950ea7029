"""Which of Anthropic's batches is ours: by number of requests and age, and by what is in it once it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.emulated import plant_keys
from tlac.config.schemas import load_backend
from tlac.interfaces import UndecidedError
from tlac.lmms.batch_anthropic import AnthropicBatches

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
DAY = timedelta(days=1)


def batch(name: str, status: str = "ended", age: timedelta = timedelta(0), **counts: int) -> Any:
    told = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0} | (counts or {"succeeded": 2})
    return SimpleNamespace(
        id=name, processing_status=status, created_at=SINCE - age, request_counts=SimpleNamespace(**told)
    )


def found(monkeypatch: pytest.MonkeyPatch, *listed: Any, ours: str = "ours") -> str | None:
    """The batch that is taken for ours, of those that are listed, where only `ours` holds our requests."""
    plant_keys(monkeypatch)

    @contextmanager
    def client(_self: AnthropicBatches) -> Iterator[Any]:
        yield SimpleNamespace(messages=SimpleNamespace(batches=SimpleNamespace(list=lambda limit: iter(listed))))

    monkeypatch.setattr(AnthropicBatches, "_client", client)
    monkeypatch.setattr(AnthropicBatches, "_holds", lambda _self, name, ids: name == ours and ids == {"a", "b"})
    monkeypatch.setattr("tlac.lmms.batch_anthropic.clock_shift", lambda _address: timedelta(0))
    return AnthropicBatches(load_backend("claude")).find("tag", SINCE, {"a", "b"}, {"taken"})


def test_a_batch_that_is_over_and_holds_our_requests_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, batch("another"), batch("ours")) == "ours"
    assert found(monkeypatch, batch("another")) is None
    assert found(monkeypatch) is None


@pytest.mark.parametrize("status", ["in_progress", "canceling"])
def test_what_is_in_a_batch_is_not_known_before_it_is_over(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    with pytest.raises(UndecidedError, match="claude: Anthropic tells what is in a batch when it is over, and ours"):
        found(monkeypatch, batch("ours", status))
    # one that is over and ours ends the doubt about others
    assert found(monkeypatch, batch("another", status), batch("ours")) == "ours"


@pytest.mark.parametrize("kind", ["processing", "succeeded", "errored", "canceled", "expired"])
def test_a_batch_of_another_size_is_not_ours_whatever_became_of_its_requests(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert found(monkeypatch, batch("ours", **{kind: 2})) == "ours"
    assert found(monkeypatch, batch("ours", **{kind: 3})) is None
    assert found(monkeypatch, batch("ours", **{kind: 1})) is None
    assert found(monkeypatch, batch("taken", "in_progress")) is None


def test_no_batch_is_looked_at_that_is_a_day_older_than_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    second = timedelta(seconds=1)
    assert found(monkeypatch, batch("ours", age=DAY)) == "ours"
    assert found(monkeypatch, batch("ours", age=DAY + second)) is None
    # the newest come first: nothing behind an old one is looked at
    assert found(monkeypatch, batch("another", age=DAY + second), batch("ours")) is None
