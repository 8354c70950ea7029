"""Prompt sets: the words in which the two stages are asked, as messages about a class list and an answer.

A set is named with its options: `default:hints=30` shows 30 of the class names in stage 1, and
`default:hints=30,spread=true` thirty that are spread over the list.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import msgspec

from tlac.config.files import find
from tlac.config.schemas import parse
from tlac.errors import ConfigError, UnknownNameError, UsageError
from tlac.hashing import sha256_of
from tlac.types import ChoiceTask, Image, Message, TextPart


class Stage2Prompts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stage 2's words. Each `prefix` holds {classes}, each `question` {answer}; free text has none by index."""

    prefix: str
    question: str
    prefix_by_index: str = ""
    question_by_index: str = ""


class HintedPrompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stage 1 for a model that is shown some of the class names: `prefix`, which holds {classes}, stands before the
    image and `question` after it."""

    prefix: str
    question: str


class Hints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many class names stage 1 shows, and the seed with which they are drawn; `all` shows the whole list. With
    `spread` one is drawn from each of as many clusters of the class names' embeddings."""

    count: int | Literal["all"]
    seed: int = 0
    spread: bool = False


class PromptSetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt-set file: stage-1 prompts by name, one of them `default`, or the name of the set whose stage 1 this one
    shares; stage 2's; those of a stage 2 that is shown some of the classes (`shortlist`, else stage 2's), and those of
    one that is shown the image again (`relook`). With `hints` stage 1 is asked in the words of `hinted`, whatever the
    dataset.

    With `free_text` stage 2 is asked as the paper asks it: the class names in line, the first answer without line
    breaks and full stops, and an answer in words, whatever the backend could constrain.
    """

    description: str
    stage1: dict[str, str] | str
    stage2: Stage2Prompts
    shortlist: Stage2Prompts | None = None
    relook: Stage2Prompts | None = None
    hinted: HintedPrompt | None = None
    hints: Hints | None = None
    free_text: bool = False


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A prompt set: its name, the file it came from and what that file says. `descriptions` say what class names
    mean, and stand behind their list in stage 2; `domain` says what the images are, which stage 1 begins with; `drawn`
    are the class names of hints that are spread, which a run draws with its text encoder before anybody is asked."""

    name: str
    source: str
    spec: PromptSetSpec
    stage1: Mapping[str, str]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    domain: str = ""
    drawn: Mapping[Hints, tuple[str, ...]] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The sha256 (hex) of all prompts in the set; the description is no part of it."""
        sections = (self.spec.stage2, self.spec.relook, self.spec.shortlist)
        asked = [msgspec.to_builtins(section) for section in sections if section is not None]
        if self.spec.hints is not None:
            hints = msgspec.to_builtins(self.spec.hints)
            if not self.spec.hints.spread:
                # the digest of runs before there was such an option
                del hints["spread"]
            asked += [msgspec.to_builtins(self.spec.hinted), hints]
        further = [*(["free text"] if self.spec.free_text else []), *([self.descriptions] if self.descriptions else [])]
        return sha256_of([dict(self.stage1), *asked, *further])

    def about(self, domain: str) -> PromptSet:
        """These prompts for one's own images: stage 1 begins by saying what they are, such as "parts on a conveyor".

        Raises UsageError for no words, which would ask all anew and say nothing.
        """
        if not domain.strip(" ."):
            raise UsageError("describe: is empty: say what the images are, or leave it out")
        told, spec = f"This image is one of a set: {domain.strip().rstrip('.')}. ", self.spec
        if (hinted := spec.hinted) is not None:
            spec = msgspec.structs.replace(spec, hinted=HintedPrompt(hinted.prefix, told + hinted.question))
        stage1 = {name: told + words for name, words in self.stage1.items()}
        return replace(self, spec=spec, stage1=stage1, domain=domain)

    def draw_hints(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The class names that stage 1 shows of this list, whatever its order, or all in order; none without hints.

        Raises UsageError where the list has no more names than are to be shown, and for hints that are spread before
        they are `drawn`.
        """
        hints, names = self.spec.hints, sorted(set(classes))
        if hints is None:
            return ()
        if hints.count == "all":
            return tuple(dict.fromkeys(classes))
        if hints.count >= len(names):
            raise UsageError(f"hints: {hints.count} of {len(names)} class names would be shown; show fewer than all")
        if hints.spread:
            if hints not in self.drawn:
                raise UsageError(f"--prompts {self.name}: its hints are drawn by a run, with its text encoder")
            return self.drawn[hints]
        return tuple(random.Random(hints.seed).sample(names, hints.count))  # noqa: S311 - a sample, not a secret

    def stage1_words(self, prompt: str, hints: Sequence[str] = ()) -> tuple[str, str]:
        """What stands before the image and after it: hints or nothing, and the words of the named prompt or of
        `default`, which hints make do without."""
        if hints and self.spec.hinted is not None:
            return self.spec.hinted.prefix.replace("{classes}", "\n".join(hints)), self.spec.hinted.question
        return "", self.stage1.get(prompt, self.stage1["default"])

    def stage1_messages(self, image: Image, prompt: str, hints: Sequence[str] = ()) -> tuple[Message, ...]:
        """Show the image and ask what it is. Hints stand first, where providers' prefix caches serve them."""
        prefix, question = self.stage1_words(prompt, hints)
        before = (TextPart(prefix, is_prefix=True),) if prefix else ()
        return (Message("user", (*before, image, TextPart(question))),)

    def stage2_messages(self, task: ChoiceTask) -> tuple[Message, ...]:
        """Ask which class an answer meant. The class list stands first, where providers' prefix caches serve it."""
        words = self.spec.stage2 if task.candidates is None else self.spec.shortlist or self.spec.stage2
        return (Message("user", self._choice_parts(words, task)),)

    def relook_words(self, has_answer: bool) -> Stage2Prompts:
        """The words that show the image again; without an answer, without the paragraph that has a place for it.

        Raises ConfigError for a set without such words.
        """
        if self.spec.relook is None:
            raise ConfigError(f"{self.source}: needs 'relook', the words that show the image again in stage 2")
        if has_answer:
            return self.spec.relook
        question, by_index = (
            "\n\n".join(part for part in words.split("\n\n") if "{answer}" not in part)
            for words in (self.spec.relook.question, self.spec.relook.question_by_index)
        )
        if not question or (self.spec.relook.question_by_index and not by_index):
            raise ConfigError(f"{self.source}: relook: the question needs {{answer}} in a paragraph of its own")
        return msgspec.structs.replace(self.spec.relook, question=question, question_by_index=by_index)

    def relook_messages(self, image: Image, task: ChoiceTask) -> tuple[Message, ...]:
        """Show the image again and ask which of the candidates it is. Raises ConfigError for a set without."""
        return (Message("user", (image, *self._choice_parts(self.relook_words(bool(task.answer)), task))),)

    def _choice_parts(self, words: Stage2Prompts, task: ChoiceTask) -> tuple[TextPart, TextPart]:
        answer = task.answer
        prefix, question = words.prefix, words.question
        if task.by_index:
            prefix, question = words.prefix_by_index, words.question_by_index
        listing = _list_classes(task.classes, task.candidates, task.by_index, ", " if self.spec.free_text else "\n")
        names = dict.fromkeys(task.names) if self.descriptions else ()
        if meanings := [f"{name}: {self.descriptions[name]}" for name in names if name in self.descriptions]:
            listing += "\n\n" + "\n".join(["What is meant by them:", "", *meanings])
        if self.spec.free_text:
            answer = answer.replace("\n", "").replace(".", "")
        # replace, not str.format: answers and class names may hold braces; a list of its own is no shared prefix
        return (
            TextPart(prefix.replace("{classes}", listing), is_prefix=task.candidates is None),
            TextPart(question.replace("{answer}", answer)),
        )


