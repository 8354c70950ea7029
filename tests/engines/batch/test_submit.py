"""How full a batch is made, how often it is handed in, and what is set aside for it; each bound is a literal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scripted_lmm import question
from tlac.cache.store import Store
from tlac.config.schemas import Backend, BackendSpec, Prices
from tlac.engines.batch.journal import BatchRecord
from tlac.engines.batch.manager import BatchManager
from tlac.engines.batch.submit import BatchFile, BatchSubmitter, CostReservation
from tlac.errors import ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.hashing import request_document, response_key
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import Clock
from tlac.types import LMMRequest

# one USD a token: a question of 17 characters costs 6 and its answer at most 100, and a batch saves a quarter
MINE = Backend("mine", "mine.yaml", BackendSpec(adapter="litellm", model="m", prices=Prices(1e6, 1e6)))
EACH_USD = 0.75 * (len("what is shown? 0") // 3 + 1 + 100)


class Provider:
    """Takes batches, unless the next of `faults` is raised; each line has a hundred bytes."""

    max_requests, max_bytes, discount = 3, 1000, 0.25

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.taken: list[int] = []
        self.tries = 0

    async def form(self, request: LMMRequest) -> bytes:
        if request.repeat:
            raise SampleError("no such image")
        return b"x" * 99

    def line(self, custom_id: str, body: bytes) -> bytes:
        return body + b"\n"

    def submit(self, file: Path, tag: str) -> str:
        self.tries += 1
        if self.faults:
            raise self.faults.pop(0)
        self.taken.append(len(file.read_bytes().splitlines()))
        return f"job of {tag}"


class Round:
    """One round over a store."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.provider = Provider()
        self.waits_s: list[float] = []
        self.said: list[str] = []
        monkeypatch.setattr("tlac.engines.batch.manager.open_batch_interface", lambda _: self.provider)

        async def sleep(wait_s: float) -> None:
            self.waits_s.append(wait_s)

        self.manager = BatchManager(store, Clock(sleep=sleep), self.said.append)
        self.reservation = CostReservation(None)

    def submit(self, *requests: LMMRequest) -> BatchSubmitter:
        async def run() -> BatchSubmitter:
            async with self.manager.hold():
                submitter = BatchSubmitter(self.manager, self.reservation, {}, None)
                for request in requests:
                    await submitter.add(MINE, response_key(request), request_document(request), request)
                await submitter.finish([MINE])
                return submitter

        return asyncio.run(run())

    @property
    def records(self) -> list[BatchRecord]:
        return self.manager.journal.records()


@pytest.fixture
def round_(store: Store, monkeypatch: pytest.MonkeyPatch) -> Round:
    return Round(store, monkeypatch)


@pytest.mark.parametrize(
    ("max_requests", "max_bytes", "batches"),
    [
        (3, 1000, [3, 3, 1]),
        (7, 1000, [7]),
        (6, 1000, [6, 1]),
        (1, 1000, [1] * 7),
        # a line has a hundred bytes
        (9, 700, [7]),
        (9, 699, [6, 1]),
        (9, 100, [1] * 7),
    ],
)
def test_a_batch_is_as_full_as_its_limits_allow(
    round_: Round, max_requests: int, max_bytes: int, batches: list[int]
) -> None:
    round_.provider.max_requests, round_.provider.max_bytes = max_requests, max_bytes
    round_.submit(*map(question, range(7)))
    assert round_.provider.taken == batches
    assert sorted(record.requests for record in round_.records) == sorted(batches)
    assert {record.status for record in round_.records} == {"submitted"}
    assert {record.job for record in round_.records} == {f"job of {record.tag}" for record in round_.records}


def test_a_request_that_is_larger_than_any_batch_fails_alone_and_costs_nothing(round_: Round) -> None:
    round_.provider.max_bytes = 99
    round_.reservation = CostReservation(budget := Budget(1e9))
    submitter = round_.submit(question())
    (reason,) = submitter.failed.values()
    assert reason == "the request is larger than the 99 bytes of a batch"
    assert (round_.provider.tries, round_.records, budget.committed_usd) == (0, [], 0)


def test_a_request_that_can_not_be_formed_fails_alone_and_costs_nothing(round_: Round) -> None:
    round_.reservation = CostReservation(budget := Budget(1e9))
    with pytest.raises(SampleError):
        round_.submit(replace(question(), repeat=1))
    assert budget.committed_usd == 0


def test_a_request_is_known_to_the_provider_by_eight_and_forty_characters(round_: Round) -> None:
    round_.manager.journal.folder.mkdir()
    file = BatchFile(round_.manager.journal, MINE, round_.provider)
    custom_id, line = file.line("ab" * 32, b"body")
    file.discard()
    prefix, _, key = custom_id.partition("-")
    assert (len(prefix), key, line) == (8, "ab" * 20, b"body\n")
    assert file.tag.endswith(f"-{prefix}")


def test_a_question_that_is_asked_twice_or_is_under_way_is_submitted_once(round_: Round) -> None:
    round_.submit(question(0), question(0), question(1))
    submitter = round_.submit(question(1), question(2))
    assert round_.provider.taken == [2, 1]
    assert submitter.wanted == {response_key(question(1)), response_key(question(2))}


SLOW_DOWN = RateLimitError("slow down")


