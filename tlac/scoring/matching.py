"""From words to a class: the matching rules, as far as they need no text encoder.

A rule looks at the first answer and, where there is one, the second stage's choice, and gives a MatchDecision: a
class that is already decided, and the text whose similarity to the class names is scored.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

from tlac.errors import UnknownNameError
from tlac.interfaces import ClassNames, MatchingRule
from tlac.runtime.formatting import INVISIBLE
from tlac.types import LMMResponse, MatchDecision, Outcome

DEFAULT_TEMPLATE = "a photo of a {}"
# an article counts as one where a space follows it: "a cat", not "A-10"
_ARTICLES = re.compile(r"^(?:(?:a|an|the) )+")
_BEGINNINGS = ("a ", "an ", "the ")
# what may stand between the words of one name without telling it from another
_JOINTS = "-/\u2010\u2011\u2012\u2013\u2014\u2015"
_JOINT = re.compile(f"[{_JOINTS}]")
_EMPHASIS = re.compile(r"(\*{1,3}|`{1,3})(?=\S)(.+?)(?<=\S)\1")
_KEPT_PUNCTUATION = frozenset("#%&@*\u00a7\u00b7")
_WRAPPED = re.compile(r"(\*{1,3}|`{1,3}|_{1,2})(.+)\1", re.DOTALL)
_WRAPPERS = ("*", "`", "_")
_ARTICLE_JOINT = re.compile(f"(?:a|an|the)[{_JOINTS}]")
# an answer may repeat a line of the class list, or say what it gives: "2: Maine Coon", "Class: Maine Coon"
_NUMBERED = re.compile(r"(\d{1,9})\s*(?:[:.)]\s*(.+))?", re.DOTALL)
_LABELLED = re.compile(
    r"(?:(?:the\s+)?(?:best\s+)?(?:matching\s+)?(?:class|answer|category|label|choice)"
    r"(?:[\s_](?:name|index|number))?)\s*(?:[:=]|\bis\b)\s*(.+)",
    re.DOTALL | re.IGNORECASE,
)
_INDEX_KEYS = ("class_index", "index", "class_number", "number")
_NAME_KEYS = ("class_name", "class", "name", "label", "category", "answer", "choice")
# a number under these is what was asked for: a name, or a number of the list
_EITHER_KEYS = ("class", "label", "category", "answer", "choice")
_QUOTES = " \n\"'\u2018\u2019\u201c\u201d\u00ab\u00bb"


class _Spaced(dict[int, str]):
    """For str.translate: a sign, or a space for one that no name hangs on: punctuation or a control character; nothing
    for one that nobody sees."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        if INVISIBLE.match(sign):
            self[code] = ""
            return ""
        category = unicodedata.category(sign)
        is_kept = sign.isalnum() or sign in _JOINTS or sign in _KEPT_PUNCTUATION
        self[code] = " " if not is_kept and (category[0] == "P" or category == "Cc") else sign
        return self[code]


