"""What calls wait for, as it is told to who watches: the newest wait in fields, and a line now and then."""

from __future__ import annotations

import pytest

from tlac.errors import RateLimitError, TransientError
from tlac.lmms.middleware.policy import CallActivity, Clock


class Hand:
    """A clock that is moved by hand; starts late, as a machine's does."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s


def watched() -> tuple[CallActivity, Hand, list[str]]:
    said: list[str] = []
    hand = Hand()
    return CallActivity(said.append, Clock(now=hand.now)), hand, said


def test_the_wait_that_ends_last_is_the_one_that_is_shown() -> None:
    activity, hand, _ = watched()
    activity.note_wait(30.0, "first")
    hand.now_s = 1010.0
    activity.note_wait(5.0, "shorter, and over sooner")
    assert (activity.waits_until, activity.reason) == (1030.0, "first")
    activity.note_wait(20.0, "newer, and over in the same moment")
    assert (activity.waits_until, activity.reason) == (1030.0, "newer, and over in the same moment")
    hand.now_s = 1029.0
    activity.note_wait(1.5, "shorter, and over later")
    assert (activity.waits_until, activity.reason) == (1030.5, "shorter, and over later")


def test_before_any_wait_there_is_nothing_to_show() -> None:
    activity, _, said = watched()
    assert (activity.waits_until, activity.reason, dict(activity.retries), said) == (0.0, "", {}, [])


def test_a_line_is_said_at_most_every_ten_seconds_and_of_no_wait_below_one() -> None:
    activity, hand, said = watched()
    activity.note_wait(0.9, "too short")
    assert said == []
    activity.note_wait(1.0, "a second")
    hand.now_s = 1009.9
    activity.note_wait(60.0, "too soon after the last")
    hand.now_s = 1010.0
    activity.note_wait(59.6, "ten seconds later")
    assert said == ["waiting 1 s: a second", "waiting 60 s: ten seconds later"]


def test_retries_are_counted_by_kind_the_most_frequent_first() -> None:
    activity, hand, said = watched()
    for _ in range(1001):
        activity.note_retry(TransientError("the server is down", kind="HTTP 503"), 0.1)
    activity.note_retry(TransientError("broken off"), 0.1)
    hand.now_s = 1020.0
    activity.note_retry(RateLimitError("slow down"), 8.0)
    activity.note_retry(RateLimitError("slow down"), 9.0)
    assert activity.retries == {"HTTP 503": 1001, "passing fault": 1, "rate limit": 2}
    assert said == [
        "waiting 8 s: slow down (retries so far: 1,001 HTTP 503, 1 passing fault, 1 rate limit)",
    ]


@pytest.mark.parametrize("kind", ["HTTP 503", "rate limit"])
def test_the_wait_of_a_retry_is_shown_with_the_words_of_its_fault(kind: str) -> None:
    activity, _, _ = watched()
    error = RateLimitError("too many") if kind == "rate limit" else TransientError("too many", kind=kind)
    activity.note_retry(error, 7.0)
    assert (activity.waits_until, activity.reason) == (1007.0, "too many")
    assert activity.retries == {kind: 1}
