"""The arrows of the picture in docs/batch.md: from which state of a batch to which, and the words beside them."""

from __future__ import annotations

import re
from pathlib import Path

START, END = "start", "end"
_ARROW = re.compile(r"^ +(\S+) --> (\S+): (.+)$", re.M)


def _arrows() -> tuple[tuple[str, str, str], ...]:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
    found = _ARROW.findall(page.partition("stateDiagram-v2")[2].partition("```")[0])
    return tuple((start.replace("[*]", START), end.replace("[*]", END), words) for start, end, words in found)


ARROWS = _arrows()
