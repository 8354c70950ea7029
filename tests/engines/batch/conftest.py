"""What the tests of batches run against: an emulator of its own for each test, as its batches are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batched import INTERFACES, Party, batching_emulator, use_letters
from tests.support.emulated import plant_keys
from tests.support.emulator import Emulator


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    plant_keys(monkeypatch)
    use_letters(monkeypatch)
    with batching_emulator() as running:
        yield running


@pytest.fixture(params=INTERFACES)
def party(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> Party:
    """One for each provider that has a batch interface."""
    return Party(emulator, request.param, tmp_path)


@pytest.fixture
def openai_party(emulator: Emulator, tmp_path: Path) -> Party:
    """For what is the same for all providers."""
    return Party(emulator, "gpt-4o", tmp_path)
