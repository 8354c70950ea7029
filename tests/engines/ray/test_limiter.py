"""One cap and one set of limits for many workers, in virtual time and without Ray; and logs that outlive a worker."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import pickle
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec import structs

from tests.support.scripted_lmm import ANSWER, question
from tests.support.virtual_time import now_s, run_virtual, virtual_clock
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.schemas import Backend, BackendSpec, Limits, Prices
from tlac.engines.ray.job import SerializedError, serialize_error
from tlac.engines.ray.limiter import Block, Limiter, Progress, Told, WorkerClient
from tlac.engines.ray.logs import (
    AnswerLog,
    FailureNote,
    KeySet,
    RunFolder,
    logs_in,
    merge_left_behind,
    merge_logs,
    new_run_folder,
    read_log,
)
from tlac.errors import InputError, PermanentError, RateLimitError, SampleError, StoreError, TlacError, TransientError
from tlac.lmms.middleware.budget import Budget, highest_cost_usd
from tlac.lmms.middleware.policy import CallPolicy
from tlac.types import LMMResponse, Message, Outcome, TextPart

PRICES = Prices(prompt=2.0, completion=8.0)
LIMITS = Limits(concurrency=4, requests_per_minute=600)


def backend_with(limits: Limits) -> Backend:
    spec = BackendSpec(adapter="any", model="any", limits=limits, prices=PRICES)
    return Backend("any", "any.yaml", spec)


def limiter_with(limits: Limits = LIMITS, policy: CallPolicy | None = None) -> Limiter:
    return Limiter({"any": backend_with(limits)}, replace(policy or CallPolicy(), clock=virtual_clock()))


class Near:
    """A limiter of this process, called as Ray calls an actor: at once, and waited for by whom it pleases."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self.trades = 0

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> asyncio.Future[Any]:
            self.trades += name == "trade"
            return asyncio.ensure_future(getattr(self._limiter, name)(*arguments))

        return SimpleNamespace(remote=remote)


async def client_of(limiter: Limiter | Near, worker: str) -> WorkerClient:
    reader = SimpleNamespace(find=SimpleNamespace(remote=None))
    client = WorkerClient(limiter if isinstance(limiter, Near) else Near(limiter), reader, worker)
    await client.register()
    return client


async def work(limiter: Limiter, worker: str, calls: int, cost_usd: float) -> list[float]:
    """The moments at which a worker's calls were let through, a few of which wait at a time."""
    client, seen = await client_of(limiter, worker), []

    async def ask(number: int) -> None:
        admitted = await client.admit("any", question(number))
        seen.append(now_s())
        await asyncio.sleep(random.Random(f"{worker}{number}").random())
        client.settle(admitted, structs.replace(ANSWER, cost_usd=cost_usd))

    await asyncio.gather(*(ask(number) for number in range(calls)))
    await client.drain()
    return seen


def test_workers_together_keep_to_calls_a_minute() -> None:
    async def scenario() -> list[float]:
        limiter = limiter_with(Limits(concurrency=100, requests_per_minute=600))
        found = await asyncio.gather(*(work(limiter, f"w{n}", 50, 0.0) for n in range(16)))
        return sorted(moment for moments in found for moment in moments)

    moments = run_virtual(scenario())
    assert len(moments) == 800
    assert all(later - earlier > 0.0999 for earlier, later in itertools.pairwise(moments))
    # and use them: nothing is left lying at a worker
    assert moments[-1] < 80.0


def test_workers_together_keep_to_calls_in_flight() -> None:
    limiter, most, in_flight = limiter_with(Limits(concurrency=7)), [0], [0]

    async def one(client: WorkerClient, number: int) -> None:
        admitted = await client.admit("any", question(number))
        in_flight[0] += 1
        most[0] = max(most[0], in_flight[0])
        await asyncio.sleep(random.Random(number).random())
        in_flight[0] -= 1
        client.settle(admitted, ANSWER)

    async def scenario() -> float:
        clients = [await client_of(limiter, f"w{number}") for number in range(4)]
        await asyncio.gather(*(one(client, number) for number in range(100) for client in clients))
        return now_s()

    # 400 calls of half a second on average through 7 places, and what a block costs
    assert run_virtual(scenario()) == pytest.approx(400 * 0.5 / 7, rel=0.1)
    assert most == [7]


