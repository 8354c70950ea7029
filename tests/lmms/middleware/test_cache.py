from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.fakes import FakeLMM
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.errors import MissingAnswersError, SampleError, StoreError, TlacError, TransientError
from tlac.hashing import response_key
from tlac.lmms.middleware.cache import OfflineLMM, StoredLMM
from tlac.types import LMMRequest, LMMResponse, Message, Outcome, TextPart


def request(text: str = "what?") -> LMMRequest:
    return LMMRequest("stage1", "m", (Message("user", (TextPart(text),)),))


def test_a_question_is_asked_once_and_then_answered_from_the_store(store: Store) -> None:
    fake = FakeLMM(lambda _: "a cat")
    first = asyncio.run(StoredLMM(fake, store, "fake").ask(request()))
    again = asyncio.run(StoredLMM(fake, store, "fake").ask(request()))
    assert (first.text, first.from_store, again.text, again.from_store) == ("a cat", False, "a cat", True)
    assert len(fake.asked) == 1


def test_concurrent_duplicates_wait_for_the_first(store: Store) -> None:
    fake = FakeLMM(lambda _: "a cat")
    lmm = StoredLMM(fake, store, "fake")

    async def ask_ten_times() -> list[LMMResponse]:
        return await asyncio.gather(*(lmm.ask(request()) for _ in range(10)))

    assert {response.text for response in asyncio.run(ask_ten_times())} == {"a cat"}
    assert len(fake.asked) == 1


