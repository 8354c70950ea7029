"""Batches looked after apart from a run: cancelled, collected, and read from files that anybody may have written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.batched import Party, run_spec
from tests.support.emulator import Asked, BatchControls, Emulator, Fault, Reply
from tlac.cache.store import Store
from tlac.engines.batch.journal import BatchRecord, Journal
from tlac.engines.batch.manager import BatchManager
from tlac.errors import ConfigError, PermanentError, StoreError


class LeftError(Exception):
    """The run ends while its batch is at work."""


def leave(party: Party, size: int = 3) -> BatchRecord:
    """A batch under way that nobody waits for."""
    sleep = party.clock.sleep

    async def left(_wait_s: float) -> None:
        raise LeftError

    party.clock.sleep = left  # type: ignore[method-assign]
    with pytest.raises(LeftError):
        party.batched(run_spec(party.backend, size, "slac"))
    party.clock.sleep = sleep  # type: ignore[method-assign]
    (record,) = Journal(party.folder / "store").open_records()
    return record


def tend(party: Party, work: Callable[[BatchManager], Any]) -> Any:
    """What a desk over the party's store does, under its lock."""

    async def held() -> Any:
        async with manager.hold():
            return await work(manager)

    with Store(party.folder / "store") as store:
        manager = BatchManager(store, party.clock.clock(), party.said.append)
        return asyncio.run(held())


def test_a_cancelled_batch_keeps_what_was_answered(party: Party) -> None:
    party.emulator.batching = BatchControls(polls=9, answered_early=2)
    record = leave(party)
    found, _ = tend(party, lambda manager: manager.cancel(record))
    assert found.is_open
    party.emulator.batching = BatchControls()
    run = party.batched(run_spec(party.backend, 3, "slac"))
    assert run.record.is_complete
    assert (party.submitted, party.most_often) == ([3, 1], 2)


def test_what_an_expired_batch_left_is_asked_anew(party: Party) -> None:
    party.emulator.batching = BatchControls(polls=9, answered_early=1)
    leave(party)
    party.emulator.shelves[party.provider].batches[0].state = "expired"
    party.emulator.batching = BatchControls()
    assert party.batched(run_spec(party.backend, 3, "slac")).record.is_complete
    # where an expired batch has a file of results, what it holds is not asked again
    assert party.submitted == [3, 3 if party.provider == "gemini" else 2]


def test_a_batch_that_is_over_can_not_be_cancelled_and_loses_nothing(party: Party) -> None:
    record = leave(party)
    found, status = tend(party, lambda manager: manager.cancel(record))
    assert (found.is_open, status.is_over) == (True, True)
    assert party.batched(run_spec(party.backend, 3, "slac")).record.is_complete
    assert party.submitted == [3]


@pytest.mark.parametrize("endpoint", ["status", "cancel"])
def test_a_refused_key_gives_no_batch_up(party: Party, endpoint: str) -> None:
    party.emulator.batching = BatchControls(polls=9)
    record = leave(party)
    party.emulator.batching = BatchControls(faults={endpoint: [Fault(status=401)]})  # type: ignore[dict-item]
    with pytest.raises(PermanentError, match="the key was refused"):
        tend(party, lambda manager: manager.cancel(record))
    assert Journal(party.folder / "store").find(record.tag).is_open


def test_a_batch_that_the_provider_does_not_know_is_given_up_on_demand(party: Party) -> None:
    record = leave(party)
    party.emulator.shelves[party.provider].batches.clear()
    with pytest.raises(PermanentError, match="has no batch"):
        tend(party, lambda manager: manager.ask(record))
    found, _ = tend(party, lambda manager: manager.cancel(record))
    assert found.status == "dropped"
    assert party.batched(run_spec(party.backend, 3, "slac")).record.is_complete


def test_what_another_process_collected_meanwhile_stays_collected(emulator: Emulator, tmp_path: Path) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    record = leave(party)
    party.batched(run_spec(party.backend, 3, "slac"))
    found, _ = tend(party, lambda manager: manager.cancel(record))
    assert (found.status, found.answered) == ("collected", 3)


# --- files that anybody may have written ---------------------------------------------------------------------


