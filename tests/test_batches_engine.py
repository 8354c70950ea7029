"""Runs through the three batch interfaces, against the emulator: the same predictions as live, each question once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from batched import INTERFACES, Party, batching_emulator, predictions, run_spec, use_letters
from emulated import plant_keys
from emulator import Emulator


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    plant_keys(monkeypatch)
    use_letters(monkeypatch)
    with batching_emulator() as running:
        yield running


@pytest.fixture(params=INTERFACES)
def party(request: pytest.FixtureRequest, emulator: Emulator, tmp_path: Path) -> Party:
    return Party(emulator, request.param, tmp_path)


def test_batches_give_the_predictions_of_live_calls_to_the_byte(party: Party) -> None:
    live, batched = party.live(), party.batched()
    assert party.emulator.refused == []
    assert predictions(batched) == predictions(live)
    assert batched.record.is_complete
    # stage 1 in one batch, the distinct questions of stage 2 in another
    assert party.submitted == [9, batched.record.calls.stage2.asked]
    assert batched.record.calls == live.record.calls
    assert batched.record.tokens == live.record.tokens
    assert batched.record.cost_usd == pytest.approx((live.record.cost_usd or 0) / 2)
