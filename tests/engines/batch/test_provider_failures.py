"""Batches as they fail in the world: nothing paid twice, nothing lost, no state without an exit, no silence."""

from __future__ import annotations

import errno
import json
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engines.batch.test_manager import leave, tend
from tests.support.batched import Party, run_spec
from tests.support.emulator import BatchControls, Emulator, Fault
from tlac.cache.store import Store
from tlac.config.registry import open_batch_interface
from tlac.config.schemas import load_backend
from tlac.engines.batch.journal import Journal
from tlac.errors import StoreError
from tlac.types import Outcome


def run_of(party: Party, size: int = 3) -> Any:
    return party.batched(run_spec(party.backend, size, "slac"))


def reasons_of(run: Any) -> list[str]:
    return [prediction.reason for prediction in run.predictions if prediction.outcome is Outcome.FAILED]


@pytest.mark.parametrize("counts", [True, False])
def test_results_that_are_not_there_yet_are_waited_for(party: Party, counts: bool) -> None:
    party.emulator.batching = BatchControls(late=3, counts=counts)
    run = run_of(party)
    assert run.record.is_complete
    assert party.submitted == [3]
    assert any("0 of the 3 results that it counts are there; asking again" in line for line in party.said)


def test_a_result_that_is_promised_and_never_comes_is_not_asked_again_unless_the_batch_is_forgotten(
    emulator: Emulator, tmp_path: Path
) -> None:
    party = Party(emulator, "claude", tmp_path)
    emulator.batching = BatchControls(fate=lambda number, _: "missing" if number == 1 else "answered")
    run = run_of(party)
    assert not run.record.is_complete
    (reason,) = reasons_of(run)
    assert "2 of the 3 results that it counts are there" in reason
    (record,) = Journal(tmp_path / "store").open_records()
    assert f"`tlac batch forget {record.tag}` gives it up" in reason
    # an hour of asking, no more
    assert 3600 < party.clock.skipped_s < 7200
    assert party.submitted == [3]
    words = tend(party, lambda manager: manager.forget(record))
    assert "the provider may have billed its 3 requests" in words
    assert "2 have an answer in the store" in words
    emulator.batching = BatchControls()
    assert run_of(party).record.is_complete
    assert party.submitted == [3, 1]


