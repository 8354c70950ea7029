"""The shipped backends with their addresses turned to the emulator, and questions to ask them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from tests.support.emulator import Emulator
from tests.support.fakes import make_png
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, load_backend
from tlac.images import identify
from tlac.types import ChoiceTask, LMMRequest, Sample

# backend -> the wire format that it speaks
PROVIDERS = {"gemini": "gemini", "gpt-4o": "openai", "claude": "anthropic", "ollama": "ollama"}
KEYS = {
    "GEMINI_API_KEY": "AIzaPlantedPlantedPlantedPlantedPlante",
    "OPENAI_API_KEY": "sk-planted-planted-planted-planted-01",
    "ANTHROPIC_API_KEY": "sk-ant-planted-planted-planted-planted",
}
"""Keys of no account; each has its provider's shape."""

CLASSES = ("red car", "old car", "red apple")


def plant_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set every provider's key, and no address by accident."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("GEMINI_API_BASE", "OPENAI_API_BASE", "ANTHROPIC_API_BASE", "OLLAMA_API_BASE"):
        monkeypatch.delenv(name, raising=False)


def backend_at(emulator: Emulator, name: str, timeout_s: float = 20.0, **changes: Any) -> Backend:
    """A shipped backend that asks the emulator. `changes` are keys of its file."""
    backend = load_backend(name)
    limits = msgspec.structs.replace(backend.spec.limits, timeout_s=timeout_s)
    settings = {"api_base": emulator.base(PROVIDERS[name]), "limits": limits} | changes
    return replace(backend, spec=msgspec.structs.replace(backend.spec, **settings))


def image_question(backend: Backend, content: bytes | None = None) -> LMMRequest:
    """Stage 1 about an image."""
    image = identify(content or make_png(1, 32), "image")
    messages = load_prompts("default").stage1_messages(image, "default")
    return LMMRequest("stage1", backend.spec.model, messages, backend.spec.params, preparation=backend.spec.image)


def choice_question(backend: Backend, classes: tuple[str, ...] = CLASSES) -> LMMRequest:
    """Stage 2 about an answer."""
    task = ChoiceTask("an ancient car", classes, backend.spec.choice_by_index)
    messages = load_prompts("default").stage2_messages(task)
    return LMMRequest("stage2", backend.spec.model, messages, backend.spec.params, choice=task)


@dataclass(frozen=True)
class Pictures:
    """A dataset of so many small images, each different."""

    size: int
    name: str = "pictures"
    split: str = "all"
    protocol: str = "ours"
    prompt: str = "default"
    classes: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self.size):
            yield Sample(f"{number}.png", make_png(number), number % len(self.classes))