@pytest.mark.parametrize("seed", range(10))
def test_a_cap_on_cost_holds_for_all_workers_and_is_used(seed: int) -> None:
    chance, billed = random.Random(seed), [0.0]
    most = highest_cost_usd(question(0), PRICES)
    budget = Budget(20 * most)
    budget.spent_usd = 5 * most

    async def one(client: WorkerClient) -> None:
        with suppress(PermanentError):
            while True:
                admitted = await client.admit("any", question(0))
                cost = chance.uniform(0, most)
                billed[0] += cost
                await asyncio.sleep(chance.random())
                client.settle(admitted, structs.replace(ANSWER, cost_usd=cost))

    async def scenario() -> Progress:
        limiter = limiter_with(Limits(concurrency=64), CallPolicy(budget))
        clients = [await client_of(limiter, f"w{number}") for number in range(4)]
        await asyncio.gather(*(one(client) for client in clients for _ in range(4)))
        for client in clients:
            await client.drain()
        return await limiter.progress()

    progress = run_virtual(scenario())
    assert 13 * most < billed[0] <= 15 * most
    assert progress.spent_usd == pytest.approx(5 * most + billed[0])
    assert progress.stopped is not None
    assert "the budget of" in progress.stopped.text


def test_a_worker_that_died_leaves_its_places_and_counts_as_dear_as_it_may_have_been() -> None:
    async def scenario() -> tuple[float, float]:
        limiter = limiter_with(Limits(concurrency=2), CallPolicy(Budget(1.0)))
        dead = await client_of(limiter, "dead")
        for _ in range(2):
            await dead.admit("any", question(0))
        await client_of(limiter, "dead")
        spent_usd = (await limiter.progress()).spent_usd
        await (await client_of(limiter, "alive")).admit("any", question(0))
        return now_s(), spent_usd

    waited_s, spent_usd = run_virtual(scenario())
    assert waited_s == 0
    assert spent_usd == pytest.approx(2 * highest_cost_usd(question(0), PRICES))


def test_the_lease_of_a_worker_that_is_heard_of_no_more_ends_after_a_minute_and_that_of_a_busy_one_does_not() -> None:
    async def look(limiter: Limiter) -> None:
        for _ in range(200):
            await asyncio.sleep(1)
            await limiter.progress()

    async def scenario() -> tuple[float, float, float]:
        limiter = limiter_with(Limits(concurrency=2), CallPolicy(Budget(1.0)))
        gone, busy, waits = [await client_of(limiter, name) for name in ("gone", "busy", "waits")]
        looking = asyncio.ensure_future(look(limiter))
        await gone.admit("any", question(0))
        for trade in gone._trades:
            trade.cancel()
        number = await busy.admit("any", question(0))
        await waits.admit("any", question(0))
        waited_s = now_s()
        await looking
        spent_usd = (await limiter.progress()).spent_usd
        busy.settle(number, structs.replace(ANSWER, cost_usd=0.0))
        await busy.drain()
        return waited_s, spent_usd, (await limiter.progress()).spent_usd

    waited_s, spent_usd, at_the_end_usd = run_virtual(scenario())
    one = highest_cost_usd(question(0), PRICES)
    assert 60 <= waited_s <= 62
    assert spent_usd == at_the_end_usd == pytest.approx(one)


