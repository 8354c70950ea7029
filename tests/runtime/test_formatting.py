from __future__ import annotations

import pytest

from tlac.runtime.formatting import dollars, duration, escape_markdown, interval, percent, printable, valid_unicode


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (0.0, "0.0"), (0.85, "85.0"), (1.0, "100.0"), (0.9998, "99.98"), (0.00001, "0.001")],
)
def test_only_all_and_none_are_written_as_such(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("bounds", "places", "text"),
    [
        (None, 1, "–"),
        ((0.64, 0.948), 1, "64.0–94.8"),
        ((0.9956, 1.0), 0, "99.6–100"),
        ((0.99996, 1.0), 1, "99.996–100.0"),
        ((0.0, 0.0004), 1, "0.0–0.04"),
        ((0.501, 0.504), 0, "50.1–50.4"),
        ((1.0, 1.0), 1, "100.0–100.0"),
    ],
)
def test_the_ends_of_an_interval_are_never_rounded_together(bounds, places: int, text: str) -> None:
    assert interval(bounds, places) == text


@pytest.mark.parametrize(
    ("cost_usd", "text"),
    [
        (None, "unknown"),
        (0, "$0"),
        (0.000012345, "$0.00001234"),
        (0.25, "$0.25"),
        (0.999999, "$1"),
        (3e-06, "$0.000003"),
        (1234.5, "$1,234.50"),
    ],
)
def test_a_cost_that_nobody_knows_is_not_zero(cost_usd: float | None, text: str) -> None:
    assert dollars(cost_usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5567, "0.557 s"),
        (200, "3 min 20 s"),
        (7_512, "2 h 5 min"),
        (172_800, "48 h 0 min"),
        (2_300_563_301, "26,626 days 21 h"),
        (float("inf"), "\u221e"),
    ],
)
def test_a_time_has_the_units_that_people_use(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_foreign_text_is_one_line_that_commands_nothing() -> None:
    assert printable("a\x1b]0;evil\x07b\u202egnp\nc") == "a ]0;evil b gnp c"
    assert printable("abcdef", 4) == "abc…"
    assert escape_markdown("a|b\n<i>*x*") == "a\\|b \\<i\\>\\*x\\*"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a cat", "a cat"),
        ("\ufeffé \U0001f415", "\ufeffé \U0001f415"),
        ("a \ud83d\udc15", "a \U0001f415"),
        ("\udc15a\ud83d b\ud83d", "\ufffda\ufffd b\ufffd"),
    ],
)
def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_is_its_character(text: str, valid: str) -> None:
    assert valid_unicode(text) == valid
