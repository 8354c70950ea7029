"""One self-contained HTML page: template, styles, scripts and content in a single text.

Text from outside is escaped by the template engine or rides as JSON that scripts show with textContent; the
page's own policy names its scripts by digest and forbids every other script and every request. Does not know
what the content means.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

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


_LIBRARIES = ("vendor/d3.min.js", "vendor/plot.umd.min.js")


def render_page(template: str, scripts: Sequence[str], context: Mapping[str, Any], content: Any) -> str:
    """The page of a template: `context` is what the template shows, `content` what its scripts show."""
    sources = [_read(name) for name in (*_LIBRARIES, *scripts)]
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self' file:; base-uri 'none'; "
        f"form-action 'none'; script-src {' '.join(_digest(source) for source in sources)}"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            context,
            policy=Markup(policy),  # noqa: S704 - digests and fixed words
            style=Markup(_read("report.css")),  # noqa: S704 - our own file
            scripts=[Markup(source) for source in sources],  # noqa: S704 - our own files
            content=embed_json(content),
        )
    )


def embed_json(content: Any) -> Markup:
    """Records as JSON that may stand inside a script element: no character in it can end the element.

    ASCII alone, since U+2028 ends a line in old scripts and half a surrogate pair can't be written as UTF-8.
    """
    text = json.dumps(msgspec.to_builtins(content), separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - what could end the element is escaped above


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tlac", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        interval=interval,
        dollars=dollars,
        duration=duration,
        name=lambda text: cut(text, LONGEST_NAME),
    )
    return environment


def _read(name: str) -> str:
    return (files("tlac") / "templates" / name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
