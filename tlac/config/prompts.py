"""Prompt sets: the words in which the two stages are asked.

Does not know datasets or backends: it turns a class list and an answer into messages.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tlac.config.files import find
from tlac.config.schemas import parse
from tlac.errors import ConfigError
from tlac.hashing import sha256_of
from tlac.types import ChoiceTask, Image, ImagePart, Message, TextPart


class Stage2Prompts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stage 2's words. Each `prefix` holds {classes}, each `question` {answer}."""

    prefix: str
    question: str
    prefix_by_index: str
    question_by_index: str


class PromptSetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt-set file: stage-1 prompts by name, one of them `default`, stage 2's, and those of a stage 2 that
    is shown the image again."""

    description: str
    stage1: dict[str, str]
    stage2: Stage2Prompts
    relook: Stage2Prompts | None = None


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A prompt set: its name, the file it came from and what that file says."""

    name: str
    source: str
    spec: PromptSetSpec

    @property
    def digest(self) -> str:
        """The sha256 (hex) of all prompts in the set; the description is no part of it."""
        asked = [self.spec.stage1, msgspec.to_builtins(self.spec.stage2)]
        return sha256_of([*asked, msgspec.to_builtins(self.spec.relook)] if self.spec.relook else asked)

    def stage1_messages(self, image: Image, prompt: str) -> tuple[Message, ...]:
        """Show the image and ask what it is, in the words of the named prompt, or of `default`."""
        text = self.spec.stage1.get(prompt, self.spec.stage1["default"])
        return (Message("user", (ImagePart(image), TextPart(text))),)

    def stage2_messages(self, task: ChoiceTask) -> tuple[Message, ...]:
        """Ask which class an answer meant. The class list stands first, where providers' prefix caches serve it."""
        return (Message("user", _choice_parts(self.spec.stage2, task)),)

    def relook_messages(self, image: Image, task: ChoiceTask) -> tuple[Message, ...]:
        """Show the image again and ask which of the offered classes it is. Raises ConfigError for a set without."""
        if self.spec.relook is None:
            raise ConfigError(f"{self.source}: needs 'relook', the words that show the image again in stage 2")
        return (Message("user", (ImagePart(image), *_choice_parts(self.spec.relook, task))),)


def _choice_parts(words: Stage2Prompts, task: ChoiceTask) -> tuple[TextPart, TextPart]:
    if task.by_index:
        listing = "\n".join(f"{index}: {task.classes[index]}" for index in task.indices)
        prefix, question = words.prefix_by_index, words.question_by_index
    else:
        listing = "\n".join(dict.fromkeys(task.classes[index] for index in task.indices))
        prefix, question = words.prefix, words.question
    # replace, not str.format: answers and class names may hold braces; a list of its own is no shared prefix
    return (
        TextPart(prefix.replace("{classes}", listing), is_prefix=task.candidates is None),
        TextPart(question.replace("{answer}", task.answer)),
    )


def load_prompts(name: str) -> PromptSet:
    """A prompt set by name or by the path of its YAML file.

    Raises ConfigError where a placeholder or the default prompt is missing.
    """
    resource = find("prompts", name)
    spec = parse(PromptSetSpec, resource)
    if "default" not in spec.stage1:
        raise ConfigError(f"{resource.source}: stage1 needs a prompt named 'default'")
    _check_places(resource.source, "stage2", spec.stage2)
    if spec.relook is not None:
        _check_places(resource.source, "relook", spec.relook)
    return PromptSet(resource.name, resource.source, spec)


def _check_places(source: str, section: str, words: Stage2Prompts) -> None:
    for key, placeholder in (
        ("prefix", "{classes}"),
        ("question", "{answer}"),
        ("prefix_by_index", "{classes}"),
        ("question_by_index", "{answer}"),
    ):
        if placeholder not in getattr(words, key):
            raise ConfigError(f"{source}: {section}.{key} must hold {placeholder}")
