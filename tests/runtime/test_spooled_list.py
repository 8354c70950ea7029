from __future__ import annotations

from itertools import islice

import pytest

from tlac.errors import UsageError
from tlac.runtime.spooled_list import spill
from tlac.types import LMMResponse, Outcome, Transcript, Turn


def transcript(number: int) -> Transcript:
    turn = Turn("stage1", f"k{number}", LMMResponse(Outcome.REFUSED, "no \n", "why"), 1, (2, 3), True)
    return Transcript(f"s{number}", None, 3, turn, further=(turn, turn), failure="call", reason="x")


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_records_come_back_whole_and_in_order_as_often_as_asked_for(count: int) -> None:
    records = [transcript(number) for number in range(count)]
    spilled = spill(iter(records), Transcript)
    assert len(spilled) == count
    assert list(spilled) == records
    assert list(spilled) == records


def test_two_may_go_through_a_list_at_once_and_more_be_put_meanwhile() -> None:
    spilled = spill(range(600), int)
    first = iter(spilled)
    ahead = list(islice(first, 300))
    assert list(spilled) == list(range(600))
    spilled.put(600)
    assert [*ahead, *first] == list(range(601))


def test_a_list_on_disk_is_as_one_in_memory() -> None:
    records = ["x" * 100_000 + str(number) for number in range(600)]
    assert list(spill(records, str)) == records


def test_text_that_is_not_unicode_is_named() -> None:
    with pytest.raises(UsageError, match="lone surrogate"):
        spill(["\ud800"] * 300, str)