def forge(party: Party, **changes: Any) -> Path:
    """The record of a batch under way, changed."""
    leave(party)
    (path,) = (party.folder / "store" / "batches").glob("*.json")
    document = json.loads(path.read_bytes())
    document["spec"] |= changes.pop("spec", {})
    path.write_text(json.dumps(document | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": "yesterday"},
        {"created_at": "2026-01-01T00:00:00"},
        {"highest_cost_usd": -1000.0},
        {"status": "paid"},
        {"tag": "../../elsewhere"},
        {"further": 1},
    ],
)
def test_a_record_that_is_not_ours_is_named(emulator: Emulator, tmp_path: Path, changes: dict[str, Any]) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    path = forge(party, **changes)
    with pytest.raises(StoreError, match=f"{path.name}: not a record of a batch.*move it away"):
        party.batched()


@pytest.mark.parametrize("size_bytes", [0, 60, -1])
def test_requests_that_are_cut_short_lose_no_answer_in_silence(
    emulator: Emulator, tmp_path: Path, size_bytes: int
) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    record = leave(party)
    file = Journal(party.folder / "store").requests_file(record.tag)
    whole = file.read_bytes()
    file.write_bytes(whole[:size_bytes])
    with pytest.raises(StoreError, match=f"`tlac batch forget {record.tag}` gives the batch up"):
        party.batched(run_spec(party.backend, 3, "slac"))
    file.write_bytes(whole)
    assert party.batched(run_spec(party.backend, 3, "slac")).record.is_complete
    assert party.submitted == [3]


@pytest.mark.parametrize("status", ["submitting", "submitted"])
def test_a_batch_whose_requests_are_lost_is_given_up_on_demand(emulator: Emulator, tmp_path: Path, status: str) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    path = forge(party, status=status, job="openai-1" if status == "submitted" else None)
    journal = Journal(party.folder / "store")
    (record,) = journal.open_records()
    journal.requests_file(record.tag).write_bytes(b"")
    found, _ = tend(party, lambda manager: manager.cancel(record))
    assert (found.status, json.loads(path.read_bytes())["status"]) == ("dropped", "dropped")
    assert "is given up" in party.said[-1]


@pytest.mark.parametrize("is_shipped", [True, False])
def test_no_key_goes_to_an_address_that_only_a_record_names(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_shipped: bool
) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    address = "http://elsewhere.example/v1"
    beside = tmp_path / "mine.yaml"
    beside.write_text(f"adapter: litellm\nmodel: openai/x\napi_base: {address}\n", encoding="utf-8")
    forge(party, spec={"api_base": address}, backend="gpt-4o" if is_shipped else str(beside))
    opened: list[str] = []
    monkeypatch.setattr("tlac.engines.batch.manager.open_batch_interface", lambda backend: opened.append(backend.name))
    (record,) = Journal(party.folder / "store").open_records()
    with pytest.raises(ConfigError, match=f"said to be at {address}"):
        tend(party, lambda manager: manager.ask(record))
    assert opened == []


def test_a_strangers_tlac_yaml_makes_no_address_known(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    address = "http://elsewhere.example/v1"
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "tlac.yaml"
    project.write_text(f"backends:\n  theirs: {{adapter: litellm, model: openai/x, api_base: '{address}'}}\n")
    forge(party, spec={"api_base": address}, backend="theirs")
    opened: list[str] = []
    monkeypatch.setattr("tlac.engines.batch.manager.open_batch_interface", lambda backend: opened.append(backend.name))
    (record,) = Journal(party.folder / "store").open_records()
    with pytest.raises(ConfigError, match=f"said to be at {address}"):
        tend(party, lambda manager: manager.ask(record))
    assert opened == []


def test_a_full_disk_is_told_in_one_line_and_nothing_is_submitted(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    monkeypatch.setattr(Journal, "lines_file", lambda *_: Path("/dev/full"))
    with pytest.raises(StoreError, match="No space left on device; choose another --store"):
        party.batched()
    assert (party.submitted, Journal(tmp_path / "store").records()) == ([], [])


def test_the_emulator_thinks_of_answers_in_a_thread(emulator: Emulator, tmp_path: Path) -> None:
    def thoughtful(asked: Asked) -> Reply:
        asyncio.run(asyncio.sleep(0))
        return Reply("a red car")

    emulator.script = thoughtful
    party = Party(emulator, "gpt-4o", tmp_path)
    assert party.batched(run_spec(party.backend, 2, "slac")).record.is_complete
