"""From words to a class: the matching rules, as far as they need no text encoder.

A rule looks at the first answer and, where there is one, the second stage's choice, and gives a MatchDecision: a
class that is already decided, and the text whose similarity to the class names is scored.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from tlac.config.files import read_yaml
from tlac.errors import InputError, UnknownNameError
from tlac.interfaces import ClassNames, MatchingRule
from tlac.types import LMMResponse, MatchDecision, Outcome

DEFAULT_TEMPLATE = "a photo of a {}"
_ARTICLES = ("a", "an", "the")
# what normalising does to ASCII, which most answers are: folded, punctuation as spaces
_ASCII = "".join(chr(code).lower() if chr(code).isalnum() or chr(code).isspace() else " " for code in range(128))


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """A name as it is compared: NFKC, case folded, punctuation and underscores as spaces, no leading article."""
    if text.isascii():
        words = text.translate(_ASCII).split()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
        words = re.sub(r"[^\w\s]", " ", folded).split()
    while len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)


class ClassIndex:
    """A class list that can be asked which class a text names. A name that stands twice means its lower index.

    `aliases` are further names of a class, by its name. One that names another class too, or is another class's
    alias as well, tells nothing apart and is left out. `names` are (index, name) of all names, in class order.
    """

    def __init__(self, classes: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self.classes = tuple(classes)
        self._by_name: dict[str, int] = {}
        for index, name in enumerate(self.classes):
            if key := normalise(name):
                self._by_name.setdefault(key, index)
        kept = self._distinct_aliases(aliases or {})
        self.names = tuple(
            (index, name)
            for index, own in enumerate(self.classes)
            for name in (own, *kept.get(normalise(own), {}).values())
        )
        for own, found in kept.items():
            self._by_name.update({key: self._by_name[own] for key in found})
        # first word -> words of the longest name that it starts
        self._longest: dict[str, int] = {}
        for key in self._by_name:
            first, *others = key.split(" ")
            self._longest[first] = max(self._longest.get(first, 0), 1 + len(others))

    def _distinct_aliases(self, aliases: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
        """Class -> alias -> the alias as it was written; class and alias normalised."""
        owners: dict[str, dict[str, str]] = {}
        for name, found in aliases.items():
            own = normalise(name)
            for alias in found if own in self._by_name else ():
                key = normalise(alias)
                if key and key not in self._by_name:
                    owners.setdefault(key, {})[own] = alias
        kept: dict[str, dict[str, str]] = {}
        for key, by_class in owners.items():
            if len(by_class) == 1:
                ((own, alias),) = by_class.items()
                kept.setdefault(own, {})[key] = alias
        return kept

    def find(self, text: str) -> int | None:
        """The class that the whole text names, or None."""
        return self._by_name.get(normalise(text))

    def find_words(self, text: str) -> tuple[int, ...]:
        """The classes whose whole name stands in the text as words, by index."""
        words = normalise(text).split()
        found = set()
        for start, first in enumerate(words):
            if first not in self._longest:
                continue
            longest = self._longest[first]
            for end in range(start + 1, min(start + longest, len(words)) + 1):
                index = self._by_name.get(" ".join(words[start:end]))
                if index is not None:
                    found.add(index)
        return tuple(sorted(found))

    def read_choice(self, text: str) -> int | None:
        """The class that a stage-2 answer names: by its name, or as JSON {"class_index": "17"}; else None."""
        if text.lstrip().startswith("{"):
            return self._read_index(text)
        return self.find(text)

    def _read_index(self, text: str) -> int | None:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return None
        value = document.get("class_index") if isinstance(document, dict) else None
        # isdecimal lets other scripts' digits through, which int() reads as well
        if isinstance(value, str) and value.isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.classes):
            return value
        return None


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _without_answer(response: LMMResponse) -> MatchDecision:
    return MatchDecision(response.outcome, reason=response.reason)


class LadderMatching:
    """Exact match of the normalised answer, then a stage-2 choice that names a listed class, then similarity.

    Similarity is always that of the first answer. A stage-2 answer that names no listed class, or a
    refusal of stage 2, decides nothing.
    """

    name = "ladder"
    skips_stage2_on_exact = True

    def judge(self, answer: LMMResponse, choice: LMMResponse | None, index: ClassNames) -> MatchDecision:
        """See `MatchingRule`."""
        if answer.outcome is not Outcome.ANSWERED:
            return _without_answer(answer)
        text = " ".join(answer.text.split()).rstrip(".")
        if not _has_words(text):
            return MatchDecision(Outcome.UNPARSED, reason="the answer holds no words")
        exact = index.find(text)
        if exact is not None:
            return MatchDecision(Outcome.ANSWERED, text, exact, "exact")
        if choice is not None and choice.outcome is Outcome.ANSWERED:
            chosen = index.read_choice(choice.text)
            if chosen is not None:
                return MatchDecision(Outcome.ANSWERED, text, chosen, "choice", index.classes[chosen])
        return MatchDecision(Outcome.ANSWERED, text, None, "similarity", choice.text if choice else None)

    def class_text(self, name: str) -> str:
        """See `MatchingRule`."""
        return name.replace("_", " ")


class Paper:
    """The paper's rule (arXiv:2503.12206): the similarity of the last answer alone decides.

    Line breaks and full stops are deleted, in stage 2's answer underscores become spaces too.
    """

    name = "paper"
    skips_stage2_on_exact = False

    def judge(self, answer: LMMResponse, choice: LMMResponse | None, index: ClassNames) -> MatchDecision:
        """See `MatchingRule`."""
        last = answer if choice is None else choice
        if last.outcome is not Outcome.ANSWERED:
            return _without_answer(last)
        text, shown = last.text, None
        if choice is not None:
            chosen = index.read_choice(text)
            text = index.classes[chosen] if chosen is not None else text
            shown = text
            text = text.replace("_", " ")
        text = text.replace("\n", "").replace(".", "")
        if not _has_words(text):
            return MatchDecision(Outcome.UNPARSED, choice=shown, reason="the answer holds no words")
        return MatchDecision(Outcome.ANSWERED, text, None, "similarity", shown)

    def class_text(self, name: str) -> str:
        """See `MatchingRule`."""
        return name.replace("_", " ")


RULES: dict[str, MatchingRule] = {rule.name: rule for rule in (LadderMatching(), Paper())}


def find_rule(name: str) -> MatchingRule:
    """The matching rule of that name. Raises UnknownNameError."""
    if name not in RULES:
        raise UnknownNameError("matching rule", name, RULES)
    return RULES[name]


def split_templates(template: str) -> tuple[str, ...]:
    """The templates in "a photo of a {} | a drawing of a {}": each is applied, and the vectors are averaged."""
    return tuple(part.strip() for part in template.split("|"))


def apply_template(template: str, text: str) -> str:
    """A prompt template such as "a photo of a {}" with the text in its place."""
    return template.replace("{}", text)


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """The names in a file of aliases. Raises InputError naming file and key, ConfigError for what is no YAML."""
    try:
        return msgspec.convert(read_yaml(path), dict[str, tuple[str, ...]], strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: expected `class name: [name, ...]`: {error}") from error
