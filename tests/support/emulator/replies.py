"""What the emulator is asked and what it does then, in no provider's form."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

FaultKind: TypeAlias = Literal["status", "slow", "hung", "dropped", "malformed", "error_inside"]
ReplyKind: TypeAlias = Literal["answer", "refusal", "blocked", "empty", "truncated", "thinking"]


@dataclass(frozen=True)
class Asked:
    """One request: who it was sent to, its text, its images, and the schema its answer must follow."""

    provider: str
    model: str
    text: str
    images: tuple[bytes, ...] = field(default=(), repr=False)
    schema: dict[str, Any] | None = None
    key: str = field(default="", repr=False)
    body: dict[str, Any] = field(default_factory=dict, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def class_indices(self) -> tuple[str, ...]:
        """The class indices that the schema allows; none where there is no schema."""
        if not self.schema:
            return ()
        return tuple(self.schema["properties"]["class_index"].get("enum", ()))


@dataclass(frozen=True)
class Reply:
    """An answer, or one of the ways in which a provider gives none. `headers` may tell rate limits.

    `finish` is the reason for its end in place of the provider's usual word; `reasoning_tokens` and `written_tokens`
    are counted as thoughts and as written to the provider's cache. `content` stands in the place of OpenAI's text.
    `tokens` are the answer's tokens with their log-probabilities, pieces of four letters without them.
    """

    text: str = ""
    kind: ReplyKind = "answer"
    headers: tuple[tuple[str, str], ...] = ()
    cached_tokens: int = 0
    finish: str | None = None
    reasoning_tokens: int = 0
    written_tokens: int = 0
    content: Any = None
    tokens: tuple[tuple[str, float], ...] = ()

    @property
    def logprobs(self) -> list[tuple[str, float]]:
        """The tokens of the answer and their log-probabilities, which depend on the text alone."""
        pieces = [self.text[start : start + 4] for start in range(0, len(self.text), 4)]
        return list(self.tokens) or [(piece, -len(piece.encode()) / 64) for piece in pieces]


@dataclass(frozen=True)
class Fault:
    """A failure: an HTTP status, a late answer, none at all, half an answer, not JSON, or an error under HTTP 200.

    `document` is the very body of an error, in place of one of the provider's shape around `message`.
    """

    kind: FaultKind = "status"
    status: int = 500
    message: str = "something went wrong"
    retry_after: str | None = None
    delay_s: float = 0.0
    document: Any = None
    headers: tuple[tuple[str, str], ...] = ()


Script: TypeAlias = Callable[[Asked], "Reply | Fault"]


def default_script(asked: Asked) -> Reply | Fault:
    """A dog for every image; for a list of classes the first one."""
    if asked.class_indices:
        return Reply(json.dumps({"class_index": asked.class_indices[0]}))
    return Reply("a dog")


def script_of(*steps: Reply | Fault) -> Script:
    """A script that takes the steps in turn, and repeats the last one for ever."""
    left = list(steps)

    def script(_asked: Asked) -> Reply | Fault:
        return left.pop(0) if len(left) > 1 else left[0]

    return script


def random_faults(script: Script, rate: float, faults: tuple[Fault, ...], seed: int = 0) -> Script:
    """A script that gives a random fault in place of `rate` of the answers."""
    chance = random.Random(seed)

    def faulty(asked: Asked) -> Reply | Fault:
        return chance.choice(faults) if chance.random() < rate else script(asked)

    return faulty


def count_tokens(asked: Asked, reply: Reply) -> tuple[int, int, int]:
    """Tokens as this emulator counts them: of the prompt's text, of its images, of the answer."""
    return len(asked.text) // 4 + 1, 258 * len(asked.images), max(1, len(reply.text) // 4)
