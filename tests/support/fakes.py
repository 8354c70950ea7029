"""Fakes for LMM, encoder and image."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from tlac.types import Encoding, LMMRequest, LMMResponse, Outcome, Usage

SHARED = Path(__file__).parents[3] / "shared"


class FakeLMM:
    """Answers by a function of the request, and remembers what it was asked."""

    def __init__(self, answer: Callable[[LMMRequest], str | LMMResponse]) -> None:
        self._answer = answer
        self.asked: list[LMMRequest] = []

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.asked.append(request)
        answer = self._answer(request)
        if isinstance(answer, LMMResponse):
            return answer
        return LMMResponse(Outcome.ANSWERED, answer, usage=Usage(prompt=10, completion=2), cost_usd=0.001)


class LetterEncoder:
    """Counts letters: a text encoder whose similarities a person can work out. Window: 40 characters."""

    fingerprint = "letters"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Encoding:
        self.encoded += texts
        vectors = np.zeros((len(texts), 27), np.float32)
        for row, text in enumerate(texts):
            vectors[row, 26] = 1
            for letter in text.lower():
                if "a" <= letter <= "z":
                    vectors[row, ord(letter) - ord("a")] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoding(vectors, np.array([len(text) > 40 for text in texts], np.bool_))


def make_png(seed: int = 0, side: int = 8) -> bytes:
    """A small PNG whose content depends on `seed` alone."""
    pixels = hashlib.sha256(str(seed).encode()).digest() * (3 * side * side // 32 + 1)
    picture = io.BytesIO()
    PIL.Image.frombytes("RGB", (side, side), pixels[: 3 * side * side]).save(picture, "PNG")
    return picture.getvalue()


@dataclass(frozen=True)
class Shown:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def digest(text: str) -> str:
    """A sha256 in hex, where a test needs the key of an answer or the name of an image."""
    return hashlib.sha256(text.encode()).hexdigest()