def test_a_waiter_that_is_cancelled_costs_the_others_nothing(store: Store) -> None:
    class Slow(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            started.set()
            await release.wait()
            return await super().ask(request)

    fake = Slow(lambda _: "a cat")
    lmm = StoredLMM(fake, store, "fake")

    async def cancel_the_first() -> LMMResponse:
        global started, release
        started, release = asyncio.Event(), asyncio.Event()
        first = asyncio.ensure_future(lmm.ask(request()))
        await started.wait()
        second = asyncio.ensure_future(lmm.ask(request()))
        await asyncio.sleep(0)
        first.cancel()
        release.set()
        return await second

    assert asyncio.run(cancel_the_first()).text == "a cat"
    assert len(fake.asked) == 1


def test_what_a_cancelled_run_left_in_flight_is_kept(store: Store) -> None:
    class Slow(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            await asyncio.sleep(0.01)
            return await super().ask(request)

    lmm = StoredLMM(Slow(lambda _: "a cat"), store, "fake")

    async def cancel_and_finish() -> None:
        waiter = asyncio.ensure_future(lmm.ask(request()))
        await asyncio.sleep(0)
        waiter.cancel()
        await lmm.finish()

    asyncio.run(cancel_and_finish())
    assert store.get_response(response_key(request())) is not None


def test_a_failed_call_is_not_stored_and_is_asked_again(store: Store) -> None:
    def fail(_: LMMRequest) -> str:
        raise TransientError("the server is down")

    with pytest.raises(TransientError):
        asyncio.run(StoredLMM(FakeLMM(fail), store, "fake").ask(request()))
    assert store.get_response(response_key(request())) is None
    assert asyncio.run(StoredLMM(FakeLMM(lambda _: "a cat"), store, "fake").ask(request())).text == "a cat"


def test_a_refusal_is_stored_and_asked_again_only_when_told_to(store: Store) -> None:
    refusing = FakeLMM(lambda _: LMMResponse(Outcome.REFUSED, "", reason="safety"))
    asyncio.run(StoredLMM(refusing, store, "fake").ask(request()))
    willing = FakeLMM(lambda _: "a cat")
    kept = asyncio.run(StoredLMM(willing, store, "fake").ask(request()))
    assert (kept.outcome, kept.reason, len(willing.asked)) == (Outcome.REFUSED, "safety", 0)
    lmm = StoredLMM(willing, store, "fake", retry=[Outcome.REFUSED])
    assert asyncio.run(lmm.ask(request())).text == "a cat"
    assert asyncio.run(StoredLMM(willing, store, "fake").ask(request())).from_store


def test_a_refusal_that_stays_one_is_asked_again_once_a_run(store: Store) -> None:
    refusing = FakeLMM(lambda _: LMMResponse(Outcome.REFUSED, ""))
    lmm = StoredLMM(refusing, store, "fake", retry=[Outcome.REFUSED])
    for _ in range(3):
        asyncio.run(lmm.ask(request()))
    assert len(refusing.asked) == 1


def test_an_answer_that_comes_from_a_pack_is_not_imported(store: Store) -> None:
    replay = FakeLMM(lambda _: LMMResponse(Outcome.ANSWERED, "a cat", from_store=True))
    assert asyncio.run(StoredLMM(replay, store, "pack").ask(request())).text == "a cat"
    assert store.get_response(response_key(request())) is None


def test_nothing_is_asked_when_the_answer_could_not_be_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only() -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "require_writable", read_only)
    fake = FakeLMM(lambda _: "a cat")
    with pytest.raises(StoreError, match="full"):
        asyncio.run(StoredLMM(fake, store, "fake").ask(request()))
    assert fake.asked == []


def test_offline_nobody_is_asked(tmp_path: Path, store: Store) -> None:
    with pytest.raises(MissingAnswersError, match="stage1 answer from m"):
        asyncio.run(StoredLMM(OfflineLMM(), store, "fake").ask(request()))


def test_an_answer_that_cannot_be_kept_costs_the_others_nothing(store: Store) -> None:
    failed = LMMResponse(Outcome.FAILED, "")
    fake = FakeLMM(lambda asked: failed if asked.messages[0].parts[0].text == "2" else "a cat")
    lmm = StoredLMM(fake, store, "fake")

    async def ask_all() -> list[LMMResponse | BaseException]:
        return await asyncio.gather(*(lmm.ask(request(str(n))) for n in range(5)), return_exceptions=True)

    found = asyncio.run(ask_all())
    assert [isinstance(one, TlacError) for one in found] == [False, False, True, False, False]
    assert [store.get_response(response_key(request(str(n)))) is None for n in range(5)] == [
        False,
        False,
        True,
        False,
        False,
    ]


class UnwritableStore:
    """A store that can be read, and whose disk is full where `is_full`: `looked_at` counts the looks at the disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_full = True
        self.looked_at = 0
        self.claimed: set[str] = set()

    def get_response(self, key: str) -> LMMResponse | None:
        return self._store.get_response(key)

    def claim(self, key: str) -> bool:
        self.claimed.add(key)
        return self._store.claim(key)

    def release(self, key: str) -> None:
        self.claimed.remove(key)
        self._store.release(key)

    def require_writable(self) -> None:
        self.looked_at += 1

    def put_entries(self, answers: list[StoredAnswer]) -> None:
        if self.is_full:
            raise StoreError("the disk is full")
        self._store.put_entries(answers)


class SlowLMM(FakeLMM):
    """Answers after a while, but for what fails."""

    async def ask(self, request: LMMRequest) -> LMMResponse:
        await asyncio.sleep(0.01)
        if "fails" in str(request.messages):
            raise TransientError("the server is down")
        return await super().ask(request)


async def leave_in_flight(lmm: StoredLMM, *questions: str) -> None:
    """Ask, and be cancelled before an answer comes, as by Ctrl-C."""
    waiters = [asyncio.ensure_future(lmm.ask(request(words))) for words in questions]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()


def test_an_answer_that_could_not_be_kept_is_an_error_and_never_handed_out(store: Store) -> None:
    lmm = StoredLMM(FakeLMM(lambda _: "a cat"), UnwritableStore(store), "fake")

    async def ask_several() -> list[LMMResponse | BaseException]:
        asked = [lmm.ask(request(words)) for words in ("a", "a", "b", "c")]
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [str(error) for error in asyncio.run(ask_several())] == ["the disk is full"] * 4
    assert list(store.entries()) == []


def test_after_a_full_disk_the_disk_is_looked_at_before_the_next_call_is_paid_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = UnwritableStore(store)
    fake = FakeLMM(lambda _: "a cat")
    lmm = StoredLMM(fake, full, "fake")
    with pytest.raises(StoreError):
        asyncio.run(lmm.ask(request("a")))
    assert (full.looked_at, len(fake.asked)) == (1, 1)

    def still_full() -> None:
        raise StoreError("still full")

    with monkeypatch.context() as patched:
        patched.setattr(full, "require_writable", still_full)
        with pytest.raises(StoreError, match="still full"):
            asyncio.run(lmm.ask(request("b")))
    assert len(fake.asked) == 1
    full.is_full = False
    for words in ("a", "b", "c"):
        assert asyncio.run(lmm.ask(request(words))).text == "a cat"
    # once it can be written, one look is enough
    assert (full.looked_at, len(fake.asked)) == (2, 4)
    assert len(list(store.entries())) == 3


def test_a_question_that_failed_can_be_asked_again_of_the_same_wrapper(store: Store) -> None:
    failures = [TransientError("the server is down"), SampleError("no such image")]

    def fail_twice(_: LMMRequest) -> str:
        if failures:
            raise failures.pop(0)
        return "a cat"

    watched = UnwritableStore(store)
    watched.is_full = False
    lmm = StoredLMM(FakeLMM(fail_twice), watched, "fake")

    async def ask_three_times() -> list[str]:
        found = []
        for _ in range(3):
            try:
                found.append((await lmm.ask(request())).text)
            except TlacError as error:
                found.append(str(error))
        return found

    assert asyncio.run(ask_three_times()) == ["the server is down", "no such image", "a cat"]
    assert watched.claimed == set()


def test_finishing_waits_for_all_and_a_failing_call_among_them_loses_nothing(store: Store) -> None:
    lmm = StoredLMM(SlowLMM(lambda _: "a cat"), store, "fake")

    async def cancel_and_finish() -> None:
        await leave_in_flight(lmm, "fails", "a", "b")
        await lmm.finish()
        await lmm.finish()

    asyncio.run(cancel_and_finish())
    assert {answer.key for answer in store.entries()} == {response_key(request("a")), response_key(request("b"))}


def test_finishing_says_that_an_answer_could_not_be_kept(store: Store) -> None:
    lmm = StoredLMM(SlowLMM(lambda _: "a cat"), UnwritableStore(store), "fake")

    async def cancel_and_finish() -> None:
        await leave_in_flight(lmm, "fails", "a")
        await lmm.finish()

    with pytest.raises(StoreError, match="the disk is full"):
        asyncio.run(cancel_and_finish())


def test_what_is_in_flight_is_given_up_when_finishing_is_cancelled(store: Store) -> None:
    ended: list[LMMRequest] = []

    class Hanging(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(request)
            raise AssertionError("waited for ever, and no longer")

    lmm = StoredLMM(Hanging(lambda _: ""), store, "fake")

    async def give_up() -> None:
        await leave_in_flight(lmm, "a")
        finishing = asyncio.ensure_future(lmm.finish())
        while not lmm._is_writable:
            await asyncio.sleep(0)
        finishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await finishing

    asyncio.run(give_up())
    assert ended == [request("a")]


def test_an_answer_paid_for_elsewhere_counts_as_fresh(store: Store) -> None:
    store.put_entries([StoredAnswer.of(request(), LMMResponse(Outcome.REFUSED, ""), "fake")])
    lmm = StoredLMM(OfflineLMM(), store, "fake", retry=[Outcome.REFUSED], paid={response_key(request())})
    for _ in range(2):
        told = asyncio.run(lmm.ask(request()))
        assert (told.outcome, told.from_store) == (Outcome.REFUSED, False)


ASK_THE_SAME = """
import asyncio, sys
from pathlib import Path
from tests.support.fake_answers import image_request
from tests.support.fakes import FakeLMM
from tlac.cache.store import Store
from tlac.lmms.middleware.cache import StoredLMM

class Counted(FakeLMM):
    async def ask(self, request):
        with open("calls", "a") as calls:
            calls.write("call\\n")
        await asyncio.sleep(0.05)
        return await super().ask(request)

async def ask_all(lmm):
    answers = await asyncio.gather(*(lmm.ask(image_request(number)) for number in range(120)))
    assert {answer.text for answer in answers} == {"a cat"}

with Store(Path("store")) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(ask_all(StoredLMM(Counted(lambda _: "a cat"), store, "fake")))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks of this kind")
def test_four_processes_that_ask_the_same_at_once_pay_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", ASK_THE_SAME]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        askers = [
            stack.enter_context(subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)) for _ in range(4)
        ]
        assert [asker.stdout.readline() for asker in askers] == ["ready\n"] * 4
        for asker in askers:
            asker.stdin.write("go\n")
            asker.stdin.flush()
    assert [asker.returncode for asker in askers] == [0] * 4
    assert len((tmp_path / "calls").read_text().splitlines()) == 120