def test_a_permit_that_nobody_waits_for_any_more_comes_back_and_one_whose_call_is_given_up_counts() -> None:
    async def scenario() -> list[float]:
        limiter = limiter_with(Limits(concurrency=1), CallPolicy(Budget(1.0)))
        client, spent = await client_of(limiter, "one"), []
        number = await client.admit("any", question(0))
        waiting = asyncio.ensure_future(client.admit("any", question(1)))
        await asyncio.sleep(0.1)
        waiting.cancel()
        client.settle(number, structs.replace(ANSWER, cost_usd=0.0))
        # its permit is on its way when it is given up
        late = asyncio.ensure_future(client.admit("any", question(2)))
        for _ in range(20):
            await asyncio.sleep(0)
            if (await limiter.progress()).calls == 2:
                break
        late.cancel()
        await client.drain()
        spent.append((await limiter.progress()).spent_usd)
        client.give_up(await client.admit("any", question(3)))
        await client.drain()
        spent.append((await limiter.progress()).spent_usd)
        return [*spent, (await limiter.progress()).calls, now_s()]

    most = highest_cost_usd(question(3), PRICES)
    assert run_virtual(scenario()) == [0.0, pytest.approx(most), 2, pytest.approx(0.1, abs=0.01)]


def test_a_stop_sends_those_away_who_wait_and_lets_calls_in_flight_come_to_their_end() -> None:
    async def scenario() -> list[object]:
        limiter = limiter_with(Limits(concurrency=1))
        one, other = await client_of(limiter, "one"), await client_of(limiter, "other")
        first = await one.admit("any", question(0))
        waiting = [asyncio.ensure_future(other.admit("any", question(n))) for n in (1, 2)]
        await asyncio.sleep(1)
        await limiter.stop(serialize_error(PermanentError("interrupted")))
        sent_away = await asyncio.gather(*waiting, other.admit("any", question(3)), return_exceptions=True)
        one.settle(first, ANSWER)
        await one.drain()
        return [now_s(), *map(repr, sent_away)]

    assert run_virtual(scenario()) == [1, *["PermanentError('interrupted')"] * 3]


def test_a_provider_s_wish_to_wait_holds_for_every_worker() -> None:
    async def scenario() -> float:
        limiter = limiter_with(Limits(concurrency=8))
        one, other = await client_of(limiter, "one"), await client_of(limiter, "other")
        decided = await one.fail(await one.admit("any", question(0)), RateLimitError("slow down", 30.0))
        assert isinstance(decided, RateLimitError)
        await other.admit("any", question(1))
        return now_s()

    assert run_virtual(scenario()) >= 30


def test_the_headers_that_leave_the_fewest_calls_are_heeded() -> None:
    async def scenario() -> float:
        limiter = limiter_with(Limits(concurrency=8))
        one, other = await client_of(limiter, "one"), await client_of(limiter, "other")
        for left in (5, 0, 3):
            head = {"x-ratelimit-remaining-requests": f"{left}", "x-ratelimit-reset-requests": "20s"}
            one.note_headers("any", head)
        one.settle(await one.admit("any", question(0)), ANSWER)
        await one.drain()
        await other.admit("any", question(1))
        return now_s()

    assert run_virtual(scenario()) == 20


def test_faults_that_workers_meet_apart_count_together() -> None:
    async def scenario() -> tuple[str, list[str]]:
        policy = CallPolicy(breaker_failures=3, breaker_pauses_s=(5.0,))
        limiter = limiter_with(Limits(concurrency=8), policy)
        for number in range(4):
            client = await client_of(limiter, f"w{number}")
            await client.fail(await client.admit("any", question(number)), TransientError("connection refused"))
        with pytest.raises(PermanentError, match="does not answer"):
            await (await client_of(limiter, "w9")).admit("any", question(9))
        progress = await limiter.progress()
        assert progress.stopped is not None
        return progress.stopped.text, progress.messages

    stopped, lines = run_virtual(scenario())
    assert "does not answer" in stopped
    assert "pausing 5 s" in lines[0]


def test_many_calls_share_a_message_and_none_waits_long_for_its_place() -> None:
    async def scenario() -> tuple[float, int]:
        near = Near(limiter_with(Limits(concurrency=100)))
        client = await client_of(near, "one")

        async def ask(number: int) -> None:
            admitted = await client.admit("any", question(number))
            await asyncio.sleep(random.Random(number).uniform(0.5, 1.5))
            client.settle(admitted, ANSWER)

        await asyncio.gather(*(ask(number) for number in range(4000)))
        return now_s(), near.trades

    took_s, trades = run_virtual(scenario())
    # 40 rounds of a second, and the last calls
    assert took_s < 1.04 * 40 + 1
    assert trades < 4000 / 2.4


