"""Prompt sets: the words in which the two stages are asked, as messages about a class list and an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from tlac.config.files import find
from tlac.config.schemas import parse
from tlac.errors import ConfigError
from tlac.hashing import sha256_of
from tlac.types import ChoiceTask, Image, ImagePart, Message, TextPart


class Stage2Prompts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stage 2's words. Each `prefix` holds {classes}, each `question` {answer}; free text has none by index."""

    prefix: str
    question: str
    prefix_by_index: str = ""
    question_by_index: str = ""


class PromptSetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt-set file: stage-1 prompts by name, one of them `default`, or the name of the set whose stage 1 this one
    shares; stage 2's; those of a stage 2 that is shown some of the classes (`shortlist`, else stage 2's), and those of
    one that is shown the image again (`relook`).

    With `free_text` stage 2 is asked as the paper asks it: the class names in line, the first answer without line
    breaks and full stops, and an answer in words, whatever the backend could constrain.
    """

    description: str
    stage1: dict[str, str] | str
    stage2: Stage2Prompts
    shortlist: Stage2Prompts | None = None
    relook: Stage2Prompts | None = None
    free_text: bool = False


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A prompt set: its name, the file it came from and what that file says. `descriptions` say what class names
    mean, and stand behind their list in stage 2."""

    name: str
    source: str
    spec: PromptSetSpec
    stage1: Mapping[str, str]
    descriptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The sha256 (hex) of all prompts in the set; the description is no part of it."""
        sections = (self.spec.stage2, self.spec.relook, self.spec.shortlist)
        asked = [msgspec.to_builtins(section) for section in sections if section is not None]
        further = [*(["free text"] if self.spec.free_text else []), *([self.descriptions] if self.descriptions else [])]
        return sha256_of([dict(self.stage1), *asked, *further])

    def about(self, domain: str) -> PromptSet:
        """These prompts for one's own images: stage 1 begins by saying what they are, such as "parts on a conveyor"."""
        told = f"This image is one of a set: {domain.strip().rstrip('.')}. "
        return replace(self, stage1={name: told + words for name, words in self.stage1.items()})

    def stage1_messages(self, image: Image, prompt: str) -> tuple[Message, ...]:
        """Show the image and ask what it is, in the words of the named prompt, or of `default`."""
        text = self.stage1.get(prompt, self.stage1["default"])
        return (Message("user", (ImagePart(image), TextPart(text))),)

    def stage2_messages(self, task: ChoiceTask) -> tuple[Message, ...]:
        """Ask which class an answer meant. The class list stands first, where providers' prefix caches serve it."""
        words = self.spec.stage2 if task.candidates is None else self.spec.shortlist or self.spec.stage2
        return (Message("user", self._choice_parts(words, task)),)

    def relook_messages(self, image: Image, task: ChoiceTask) -> tuple[Message, ...]:
        """Show the image again and ask which of the candidates it is. Raises ConfigError for a set without."""
        if self.spec.relook is None:
            raise ConfigError(f"{self.source}: needs 'relook', the words that show the image again in stage 2")
        return (Message("user", (ImagePart(image), *self._choice_parts(self.spec.relook, task))),)

    def _choice_parts(self, words: Stage2Prompts, task: ChoiceTask) -> tuple[TextPart, TextPart]:
        answer = task.answer
        names = dict.fromkeys(task.classes[index] for index in task.indices)
        if task.by_index:
            listing = "\n".join(f"{index}: {task.classes[index]}" for index in task.indices)
            prefix, question = words.prefix_by_index, words.question_by_index
        else:
            listing = (", " if self.spec.free_text else "\n").join(names)
            prefix, question = words.prefix, words.question
        if meanings := [f"{name}: {self.descriptions[name]}" for name in names if name in self.descriptions]:
            listing += "\n\n" + "\n".join(["What is meant by them:", "", *meanings])
        if self.spec.free_text:
            answer = answer.replace("\n", "").replace(".", "")
        # replace, not str.format: answers and class names may hold braces; a list of its own is no shared prefix
        return (
            TextPart(prefix.replace("{classes}", listing), is_prefix=task.candidates is None),
            TextPart(question.replace("{answer}", answer)),
        )


def load_prompts(name: str) -> PromptSet:
    """A prompt set by name or by the path of its YAML file.

    Raises ConfigError where a placeholder or the default prompt is missing.
    """
    resource = find("prompts", name)
    spec = parse(PromptSetSpec, resource)
    stage1 = spec.stage1
    if isinstance(stage1, str):
        stage1 = parse(PromptSetSpec, find("prompts", stage1)).stage1
    if isinstance(stage1, str):
        raise ConfigError(f"{resource.source}: stage1 names {spec.stage1}, which has no words of its own")
    if "default" not in stage1:
        raise ConfigError(f"{resource.source}: stage1 needs a prompt named 'default'")
    for section in ("stage2", "shortlist", "relook"):
        words = getattr(spec, section)
        if words is not None:
            _check_places(resource.source, section, words, spec.free_text)
    return PromptSet(resource.name, resource.source, spec, stage1)


def _check_places(source: str, section: str, words: Stage2Prompts, is_free_text: bool) -> None:
    places = {"prefix": "{classes}", "question": "{answer}"}
    if not is_free_text:
        places |= {f"{key}_by_index": placeholder for key, placeholder in places.items()}
    for key, placeholder in places.items():
        if placeholder not in getattr(words, key):
            raise ConfigError(f"{source}: {section}.{key} must hold {placeholder}")
