"""What the tests of batches run against: an emulator of its own for each test, as its batches are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batch_scene import Scene
from tests.support.batch_states import ARROWS, START
from tests.support.batched import INTERFACES, Party, batching_emulator, use_letters
from tests.support.emulated import plant_keys
from tests.support.emulator import Emulator
from tlac.cache.store import Store
from tlac.engines.batch.journal import BatchRecord, Journal


@pytest.fixture(autouse=True)
def no_other_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this folder takes a batch from one state to another where docs/batch.md has no arrow."""
    arrows = {(start, end) for start, end, _ in ARROWS}
    write = Journal.write

    def checked(self: Journal, record: BatchRecord) -> None:
        before = {one.tag: one.status for one in self.records()}.get(record.tag)
        is_forged = before is None and record.status != "submitting"
        assert is_forged or (before or START, record.status) in arrows
        write(self, record)

    monkeypatch.setattr(Journal, "write", checked)


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


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    plant_keys(monkeypatch)
    with Store(tmp_path / "store") as store:
        scene = Scene(store)
        monkeypatch.setattr("tlac.engines.batch.manager.open_batch_interface", scene.open)
        yield scene