def test_after_two_answers_in_one_moment_a_worker_still_listens() -> None:
    class Slow(Limiter):
        """Says nothing to the first two blocks until both are there, and lets all calls through at the third."""

        def __init__(self) -> None:
            super().__init__({}, CallPolicy(clock=virtual_clock()))
            self.blocks: list[Block] = []
            self.are_two = asyncio.Event()

        async def trade(self, _worker: str, block: bytes) -> list[Told]:
            self.blocks.append(msgspec.msgpack.decode(block, type=Block))
            if len(self.blocks) <= 2:
                self.are_two.set() if len(self.blocks) == 2 else None
                await self.are_two.wait()
                return []
            return [(number, None) for block in self.blocks for number, *_ in block.wanted]

    async def scenario() -> int:
        client = await client_of(Slow(), "one")
        first = asyncio.ensure_future(client.admit("any", question(0)))
        await asyncio.sleep(1)
        return len(await asyncio.gather(first, client.admit("any", question(1))))

    assert run_virtual(scenario()) == 2


def test_where_the_limiter_is_gone_nobody_waits_for_it() -> None:
    class Gone(Limiter):
        async def trade(self, *_: Any) -> list[Told]:
            raise ConnectionError("it died")

    async def scenario() -> None:
        client = await client_of(Gone({}, CallPolicy(clock=virtual_clock())), "one")
        for _ in range(2):
            with pytest.raises(ConnectionError, match="it died"):
                await client.admit("any", question(0))
        with pytest.raises(ConnectionError, match="it died"):
            await client.drain()

    run_virtual(scenario())


def test_a_fault_comes_out_as_the_error_that_went_in() -> None:
    error = SampleError("can't be read")
    error.__cause__ = InputError("can't be read")
    for before in (error, RateLimitError("slow down", 3.0), TransientError("sk-abcdefghijklmnopqrstuvwxyz")):
        after = serialize_error(before).to_error()
        assert type(after) is type(before)
        assert type(after.__cause__) is type(before.__cause__)
        assert "sk-" not in str(after)
    assert type(serialize_error(TlacError("any")).to_error()) is TlacError


def answer(number: int, text: str = "a dog", outcome: Outcome = Outcome.ANSWERED, at: str = "") -> StoredAnswer:
    long_list = TextPart("class name\n" * 500)
    request = replace(question(number), messages=(Message("user", (long_list, TextPart(f"number {number}"))),))
    return StoredAnswer.of(request, LMMResponse(outcome, text, created_at=at), "any")


def write_log(path: Path, *answers: StoredAnswer) -> None:
    async def write() -> None:
        log = AnswerLog(path)
        await asyncio.gather(*(log.keep(one) for one in answers))
        await log.keep_failure("f" * 64, serialize_error(SampleError("no such image")))
        await log.close()

    asyncio.run(write())


def are_keys(found: KeySet, *keys: str) -> bool:
    return len(found) == len(keys) and all(key in found for key in keys)


def test_many_keys_are_a_set_in_little_room() -> None:
    draw = random.Random(3)
    keys = [f"{draw.getrandbits(256):064x}" for _ in range(130_000)]
    first, second = KeySet(), KeySet()
    for key in keys[:120_000]:
        first.add(key)
    for key in keys[100_000:125_000]:
        second.add(key)
    second.update(first)
    assert (len(first), len(second)) == (120_000, 125_000)
    assert all(key in second for key in keys[:125_000])
    assert not any(key in second for key in keys[125_000:])
    assert "/no/digest.png" not in second
    assert len(pickle.dumps(second)) < 9 * 125_000
    second.clear()
    assert len(second) == 0
    assert keys[0] not in second


def test_a_log_gives_back_what_was_written_and_holds_a_long_text_once(tmp_path: Path) -> None:
    written = [answer(number) for number in range(20)]
    write_log(tmp_path / "a.jsonl", *written)
    *read, failure = read_log(tmp_path / "a.jsonl")
    assert [replace(one, response=structs.replace(one.response, from_store=False)) for one in read] == written
    assert failure == FailureNote("f" * 64, SerializedError("SampleError", "no such image"))
    assert (tmp_path / "a.jsonl").stat().st_size < 20_000


