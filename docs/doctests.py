"""For the site: examples in docstrings become blocks of code, not quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_SKIP = re.compile(r"  # doctest: .*")


class Doctests(griffe.Extension):
    """Puts the lines from a `>>>` to the next blank line between fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """See griffe.Extension."""
        if obj.docstring:
            example = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
            obj.docstring.value = _SKIP.sub("", example)
