"""A batch whose fate is not known: when it is looked for, what is said, and what may be done with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from filelock import FileLock

from tests.support.batch_scene import OVER, SINCE, WORKING, Scene
from tlac.config.schemas import load_backend
from tlac.engines.batch.journal import BatchRecord
from tlac.errors import PermanentError, StoreError
from tlac.interfaces import BatchStatus, UndecidedError, UnknownBatchError
from tlac.lmms.middleware.policy import Clock


@pytest.mark.parametrize(("age_s", "waits_s"), [(0, [60]), (20, [40]), (59.5, [0.5]), (60, []), (86_400, [])])
def test_a_batch_that_may_have_arrived_is_looked_for_a_minute_after_it_was_handed_in(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, age_s: float, waits_s: list[float]
) -> None:
    monkeypatch.setattr(BatchRecord, "age_s", property(lambda _: age_s))
    record = scene.write()
    found = scene.held(lambda: scene.manager.settle(record))
    assert scene.waits_s == waits_s
    assert ["looked for in a minute" in text for text in scene.said] == [True] * len(waits_s)
    assert (found.status, found.job) == ("submitted", "job-1")
    assert scene.journal.find("ours") == found


def test_a_batch_is_looked_for_by_what_tells_it_from_others(scene: Scene) -> None:
    scene.write("older", "submitted", "job-7")
    scene.write("closed", "collected", "job-8")
    record = scene.write()
    scene.held(lambda: scene.manager.settle(record))
    assert scene.provider.looked_for == [("ours", SINCE, {"ours-0", "ours-1"}, {"job-7", "job-8"})]


def test_a_batch_that_never_arrived_is_closed_and_its_requests_are_free(scene: Scene) -> None:
    record = scene.write()
    scene.provider.found = None
    found = scene.held(lambda: scene.manager.settle(record))
    assert (found.status, found.job, found.is_open) == ("dropped", None, False)
    assert found.closed_at is not None
    assert scene.journal.find("ours") == found
    assert scene.said[-1].startswith("gpt-4o: batch ours never reached the provider; its requests are asked anew")


def test_where_it_can_not_be_known_yet_the_batch_stays_open_and_says_why(scene: Scene) -> None:
    record = scene.write()
    scene.provider.found = UndecidedError("three batches look alike")
    assert scene.held(lambda: scene.manager.settle(record)) == record
    assert scene.journal.find("ours") == record
    assert scene.said[-1] == "three batches look alike"
    state = asyncio.run(scene.manager.ask(record))
    assert (state.state, state.is_over) == ("not found yet", False)


@pytest.mark.parametrize("status", ["submitted", "collected", "dropped"])
def test_a_batch_whose_fate_is_known_is_not_looked_for(scene: Scene, status: str) -> None:
    record = scene.write(status=status, job=None if status == "dropped" else "job-1")
    assert scene.held(lambda: scene.manager.settle(record)) == record
    assert (scene.provider.looked_for, scene.waits_s, scene.said, scene.opened) == ([], [], [], [])


def test_a_closed_batch_without_a_job_is_over_and_nobody_is_asked(scene: Scene) -> None:
    state = asyncio.run(scene.manager.ask(scene.write(status="dropped")))
    assert (state.state, state.is_over) == ("dropped", True)
    assert scene.opened == []


def test_a_batch_that_is_not_found_yet_can_not_be_cancelled_yet(scene: Scene) -> None:
    record = scene.write()
    scene.provider.found = UndecidedError("three batches look alike")
    with pytest.raises(UndecidedError, match="batch ours is not found at the provider yet: cancel it later"):
        scene.held(lambda: scene.manager.cancel(record))
    assert scene.journal.find("ours").is_open
    assert scene.provider.cancelled == []


def test_cancelling_a_batch_that_never_arrived_asks_the_provider_for_nothing_more(scene: Scene) -> None:
    record = scene.write()
    scene.provider.found, scene.provider.state = None, PermanentError("must not be asked")
    found, status = scene.held(lambda: scene.manager.cancel(record))
    assert (found.status, status) == ("dropped", None)
    assert scene.provider.cancelled == []


@pytest.mark.parametrize(("state", "cancelled"), [(WORKING, ["job-1"]), (OVER, [])])
def test_only_a_batch_at_work_is_cancelled_and_its_answers_are_still_awaited(
    scene: Scene, state: BatchStatus, cancelled: list[str]
) -> None:
    record = scene.write(status="submitted", job="job-1")
    scene.provider.state = state
    found, status = scene.held(lambda: scene.manager.cancel(record))
    assert (found.status, status) == ("submitted", state)
    assert scene.provider.cancelled == cancelled
    assert scene.journal.find("ours").is_open


@pytest.mark.parametrize("state", [WORKING, OVER])
def test_a_batch_that_ends_before_it_can_be_cancelled_is_over_and_no_other_refusal_is_passed_over(
    scene: Scene, state: BatchStatus
) -> None:
    record = scene.write(status="submitted", job="job-1")
    scene.provider.refusal = PermanentError("the provider refused: it is finalizing")
    states = iter([WORKING, state])
    scene.provider.status = lambda _job: next(states)  # type: ignore[method-assign]
    if state.is_over:
        found, status = scene.held(lambda: scene.manager.cancel(record))
        assert (found.status, status) == ("submitted", OVER)
    else:
        with pytest.raises(PermanentError, match="it is finalizing"):
            scene.held(lambda: scene.manager.cancel(record))
    assert scene.journal.find("ours").is_open


def test_a_batch_that_the_provider_does_not_know_is_given_up_and_says_so(scene: Scene) -> None:
    record = scene.write(status="submitted", job="job-1")
    scene.provider.state = UnknownBatchError("gpt-4o: has no batch job-1")
    found, _ = scene.held(lambda: scene.manager.cancel(record))
    assert (found.status, found.closed_at is None) == ("dropped", False)
    assert scene.journal.find("ours") == found
    assert scene.said == ["gpt-4o: batch ours is given up: gpt-4o: has no batch job-1"]


def test_each_backends_interface_is_opened_once(scene: Scene) -> None:
    records = [scene.write(tag, "submitted", f"job-{tag}") for tag in ("a", "b")]
    other = scene.write("c", "submitted", "job-c", "claude")
    for record in (*records, other, *records):
        asyncio.run(scene.manager.ask(record))
    assert scene.opened == ["gpt-4o", "claude"]
    backend = load_backend("gpt-4o")
    assert scene.manager.interface(backend) is scene.manager.interface(backend)


def test_while_another_process_holds_the_batches_it_is_said_once_and_tried_every_five_seconds(scene: Scene) -> None:
    scene.write()
    other = FileLock(scene.journal.folder / "lock")
    other.acquire()

    async def sleep(wait_s: float) -> None:
        scene.waits_s.append(wait_s)
        if len(scene.waits_s) == 3:
            other.release()

    scene.manager.clock = Clock(sleep=sleep)

    async def nothing() -> None:
        return None

    scene.held(nothing)
    assert scene.waits_s == [5, 5, 5]
    assert len(scene.said) == 1
    assert scene.said[0].startswith("another tlac")


@pytest.mark.parametrize(
    ("past_expiry", "is_overdue"),
    [
        (None, False),
        (timedelta(hours=-24), False),
        (timedelta(0), False),
        # providers close a batch some time after its expiry
        (timedelta(minutes=59), False),
        (timedelta(minutes=61), True),
        (timedelta(days=3), True),
    ],
)
def test_a_batch_is_overdue_an_hour_after_it_was_to_be_done(
    scene: Scene, past_expiry: timedelta | None, is_overdue: bool
) -> None:
    expires_at = None if past_expiry is None else datetime.now(timezone.utc) - past_expiry
    scene.provider.state = replace(WORKING, expires_at=expires_at)
    state = asyncio.run(scene.manager.ask(scene.write("ours", "submitted", "job-1")))
    until = f"{expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else ""
    said = f"the batch is in_progress, though the provider was to be done by {until}"
    assert state.reason == (said if is_overdue else "")


def test_of_a_batch_that_is_over_nothing_is_overdue(scene: Scene) -> None:
    scene.provider.state = replace(OVER, expires_at=SINCE)
    assert asyncio.run(scene.manager.ask(scene.write("ours", "submitted", "job-1"))).reason == ""


@pytest.mark.parametrize(("status", "said"), [("collected", "collected already"), ("dropped", "dropped already")])
def test_a_closed_batch_can_not_be_forgotten(scene: Scene, status: str, said: str) -> None:
    record = scene.write("ours", status)
    assert asyncio.run(scene.manager.forget(record)) == said
    assert scene.journal.find("ours") == record


def test_what_is_forgotten_says_what_it_may_have_cost_and_what_is_stored(scene: Scene) -> None:
    record = msgspec.structs.replace(scene.write("ours", "submitted", "job-1"), highest_cost_usd=1.25)
    scene.journal.write(record)
    said = scene.held(lambda: scene.manager.forget(record))
    assert said == (
        "forgotten; the provider may have billed its 2 requests, at most 1.2500 USD; 0 have an answer in the store, "
        "and the same tlac bench asks the others anew"
    )
    assert scene.journal.find("ours").status == "dropped"


def test_a_record_under_another_batchs_name_is_none_of_ours(scene: Scene) -> None:
    scene.write("ours")
    path = scene.journal.folder / "ours.json"
    path.rename(scene.journal.folder / "theirs.json")
    with pytest.raises(StoreError, match=r"theirs\.json: not a record of a batch: it is of the batch 'ours'; move it"):
        scene.journal.records()