@pytest.mark.parametrize("lost_bytes", [1, 10, 200])
def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path: Path, lost_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    write_log(path, answer(1), answer(2))
    whole = list(read_log(path))
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    assert list(read_log(path)) == whole[:-1][: len(whole) - 1 if lost_bytes < 190 else 1]


def test_a_log_that_somebody_changed_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_log(path, answer(1))
    path.write_bytes(path.read_bytes().replace(b"number 1", b"number 2"))
    with pytest.raises(InputError, match=r"a\.jsonl: line 2: .*not the digest of its request"):
        list(read_log(path))


def test_logs_of_a_dead_driver_are_merged_and_those_of_a_live_one_are_left(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        with new_run_folder(store.path) as alive:
            write_log(alive.logs / "a.jsonl", answer(1))
            dead = RunFolder(store.path / "cluster" / "dead")
            dead.logs.mkdir(parents=True)
            (dead.path / "driver.lock").touch()
            write_log(dead.logs / "a.jsonl", answer(2), answer(3))
            assert merge_left_behind(store) == 2
            assert store.get_response(answer(1).key) is None
            assert store.get_response(answer(3).key).text == "a dog"
            assert not dead.path.exists()
            keys, failures = merge_logs(store, alive)
        assert are_keys(keys, answer(1).key)
        assert failures["f" * 64].text == "no such image"
        assert merge_left_behind(store) == 0
        assert not list((store.path / "cluster").iterdir())


def test_a_caller_that_is_cancelled_takes_no_line_from_the_others(tmp_path: Path) -> None:
    async def keep_two() -> None:
        log = AnswerLog(tmp_path / "a.jsonl")
        first, second = (asyncio.ensure_future(log.keep(answer(number))) for number in (1, 2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        await log.close()

    asyncio.run(keep_two())
    kept = [one for one in read_log(tmp_path / "a.jsonl") if isinstance(one, StoredAnswer)]
    assert answer(2).key in {one.key for one in kept}


def test_a_full_disk_is_told_to_each_who_waits_for_it_or_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tlac.engines.ray.logs.os", SimpleNamespace(fsync=fail))

    async def keep_all() -> list[BaseException | None]:
        log = AnswerLog(tmp_path / "a.jsonl")
        found = await asyncio.gather(*(log.keep(answer(number)) for number in range(3)), return_exceptions=True)
        await log.close()
        return [*found, *await asyncio.gather(log.keep(answer(4)), return_exceptions=True)]

    errors = asyncio.run(keep_all())
    assert [type(error) for error in errors] == [StoreError] * 4
    assert {"No space left on device" in str(error) for error in errors} == {True}


def test_a_log_that_is_still_written_to_is_read_and_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store, new_run_folder(store.path) as folder:
        log = AnswerLog(folder.logs / "a.jsonl")
        asyncio.run(log.keep(answer(1)))
        assert are_keys(merge_logs(store, folder)[0], answer(1).key)
        assert logs_in(folder.logs)
        asyncio.run(log.close())
        merge_logs(store, folder)
        assert not logs_in(folder.logs)


def test_merging_replaces_what_was_asked_again_and_nothing_else(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store, new_run_folder(store.path) as folder:
        store.put_entries([answer(1, "", Outcome.REFUSED), answer(2, "a cat")])
        write_log(folder.logs / "a.jsonl", answer(1, "a dog"), answer(2, "a dog"))
        merge_logs(store, folder, [Outcome.REFUSED])
        assert [store.get_response(answer(number).key).text for number in (1, 2)] == ["a dog", "a cat"]


def test_limits_of_a_model_inside_the_workers_count_for_each_of_them() -> None:
    from tlac.engines.ray.job import scale_limits

    inside = backend_with(Limits(concurrency=2))
    hosted = replace(inside, spec=msgspec.structs.replace(inside.spec, api_key_env="ANY_KEY"))
    assert scale_limits(inside, 4).spec.limits.concurrency == 8
    assert scale_limits(hosted, 4).spec.limits.concurrency == 2