def mangled(number: int, line: bytes) -> Any:
    def mangle(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        if len(lines) > number:
            lines[number] = line
        return b"".join(lines)

    return mangle


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("line", [b"<html>bad gateway</html>\n", b'{"custom_id": \n', b"[1]\n", b"\xff\xfe\n"])
def test_a_broken_line_fails_its_request_alone(emulator: Emulator, tmp_path: Path, number: int, line: bytes) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    emulator.batching = BatchControls(mangle=mangled(number, line))
    run = run_of(party)
    (reason,) = reasons_of(run)
    assert f"line {number + 1} of the results can't be read" in reason
    assert Journal(tmp_path / "store").open_records() == []
    emulator.batching = BatchControls()
    assert run_of(party).record.is_complete
    assert party.submitted == [3, 1]


def test_a_broken_line_of_every_provider_fails_its_request_alone(party: Party) -> None:
    def cut_in_the_middle(content: bytes) -> bytes:
        end = content.find(b"\n")
        return content[: end // 2] + content[end:] if content else content

    party.emulator.batching = BatchControls(mangle=cut_in_the_middle)
    assert len(reasons_of(run_of(party))) == 1
    party.emulator.batching = BatchControls()
    assert run_of(party).record.is_complete
    assert party.submitted == [3, 1]


def test_a_batch_without_a_single_answer_says_what_became_of_its_requests(party: Party) -> None:
    # OpenAI names no file of answers then, and one of errors alone
    party.emulator.batching = BatchControls(fate=lambda *_: "failed")
    assert [("server" in reason, "holds no result" in reason) for reason in reasons_of(run_of(party))] == [
        (True, False)
    ] * 3
    party.emulator.batching = BatchControls()
    assert run_of(party).record.is_complete
    assert party.submitted == [3, 3]


def test_results_of_requests_that_nobody_made_are_left_alone(party: Party) -> None:
    def with_strangers(content: bytes) -> bytes:
        ours = re.search(rb'"[0-9a-f]{8}-[0-9a-f]{40}"', content)
        return content + content.replace(ours[0], b'"request-of-somebody-else"') if ours else content

    party.emulator.batching = BatchControls(mangle=with_strangers)
    run = run_of(party)
    assert run.record.is_complete
    assert run.record.calls.stage1.asked == 3
    with Store(party.folder / "store") as store:
        assert len(list(store.entries())) == 3


def test_good_lines_are_stored_though_the_last_one_is_cut(party: Party) -> None:
    party.emulator.batching = BatchControls(mangle=lambda content: content[:-40])
    run = run_of(party)
    assert len(reasons_of(run)) == 1
    assert "cut short" in reasons_of(run)[0]
    with Store(party.folder / "store") as store:
        assert len(list(store.entries())) == 2
    # the file is whole at last: nothing is asked again
    party.emulator.shelves[party.provider].batches[0].controls.mangle = bytes
    assert run_of(party).record.is_complete
    assert party.submitted == [3]


def test_a_library_that_raises_anything_fails_one_result(emulator: Emulator, tmp_path: Path, monkeypatch: Any) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    from tlac.lmms.litellm_requests import WireFormat

    read = WireFormat.read

    def broken(self: WireFormat, content: bytes) -> Any:
        if b"ruddy" in content:
            raise KeyError("choices")
        return read(self, content)

    monkeypatch.setattr(WireFormat, "read", broken)
    run = run_of(party, 9)
    assert 0 < len(reasons_of(run)) < 9
    assert "the result can't be read" in reasons_of(run)[0]


@pytest.mark.parametrize("status", [403, 404])
def test_results_that_are_gone_are_named_and_the_batch_can_be_forgotten(party: Party, status: int) -> None:
    record = leave(party)
    fault = Fault(status=status, message="no longer there")
    party.emulator.batching = BatchControls(faults={"results": [fault] * 100})
    run = run_of(party)
    assert len(reasons_of(run)) == 3
    assert "has no results of batch" in reasons_of(run)[0]
    assert "no longer there" in reasons_of(run)[0]
    assert "key" not in reasons_of(run)[0].partition("`tlac")[0]
    assert party.submitted == [3]
    party.emulator.batching = BatchControls()
    tend(party, lambda manager: manager.forget(record))
    assert run_of(party).record.is_complete
    assert party.submitted == [3, 3]


def test_a_batch_that_the_provider_can_not_find_for_a_moment_is_asked_about_again(party: Party) -> None:
    party.emulator.batching = BatchControls(
        faults={"status": [Fault(status=404), None, Fault(status=404)], "results": [Fault(status=404)]}
    )
    run = run_of(party)
    assert run.record.is_complete, party.said
    assert party.submitted == [3]


@pytest.mark.parametrize("name", ["gpt-4o", "claude"])
def test_a_batch_stuck_in_its_end_past_its_expiry_is_not_waited_for(
    emulator: Emulator, tmp_path: Path, name: str
) -> None:
    party = Party(emulator, name, tmp_path)
    emulator.batching = BatchControls(polls=9, cancels_for_ever=True)
    record = leave(party)
    (batch,) = emulator.shelves[party.provider].batches
    batch.cancel()
    batch.created_at -= timedelta(hours=26)
    run = run_of(party)
    assert len(reasons_of(run)) == 3
    assert f"`tlac batch forget {record.tag}` gives it up" in reasons_of(run)[0]
    assert "though the provider was to be done by" in reasons_of(run)[0]
    assert party.submitted == [3]


def test_twelve_batches_and_one_lost_round_do_not_end_the_run(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlac.lmms.batch_openai.OpenAIBatches.max_requests", 1)
    party = Party(emulator, "gpt-4o", tmp_path)
    emulator.batching = BatchControls(polls=1, faults={"status": [Fault(status=500)] * 13})
    run = run_of(party, 13)
    assert run.record.is_complete, party.said[-3:]
    assert party.submitted == [1] * 13


def test_a_provider_that_does_not_answer_for_an_hour_ends_the_wait_and_says_so(party: Party) -> None:
    party.emulator.batching = BatchControls(faults={"status": [Fault(status=500)] * 1000})
    run = run_of(party)
    assert "the provider failed (HTTP 500" in reasons_of(run)[0]
    assert 3600 < party.clock.skipped_s < 7200
    assert Journal(party.folder / "store").open_records() != []


@pytest.mark.parametrize("ahead", [timedelta(minutes=-20), timedelta(days=-3), timedelta(days=3)])
def test_a_clock_that_is_wrong_submits_no_batch_twice(party: Party, ahead: timedelta) -> None:
    party.emulator.batching = BatchControls(clock_ahead=ahead, faults={"create": [Fault("dropped")]})
    assert run_of(party).record.is_complete
    assert party.submitted == [3]


def error_inside(content: bytes) -> bytes:
    lines = [json.loads(line) for line in content.splitlines()]
    for line in lines:
        error = {"code": 500, "message": "the tagger fell over"}
        if "custom_id" in line and line.get("response"):
            line["response"]["body"] = {"error": error}
        elif "result" in line:
            line["result"]["message"] = {"type": "error", "error": error}
        elif "key" in line:
            line["response"] = {"error": error}
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_an_error_in_an_answer_s_place_keeps_the_provider_s_words(party: Party) -> None:
    party.emulator.batching = BatchControls(mangle=error_inside)
    assert "the tagger fell over" in reasons_of(run_of(party))[0]


@pytest.mark.parametrize("status", [400, 403])
def test_a_billing_limit_is_told_in_the_provider_s_words(party: Party, status: int) -> None:
    fault = Fault(status=status, message="Billing hard limit has been reached")
    party.emulator.batching = BatchControls(faults={"create": [fault]})
    run = run_of(party)
    assert "Billing hard limit has been reached" in (run.record.stopped or "")
    assert "params" not in (run.record.stopped or "")


def test_a_refused_cancel_is_told_in_the_provider_s_words(party: Party) -> None:
    party.emulator.batching = BatchControls(polls=9)
    record = leave(party)
    fault = Fault(status=409, message="a batch that is finalizing can't be cancelled")
    party.emulator.batching = BatchControls(faults={"cancel": [fault]})
    with pytest.raises(Exception, match=r"the provider refused .*can't be cancelled") as told:
        tend(party, lambda manager: manager.cancel(record))
    assert "params" not in str(told.value)


def test_gemini_s_results_without_a_file_are_read(emulator: Emulator, tmp_path: Path) -> None:
    party = Party(emulator, "gemini", tmp_path)
    emulator.batching = BatchControls(is_inline=True)
    assert run_of(party).record.is_complete
    assert party.submitted == [3]


def test_a_disk_that_is_full_says_so_whatever_library_meets_it(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def retrieve(**_: object) -> None:
        raise full

    interface = open_batch_interface(load_backend("gpt-4o"))
    monkeypatch.setattr("litellm.retrieve_batch", retrieve)
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        interface.status("batch-1")
    assert party.submitted == []


def test_a_very_old_batch_that_brings_nothing_is_not_waited_for_at_all(emulator: Emulator, tmp_path: Path) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    record = leave(party)
    created_at = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=40)
    Journal(tmp_path / "store").write(msgspec.structs.replace(record, created_at=created_at))
    emulator.shelves["openai"].batches.clear()
    skipped_s = party.clock.skipped_s
    assert len(reasons_of(run_of(party))) == 3
    assert party.clock.skipped_s == skipped_s
