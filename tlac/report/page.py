"""One self-contained HTML page: template, styles, scripts and content in a single text; and its file.

Text from outside is escaped by the template engine or rides as JSON that scripts show with textContent; the
page's own policy names its scripts by digest and forbids every other script and every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from tlac.results.folder import read_thumbnail
from tlac.runtime import formatting
from tlac.runtime.safe_files import naming_failure, replacing

# a hundred samples with 100 kB of answer each must not make a page of 10 MB
LONGEST_TEXT = 4_000
LONGEST_NAME = 300
# remedy and subject, where a page can't be written
PAGE_FAILURE = ("; choose another -o", "the page ")
# what a browser shows; nobody's run folder may offer a link to any other file
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jfif", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff"))


@dataclass(frozen=True, slots=True)
class PageImages:
    """A page's thumbnails: `inline` as base64, and further ones in files of these names in the folder `folder`.

    `originals` are the images themselves by their place among the thumbnails, as paths from the page's folder.
    """

    inline: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    folder: str = ""
    originals: Mapping[int, str] = field(default_factory=dict)


def cut(text: str, most: int = LONGEST_TEXT) -> str:
    """The text, or its first `most` characters and a word on how many there are."""
    return text if len(text) <= most else f"{text[:most]} [... {len(text):,} characters in all]"


_LIBRARIES = ("vendor/d3.min.js", "vendor/plot.umd.min.js")


def render_page(
    template: str,
    scripts: Sequence[str],
    context: Mapping[str, Any],
    content: Any,
    styles: Sequence[str] = ("report.css",),
) -> str:
    """The page of a template: `context` is what the template shows, `content` what its scripts show."""
    sources = [_read(name) for name in (*(_LIBRARIES if "charts.js" in scripts else ()), *scripts)]
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
            style=Markup("".join(map(_read, styles))),  # noqa: S704 - our own files
            scripts=[Markup(source) for source in sources],  # noqa: S704 - our own files
            content=embed_json(content),
        )
    )


def embed_json(content: Any) -> Markup:
    """Records as JSON that may stand inside a script element: no character in it can end the element.

    ASCII alone, since U+2028 ends a line in old scripts and half a surrogate pair can't be written as UTF-8.
    """
    text = json.dumps(msgspec.to_builtins(content), separators=(",", ":"), allow_nan=False)
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
        percent=lambda share: _with_sign(formatting.percent(share)),
        interval=lambda bounds: _with_sign(formatting.interval(bounds)),
        dollars=formatting.dollars,
        duration=formatting.duration,
        name=lambda text: cut(text, LONGEST_NAME),
    )
    return environment


def _with_sign(number: str) -> str:
    return number if number == "–" else f"{number}\N{NO-BREAK SPACE}%"


def _read(name: str) -> str:
    return (files("tlac") / "templates" / name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def write_page(html: str, images: PageImages, path: Path, thumbnails: Mapping[str, Path]) -> None:
    """Write a page, replacing one of that name, and the thumbnails that it expects beside it.

    Raises TlacError where they can't be written.
    """
    with naming_failure(path, *PAGE_FAILURE):
        path.parent.mkdir(parents=True, exist_ok=True)
        if images.beside:
            beside = path.parent.resolve() / images.folder
            beside.mkdir(exist_ok=True)
            for name in images.beside:
                source = thumbnails[Path(name).stem]
                if source.parent.resolve() != beside:
                    write_whole(beside / name, read_thumbnail(source))
        write_whole(path, html.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def is_shown_by_browser(path: Path) -> bool:
    """Whether a page may link to it: a regular file whose name ends as an image's that browsers show."""
    return path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file() and not path.is_symlink()