@lru_cache(maxsize=64)
def _list_classes(classes: tuple[str, ...], candidates: tuple[int, ...] | None, by_index: bool, separator: str) -> str:
    """A class list as stage 2 shows it: a run asks about the same thousand names again and again."""
    indices = range(len(classes)) if candidates is None else candidates
    if by_index:
        return "\n".join([f"{index}: {classes[index]}" for index in indices])
    return separator.join(dict.fromkeys(classes[index] for index in indices))


def load_prompts(name: str) -> PromptSet:
    """A prompt set by name or by the path of its YAML file, with options such as `default:hints=30,seed=1`.

    Raises ConfigError where a placeholder or the default prompt is missing, UsageError for a wrong option.
    """
    base, _, options = name.rpartition(":")
    if "=" not in options:
        base, options = name, ""
    found = find("prompts", base)
    spec = parse(PromptSetSpec, found.spec, found.source)
    if options and spec.hints is not None and spec.hints.count == "all":
        raise UsageError(f"--prompts {base} shows all class names: leave the number of hints out")
    if options:
        spec = msgspec.structs.replace(spec, hints=_read_hints(name, options))
    _check_hints(found.source, spec)
    stage1 = spec.stage1
    if isinstance(stage1, str):
        lender = find("prompts", stage1)
        stage1 = parse(PromptSetSpec, lender.spec, lender.source).stage1
    if isinstance(stage1, str):
        raise ConfigError(f"{found.source}: stage1 names {spec.stage1}, which has no words of its own")
    if "default" not in stage1:
        raise ConfigError(f"{found.source}: stage1 needs a prompt named 'default'")
    for section in ("stage2", "shortlist", "relook"):
        words = getattr(spec, section)
        if words is not None:
            _check_places(found.source, section, words, spec.free_text)
    label = f"{found.name}:{options}" if options else found.name
    return PromptSet(label, found.source, spec, stage1)


