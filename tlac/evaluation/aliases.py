"""Has an LMM name each class in other words, once: a file of aliases comes of it.

One text-only call for each distinct class name; the answers are stored as all others are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from tlac.evaluation.prompter import BoundLMM
from tlac.scoring.matching import normalise
from tlac.types import Message, Outcome, TextPart

MOST = 5
_LONGEST = 60
_PROMPT = (
    "A picture may show this: {name}\n\n"
    "By which other names do people call exactly the same thing? Give at most five, one a line, without numbers or "
    "explanations. Leave out broader and narrower terms. If there is no other name, answer with the name itself."
)


async def ask_aliases(classes: Sequence[str], bound_lmm: BoundLMM, concurrency: int) -> dict[str, tuple[str, ...]]:
    """Further names of each class that has some. A refusal or an empty answer gives none. Raises CallError."""
    places = asyncio.Semaphore(max(1, concurrency))

    async def ask(name: str) -> tuple[str, ...]:
        words = _PROMPT.replace("{name}", name.replace("_", " "))
        async with places:
            response = (await bound_lmm.ask("stage2", (Message("user", (TextPart(words),)),))).response
        return read_names(response.text, name) if response.outcome is Outcome.ANSWERED else ()

    names = list(dict.fromkeys(classes))
    found = await asyncio.gather(*map(ask, names))
    return {name: aliases for name, aliases in zip(names, found, strict=True) if aliases}


def read_names(text: str, own: str) -> tuple[str, ...]:
    """The names in an answer, one a line; without list marks, repetitions, the class's own name and sentences."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s*", "", line).strip().strip('."')
        key = normalise(name)
        if key and key != normalise(own) and len(name) <= _LONGEST:
            found.setdefault(key, name)
    return tuple(found.values())[:MOST]
