"""How numbers and foreign text are written for people: on the terminal, on pages, in tables for papers."""

from __future__ import annotations

import json
import math
import re

# soft hyphen, zero-width space, marks of direction, word joiner, byte order mark: what comes along from web pages, PDFs
# and joined files; joiners (U+200C, U+200D) are no such signs, since scripts and emoji need them
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_MARKDOWN = "\\`*_{}[]<>#|~!&$"


def percent(share: float | None, places: int = 1) -> str:
    """A share in [0, 1] as "85.0", "–" where it is not defined.

    Only all and none are written as 100.0 and 0.0: 9,998 of 10,000 are "99.98".
    """
    if share is None:
        return "–"
    text = f"{100 * share:.{places}f}"
    if share not in (0.0, 1.0) and float(text) in (0.0, 100.0) and places < 6:
        return percent(share, places + 1)
    return text


def interval(bounds: tuple[float, float] | None, places: int = 1, dash: str = "–") -> str:
    """An interval of shares as "64.0–94.8", with as many places as it takes to keep its ends apart."""
    if bounds is None:
        return "–"
    low, high = (percent(bound, places) for bound in bounds)
    if low == high and bounds[0] != bounds[1] and places < 6:
        return interval(bounds, places + 1, dash)
    return f"{low}{dash}{high}"


def dollars(cost_usd: float | None, unknown: str = "unknown") -> str:
    """A cost with as many places as it takes to see it; what nobody knows is never written as $0."""
    if cost_usd is None:
        return unknown
    if cost_usd == 0:
        return "$0"
    if cost_usd >= 1:
        return f"${cost_usd:,.2f}"
    # four digits as they are said, and none as 1e-06
    places = 3 - math.floor(math.log10(cost_usd))
    return "$" + f"{cost_usd:.{places}f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """A time as "0.56 s", "3 min 20 s", "2 h 5 min" or "3 days 4 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds == math.inf:
        return "∞"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours = minutes // 60
    if hours < 72:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24:,} days {hours % 24} h"


def valid_unicode(text: str) -> str:
    """Text with U+FFFD for each half of a surrogate pair that stands alone, which JSON can carry and no file can."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def valid_utf8(content: bytes, charset: str | None) -> bytes:
    """JSON in UTF-8, as it came where it can be read; else from `charset`, and U+FFFD for each byte that is still none.

    UTF-8 goes before the charset: servers name one of their own, and send JSON in UTF-8 all the same.
    """
    try:
        content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        try:
            text = content.decode(charset or "utf-8", "replace")
        except (LookupError, ValueError):
            text = content.decode("utf-8", "replace")
        return text.encode("utf-8", "replace")
    return content


def printable(text: str, most: int | None = None) -> str:
    """Foreign text as one line without control codes or direction marks, cut to `most` characters.

    What is not printable (ESC, OSC, bidirectional overrides, line breaks) becomes a space.
    """
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if most is None or len(plain) <= most else f"{plain[: most - 1]}…"


def escape_markdown(text: str) -> str:
    """Foreign text for a cell of a Markdown table: one line that shows as it reads."""
    return "".join(f"\\{character}" if character in _MARKDOWN else character for character in printable(text))
