"""A run that ends at any step and is started again: the same predictions, and nothing submitted twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.support.batch_adapters import ADAPTERS
from tests.support.batched import Party, predictions
from tests.support.emulator import BatchControls, Emulator, Fault
from tlac.cache.store import Store
from tlac.engines.batch.engine import BatchEngine


class Killed(BaseException):
    """The process ends here."""


def breaking(work: Callable[..., object], after: int = 0, is_done_first: bool = False) -> Callable[..., object]:
    """The work, that ends the process when it is called again after so many times."""
    calls = 0

    def broken(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            if is_done_first:
                work(*arguments, **named)
            raise Killed
        return work(*arguments, **named)

    return broken


def before_submitting(party: Party, patch: pytest.MonkeyPatch) -> None:
    adapter = ADAPTERS[party.provider]
    patch.setattr(f"{adapter}.submit", breaking(lambda *_: None))


def before_the_id_is_written(party: Party, patch: pytest.MonkeyPatch) -> None:
    adapter = ADAPTERS[party.provider]
    module, _, name = adapter.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name).submit
    patch.setattr(f"{adapter}.submit", breaking(real, is_done_first=True))


def half_way_through_submitting(party: Party, patch: pytest.MonkeyPatch) -> None:
    """Between the upload of the file and the batch; Anthropic has all in one, so in the middle of that."""
    target = {
        "openai": "litellm.create_batch",
        "gemini": "google.genai.batches.Batches.create",
        "anthropic": "tlac.lmms.batch_anthropic._body",
    }[party.provider]
    patch.setattr(target, breaking(lambda *_, **__: None))


def while_waiting(party: Party, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(party.clock, "sleep", breaking(party.clock.sleep))


def while_downloading(party: Party, patch: pytest.MonkeyPatch) -> None:
    adapter = ADAPTERS[party.provider]
    module, _, name = adapter.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name).results

    def cut_off(interface: object, job: str) -> Iterator[object]:
        yield from islice(real(interface, job), 2)
        raise Killed

    patch.setattr("tlac.engines.batch.manager._AT_ONCE", 1)
    patch.setattr(f"{adapter}.results", cut_off)


def half_way_through_collecting(_party: Party, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tlac.engines.batch.manager._AT_ONCE", 2)
    patch.setattr(Store, "put_entries", breaking(Store.put_entries, after=2))


def between_the_stages(_party: Party, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchEngine, "_round", breaking(BatchEngine._round, after=1))


STEPS = (
    before_submitting,
    half_way_through_submitting,
    before_the_id_is_written,
    while_waiting,
    while_downloading,
    half_way_through_collecting,
    between_the_stages,
)


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_ended_there_goes_on_and_submits_nothing_twice(
    party: Party, step: Callable[[Party, pytest.MonkeyPatch], None]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        step(party, patch)
        with pytest.raises(Killed):
            party.batched()
    run = party.batched()
    assert run.record.is_complete
    assert predictions(run) == predictions(party.live())
    assert party.submitted == [9, 2]
    assert party.most_often == 1


def test_a_batch_is_found_among_others_on_a_later_page(party: Party) -> None:
    module = ADAPTERS[party.provider].rpartition(".")[0]
    shelf = party.emulator.shelves[party.provider]
    with pytest.MonkeyPatch.context() as patch:
        before_the_id_is_written(party, patch)
        with pytest.raises(Killed):
            party.batched()
    (ours,) = shelf.batches
    for number in range(3):
        mine = {f"{number}-{custom_id}": custom_id for custom_id in ours.asked}
        others = replace(
            ours,
            id=f"others-{number}",
            tag=f"others-{number}",
            asked={one: ours.asked[custom_id] for one, custom_id in mine.items()},
            replies={one: ours.replies[custom_id] for one, custom_id in mine.items()},
            fates={one: ours.fates[custom_id] for one, custom_id in mine.items()},
        )
        # the newest are listed first
        shelf.batches.append(others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{module}._PAGE", 1)
        run = party.batched()
    assert run.record.is_complete
    assert party.submitted == [9, 9, 9, 9, 2]


def process_of(party: Party) -> subprocess.Popen[bytes]:
    """The run in a process of its own."""
    arguments = f"{party.emulator.port}, {party.backend.name!r}, {str(party.folder)!r}"
    script = f"from tests.support import batched; batched.start({arguments})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", script], env=environment)


@pytest.mark.slow
def test_a_process_killed_while_the_provider_answers_finds_its_batch_again(party: Party) -> None:
    emulator = party.emulator
    # the batch is taken, and the answer that says so never comes
    emulator.batching = BatchControls(faults={"create": [Fault("hung")]})
    process = process_of(party)
    while not party.submitted and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert party.submitted == [9]
    run = party.batched()
    assert run.record.is_complete
    assert (party.submitted, party.most_often) == ([9, 2], 1)


@pytest.mark.slow
def test_what_one_process_submitted_another_waits_for_and_both_finish(emulator: Emulator, tmp_path: Path) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    skip = party.clock.sleep

    async def meanwhile(wait_s: float) -> None:
        # between two looks of the one, the other does all
        party.clock.sleep = skip  # type: ignore[method-assign]
        assert await asyncio.to_thread(process_of(party).wait) == 0
        await skip(wait_s)

    party.clock.sleep = meanwhile  # type: ignore[method-assign]
    run = party.batched()
    assert run.record.is_complete
    assert (party.submitted, party.most_often) == ([9, 2], 1)


def test_a_batch_that_may_have_arrived_is_not_submitted_again_before_that_is_known(
    emulator: Emulator, tmp_path: Path
) -> None:
    party = Party(emulator, "claude", tmp_path)
    emulator.batching = BatchControls(polls=6, faults={"create": [Fault("dropped")]})
    assert party.batched().record.is_complete
    assert party.submitted == [9, 2]
    assert any("nothing is submitted again before that" in line for line in party.said)