def test_a_batch_that_is_turned_away_is_handed_in_six_times_with_waits_that_double(round_: Round) -> None:
    round_.provider.faults = [SLOW_DOWN] * 5
    round_.submit(question())
    assert (round_.provider.tries, round_.waits_s, round_.provider.taken) == (6, [20, 40, 80, 160, 320], [1])
    (record,) = round_.records
    assert round_.said[0] == f"slow down; batch {record.tag} is submitted again in 20 s"
    assert round_.said[-1] == f"mine: batch {record.tag} is submitted, 1 requests"


def test_a_wait_of_days_is_told_and_not_waited_for(round_: Round) -> None:
    round_.provider.faults = [RateLimitError("slow down", 2_300_563_301.0)]
    with pytest.raises(PermanentError, match="slow down; it asks for a wait of 26,626 days 21 h: run the same command"):
        round_.submit(question())
    assert (round_.provider.tries, round_.waits_s) == (1, [])
    assert [record.status for record in round_.records] == ["dropped"]


def test_a_sixth_refusal_is_the_last_and_frees_the_requests(round_: Round) -> None:
    round_.provider.faults = [SLOW_DOWN] * 9
    round_.reservation = CostReservation(budget := Budget(1e9))
    with pytest.raises(PermanentError, match="slow down"):
        round_.submit(question())
    assert (round_.provider.tries, round_.waits_s) == (6, [20, 40, 80, 160, 320])
    assert [record.status for record in round_.records] == ["dropped"]
    assert budget.committed_usd == 0


def test_the_wait_that_a_provider_names_is_kept(round_: Round) -> None:
    round_.provider.faults = [RateLimitError("slow down", 7), RateLimitError("slow down", 3600)]
    round_.submit(question())
    assert round_.waits_s == [7, 3600]


def test_a_batch_that_may_have_arrived_stays_open_and_is_not_handed_in_again(round_: Round) -> None:
    round_.provider.faults = [TransientError("connection lost")]
    submitter = round_.submit(question())
    assert (round_.provider.tries, round_.waits_s, submitter.stopped) == (1, [], None)
    (record,) = round_.records
    assert (record.status, record.job) == ("submitting", None)
    assert round_.said == [f"mine: batch {record.tag} may or may not have arrived (connection lost)"]


def test_another_refusal_ends_it_at_once(round_: Round) -> None:
    round_.provider.faults = [PermanentError("no such model")]
    with pytest.raises(PermanentError, match="no such model"):
        round_.submit(question())
    assert (round_.provider.tries, [record.status for record in round_.records]) == (1, ["dropped"])


# --- money ---------------------------------------------------------------------------------------------------


def test_as_much_is_set_aside_as_a_request_can_cost_less_the_discount(round_: Round) -> None:
    round_.reservation = CostReservation(budget := Budget(2 * EACH_USD))
    submitter = round_.submit(*map(question, range(3)))
    # the cap holds two to the last cent
    assert round_.provider.taken == [2]
    assert budget.committed_usd == pytest.approx(2 * EACH_USD)
    assert (submitter.has_turned_away, submitter.failed) == (True, {})
    assert submitter.stopped == (
        f"the budget of {2 * EACH_USD:g} USD is used up (0.0000 spent, {2 * EACH_USD:.4f} set aside for batches under "
        f"way, the next request may cost {EACH_USD:.4f}); a higher --max-cost continues the run"
    )
    (record,) = round_.records
    assert record.highest_cost_usd == pytest.approx(2 * EACH_USD)


def test_once_it_is_closed_a_batch_counts_what_it_cost(round_: Round) -> None:
    round_.reservation = CostReservation(budget := Budget(1e9))
    round_.submit(question())
    (record,) = round_.records
    round_.reservation.settle(record.tag, 1.5)
    assert (budget.spent_usd, budget.committed_usd) == (1.5, 1.5)
    # a second word about the same batch gives nothing back twice
    round_.reservation.settle(record.tag, 0.5)
    assert budget.committed_usd == 2.0


def test_a_batch_of_an_earlier_command_takes_its_share_of_the_budget_until_it_is_closed(round_: Round) -> None:
    round_.submit(question(0))
    (record,) = round_.records
    round_.reservation = CostReservation(budget := Budget(2 * EACH_USD - 1))
    # the same question is waited for, and the second does not fit beside it
    assert round_.submit(question(0), question(1)).stopped is not None
    assert (round_.provider.taken, budget.committed_usd) == ([1], 0)
    round_.reservation.settle(record.tag, 0.0)
    assert round_.submit(question(1)).stopped is None
    assert round_.provider.taken == [1, 1]


def test_a_price_is_needed_for_a_budget_and_for_nothing_else(round_: Round) -> None:
    unpriced = replace(MINE, spec=BackendSpec(adapter="other", model="m"))
    CostReservation(None).check(unpriced)
    CostReservation(Budget(1)).check(MINE)
    with pytest.raises(ConfigError, match=r"mine\.yaml: no price is known for m, so a cost cap can't be kept"):
        CostReservation(Budget(1)).check(unpriced)
    assert asyncio.run(CostReservation(None).reserve(question(), unpriced, round_.provider)) is None
    assert asyncio.run(CostReservation(None).reserve(question(), MINE, round_.provider)) == pytest.approx(EACH_USD)