def test_a_question_that_another_process_asks_is_asked_here_once_that_one_fails(store: Store) -> None:
    class Elsewhere(UnwritableStore):
        def claim(self, key: str) -> bool:
            self.claimed.add(key)
            tried.append(key)
            return len(tried) > 3

    tried: list[str] = []
    elsewhere = Elsewhere(store)
    elsewhere.is_full = False
    told = asyncio.run(StoredLMM(FakeLMM(lambda _: "a cat"), elsewhere, "fake").ask(request()))
    assert (told.text, told.from_store, len(tried)) == ("a cat", False, 4)


def test_an_answer_that_another_process_brings_while_we_wait_is_taken_and_not_paid_for(store: Store) -> None:
    class Elsewhere(UnwritableStore):
        def claim(self, key: str) -> bool:
            self.claimed.add(key)
            store.put_entries([StoredAnswer.of(request(), LMMResponse(Outcome.ANSWERED, "theirs"), "fake")])
            return True

    fake = FakeLMM(lambda _: "ours")
    for retry in ([], [Outcome.REFUSED]):
        store.put_entries([StoredAnswer.of(request(), LMMResponse(Outcome.REFUSED, ""), "fake")] if retry else [])
        told = asyncio.run(StoredLMM(fake, Elsewhere(store), "fake", retry).ask(request()))
        assert (told.text, told.from_store, fake.asked) == ("theirs", True, [])
        store.delete_entries([response_key(request())])


def test_a_process_that_is_halted_is_not_waited_for_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.lmms.middleware.cache._GIVE_UP_S", 0.05)

    class Halted(UnwritableStore):
        def claim(self, key: str) -> bool:
            self.claimed.add(key)
            return False

    halted = Halted(store)
    halted.is_full = False
    assert asyncio.run(StoredLMM(FakeLMM(lambda _: "a cat"), halted, "fake").ask(request())).text == "a cat"
