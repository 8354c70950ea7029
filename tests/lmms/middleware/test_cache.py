from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.fakes import FakeLMM
from tlac.cache.store import Store
from tlac.errors import MissingAnswersError, StoreError, TlacError, TransientError
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