def with_hints(name: str, hints: str) -> str:
    """The prompt set's name with hints as its option: "30", or "30:spread"; as it is for "0".

    Raises UsageError where it has options of its own, and for what is no number of hints.
    """
    count, _, form = hints.partition(":")
    if not count.isdecimal() or hints not in (count, f"{count}:spread"):
        raise UsageError(f"hints {hints!r}: is no number of class names, such as 30, or 30:spread for some spread out")
    if int(count) == 0:
        return name
    if "=" in name.rpartition(":")[2]:
        raise UsageError(f"--prompts {name} has options already: leave --hints out, or the options")
    return f"{name}:hints={int(count)}" + (",spread=true" if form else "")


def _read_hints(name: str, options: str) -> Hints:
    given = dict(part.strip().partition("=")[::2] for part in options.split(","))
    if unknown := given.keys() - {"hints", "seed", "spread"}:
        raise UnknownNameError("option of a prompt set", min(unknown), ["hints", "seed", "spread"])
    spread = given.get("spread", "false")
    if spread not in ("true", "false"):
        raise UsageError(f"--prompts {name}: spread is true or false, not {spread!r}")
    try:
        return Hints(int(given["hints"]), int(given.get("seed", 0)), spread == "true")
    except (KeyError, ValueError) as error:
        raise UsageError(f"--prompts {name}: hints and seed are whole numbers, such as default:hints=30") from error


def _check_hints(source: str, spec: PromptSetSpec) -> None:
    if spec.hints is None:
        return
    if spec.hints.count != "all" and spec.hints.count < 1:
        raise UsageError(f"{source}: hints: {spec.hints.count} class names can't be shown; show one or more")
    if spec.hints.count == "all" and spec.hints.spread:
        raise ConfigError(f"{source}: hints: all class names are shown, so that none can be drawn: leave spread out")
    if spec.hinted is None or "{classes}" not in spec.hinted.prefix:
        raise ConfigError(
            f"{source}: hints need 'hinted', stage 1 with some class names, whose prefix holds {{classes}}; "
            "or use --prompts default"
        )


def _check_places(source: str, section: str, words: Stage2Prompts, is_free_text: bool) -> None:
    places = {"prefix": "{classes}", "question": "{answer}"}
    if not is_free_text:
        places |= {f"{key}_by_index": placeholder for key, placeholder in places.items()}
    for key, placeholder in places.items():
        if placeholder not in getattr(words, key):
            raise ConfigError(f"{source}: {section}.{key} must hold {placeholder}")