_SPACED = _Spaced()


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """A name without what speakers leave out: case, articles, quotes, full stops, joints such as "-" between words.

    Letters, digits and marks of every script are kept, and so are signs (+, #, %), which tell names apart: "C++" is
    not "C". A joint at a word's edge is a sign too ("A-"). Unicode is brought into one form (NFKC, case folded).
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if "*" in folded or "`" in folded:
        folded = _EMPHASIS.sub(r"\2", folded)
    bare = " ".join(folded.translate(_SPACED).split())
    if bare.startswith(_BEGINNINGS):
        bare = _ARTICLES.sub("", bare, count=1)
    if not _JOINT.search(bare):
        return unicodedata.normalize("NFC", bare.strip())
    first, *others = bare.split()
    # "A-10" is no "10" with an article: the joint stays
    article = _ARTICLE_JOINT.match(first)
    kept = article[0] if article else ""
    words = [kept + _without_joints(first[len(kept) :]), *map(_without_joints, others)]
    return unicodedata.normalize("NFC", " ".join(" ".join(words).split()))


def _without_joints(word: str) -> str:
    inner = word.strip(_JOINTS)
    if not inner:
        return ""
    start = word.index(inner)
    return word[:start] + _JOINT.sub(" ", inner) + word[start + len(inner) :]


@lru_cache(maxsize=16)
def _read_names(classes: tuple[str, ...]) -> tuple[Mapping[str, int], Mapping[str, Collection[int]]]:
    """The lower class of each verbatim name, and the classes of each normalised one. Many parts of a run ask for it."""
    verbatim: dict[str, int] = {}
    for index, name in enumerate(classes):
        if name.strip():
            verbatim.setdefault(_verbatim(name), index)
    shared: dict[str, set[int]] = {}
    for name, index in verbatim.items():
        shared.setdefault(normalise(name), set()).add(index)
    return verbatim, shared


@lru_cache(maxsize=16)
def _single_names(classes: tuple[str, ...]) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """The class of each normalised name that means one alone, and what `_longest_names` says of these names."""
    _, shared = _read_names(classes)
    by_name = {key: min(owners) for key, owners in shared.items() if key and len(owners) == 1}
    return by_name, _longest_names(by_name)


def _longest_names(names: Iterable[str]) -> Mapping[str, int]:
    """By the first word of normalised names: the words of the longest name that it starts."""
    longest: dict[str, int] = {}
    for name in names:
        first, *others = name.split(" ")
        longest[first] = max(longest.get(first, 0), 1 + len(others))
    return longest


class ClassIndex:
    """A class list that can be asked which class a text names. A name that stands twice means its lower index.

    The verbatim name decides first (in Unicode's form NFC). A normalised name means a class only where no two names
    share it. `aliases` are further names of a class, by its name; one that names another class too, or is another
    class's alias as well, tells nothing apart and is left out. `names` are (index, name) of all names, in class order.
    `by_number` says that stage 2 is asked for a number of the list: its "2" is that, even where a class is named "2".
    """

    def __init__(
        self, classes: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None, by_number: bool = False
    ) -> None:
        self.classes = tuple(classes)
        self.by_number = by_number
        self._verbatim, shared = _read_names(self.classes)
        self._by_name, self._longest = _single_names(self.classes)
        kept = self._distinct_aliases(aliases or {}, shared)
        self.names = tuple(enumerate(self.classes))
        if kept:
            self.names = tuple(
                (index, name)
                for index, own in enumerate(self.classes)
                for name in (own, *kept.get(self._verbatim.get(_verbatim(own), -1), {}).values())
            )
            self._by_name = {**self._by_name, **{name: index for index, found in kept.items() for name in found}}
            self._longest = _longest_names(self._by_name)

    def _distinct_aliases(
        self, aliases: Mapping[str, Sequence[str]], shared: Mapping[str, Collection[int]]
    ) -> dict[int, dict[str, str]]:
        """Class -> normalised alias -> the alias as it was written."""
        owners: dict[str, dict[int, str]] = {}
        for name, found in aliases.items():
            own = self.find(name)
            for alias in found if own is not None else ():
                key = normalise(alias)
                if key and key not in shared:
                    owners.setdefault(key, {})[own or 0] = alias
        kept: dict[int, dict[str, str]] = {}
        for key, by_class in owners.items():
            if len(by_class) == 1:
                ((own, alias),) = by_class.items()
                kept.setdefault(own, {})[key] = alias
        return kept

    def find(self, text: str) -> int | None:
        """The class that the whole text names, or None: by the verbatim name, else by the normalised one."""
        whole = _verbatim(text)
        bare = _unwrap(whole)
        for name in (whole, whole.rstrip("."), whole.strip(_QUOTES), bare):
            if name in self._verbatim:
                return self._verbatim[name]
        return self._by_name.get(normalise(bare))

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
        """The class that a stage-2 answer names, or None.

        By its name; as JSON such as {"class_index": "17"}, in a fence or with a remark behind it; by its number; as the
        line of the list that it stands on ("2: Maine Coon"); each also behind a label ("Class: ...") or in quotes.
        """
        whole = text.strip()
        found = self._read_index(_unwrap(whole)) if self.by_number else None
        if found is None:
            found = self.find(whole)
        if found is not None or not whole:
            return found
        if "{" in whole:
            before, _, _ = whole.partition("{")
            found = self._read_json(whole[len(before) :])
            return self.read_choice(before) if found is None else found
        bare = _unwrap(whole)
        if numbered := _NUMBERED.fullmatch(bare):
            number, name = int(numbered[1]), numbered[2]
            if name is None:
                return self._read_index(number)
            # the name is what was meant; the number tells names that stand twice apart
            named = self.find(name)
            is_same = named is not None and self._read_index(number) is not None
            return number if is_same and self.classes[number] == self.classes[named or 0] else named
        if labelled := _LABELLED.fullmatch(bare):
            return self.read_choice(labelled[1])
        return None

    def _read_json(self, text: str) -> int | None:
        try:
            document, _ = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict):
            return None
        indices = [self._read_index(document[key]) for key in _INDEX_KEYS if key in document]
        if self.by_number:
            indices += [self._read_index(document[key]) for key in _EITHER_KEYS if key in document]
        names = [self.find(document[key]) for key in (*_NAME_KEYS, *_INDEX_KEYS) if isinstance(document.get(key), str)]
        return next((index for index in (*indices, *names) if index is not None), None)

    def _read_index(self, value: object) -> int | None:
        # isdecimal lets other scripts' digits through, which int() reads as well
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.classes):
            return value
        return None


def note_unused_aliases(classes: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """What there is to say of aliases that name no class: of a name that is none, or that tell no class apart."""
    plain, index = ClassIndex(classes), ClassIndex(classes, aliases)
    owners = {name: plain.find(name) for name in aliases}
    strangers = [name for name, own in owners.items() if own is None]
    shared = [
        alias for name, own in owners.items() if own is not None for alias in aliases[name] if index.find(alias) != own
    ]
    notes = []
    if strangers:
        notes.append(f"{len(strangers)} of {len(aliases)} names with aliases are no class: {_listed(strangers)}")
    if shared:
        notes.append(f"{len(shared)} aliases tell no class apart and are left out: {_listed(shared)}")
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(map(repr, distinct[:3])) + (", ..." if len(distinct) > 3 else "")


def _unwrap(text: str) -> str:
    """The text without quotes, emphasis and a full stop around it."""
    bare = text.strip(_QUOTES).rstrip(".").strip(_QUOTES)
    wrapped = _WRAPPED.fullmatch(bare) if bare.endswith(_WRAPPERS) else None
    return _unwrap(wrapped[2]) if wrapped else bare


def _verbatim(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


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
            return MatchDecision(answer.outcome, reason=answer.reason)
        text = " ".join(answer.text.split()).rstrip(".")
        exact = index.find(answer.text)
        if exact is not None:
            return MatchDecision(Outcome.ANSWERED, text, exact, "exact")
        if not _has_words(text):
            return MatchDecision(Outcome.UNPARSED, reason="the answer holds no words")
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
            return MatchDecision(last.outcome, reason=last.reason)
        text, shown = last.text, None
        if choice is not None:
            chosen = index.read_choice(text)
            text = index.classes[chosen] if chosen is not None else text
            shown = text
            text = text.replace("_", " ")
        else:
            chosen = index.find(text)
        text = text.replace("\n", "").replace(".", "")
        if not _has_words(text) and chosen is None:
            return MatchDecision(Outcome.UNPARSED, choice=shown, reason="the answer holds no words")
        # nothing is nearer to a name than itself; an encoder without case, or the full stops that the rule deletes, may
        # put another name just as near
        is_name = chosen is not None and text == self.class_text(index.classes[chosen]).replace(".", "")
        return MatchDecision(Outcome.ANSWERED, text, chosen if is_name else None, "similarity", shown)

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
