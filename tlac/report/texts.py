"""Numbers and outside text as a reader sees them. Does not know HTML: escaping is the page's."""

from __future__ import annotations

# a hundred samples with 100 kB of answer each must not make a page of 10 MB
LONGEST_TEXT = 4_000
LONGEST_NAME = 300


def cut(text: str, most: int = LONGEST_TEXT) -> str:
    """The text, or its first `most` characters and a word on how many there are."""
    return text if len(text) <= most else f"{text[:most]} [... {len(text):,} characters in all]"


def percent(share: float | None, places: int = 1) -> str:
    """A share in [0, 1] as "85.0 %"."""
    return "–" if share is None else f"{100 * share:.{places}f}\N{NO-BREAK SPACE}%"


def interval(bounds: tuple[float, float] | None) -> str:
    """An interval of shares as "64.0–94.8 %"."""
    return "–" if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}\N{NO-BREAK SPACE}%"


def dollars(cost_usd: float | None) -> str:
    """A cost, with as many places as it takes to see it."""
    if cost_usd is None:
        return "not known"
    if cost_usd == 0:
        return "$0"
    return f"${cost_usd:,.2f}" if cost_usd >= 1 else f"${cost_usd:.4g}"


def duration(seconds: float) -> str:
    """A time as "0.56 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
