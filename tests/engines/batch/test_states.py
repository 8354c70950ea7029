"""The life of a batch as docs/batch.md draws it: every arrow is gone along, and the other tests go along no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from tests.support.batch_scene import OVER, WORKING, FakeInterface, Scene
from tests.support.batch_states import ARROWS, END, START
from tests.support.emulated import image_question
from tlac.config.schemas import load_backend
from tlac.engines.batch.journal import BatchRecord
from tlac.engines.batch.submit import BatchSubmitter, CostReservation
from tlac.errors import PermanentError, TransientError
from tlac.hashing import request_document, response_key
from tlac.interfaces import BatchResult, BatchStatus, UndecidedError, UnknownBatchError

STATES = set(get_args(get_type_hints(BatchRecord)["status"]))
TAG = "ours"


class Provider(FakeInterface):
    """A provider that takes batches and gives their results, as a test has it."""

    max_requests, max_bytes, discount = 10, 10_000, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.given: list[BatchResult] = []
        self.reply: str | Exception = "job-1"
        self.on_submit: Callable[[], None] = lambda: None

    async def form(self, _request: object) -> bytes:
        return b"{}"

    def line(self, _custom_id: str, body: bytes) -> bytes:
        return body + b"\n"

    def submit(self, _file: Path, _tag: str) -> str:
        self.on_submit()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    def results(self, _job: str) -> Iterator[BatchResult]:
        yield from self.given


def submitted(scene: Scene, provider: Provider) -> str:
    """What is known of a batch that was handed in now."""
    backend = load_backend("gpt-4o")
    request = image_question(backend)

    async def submit() -> None:
        submitter = BatchSubmitter(scene.manager, CostReservation(None), {}, None)
        await submitter.add(backend, response_key(request), request_document(request), request)
        await submitter.finish([backend])

    try:
        scene.held(submit)
    except PermanentError:
        assert isinstance(provider.reply, PermanentError)
    (record,) = scene.journal.records()
    return record.status


def handed_in(scene: Scene, provider: Provider) -> str:
    found: list[str] = []
    provider.on_submit = lambda: found.extend(record.status for record in scene.journal.records())
    submitted(scene, provider)
    return found[0]


def taken(scene: Scene, provider: Provider) -> str:
    return submitted(scene, provider)


def refused(scene: Scene, provider: Provider) -> str:
    provider.reply = PermanentError("no batches for you")
    return submitted(scene, provider)


def without_reply(scene: Scene, provider: Provider) -> str:
    provider.reply = TransientError("the connection broke off")
    return submitted(scene, provider)


def looked_for(found: str | Exception | None) -> Callable[[Scene, Provider], str]:
    def look(scene: Scene, provider: Provider) -> str:
        provider.found = found
        record = scene.write(TAG)
        try:
            asyncio.run(scene.manager.advance(record))
        except TransientError:
            assert isinstance(found, TransientError)
        return scene.journal.find(TAG).status

    return look


def asked(state: BatchStatus | Exception, *given: BatchResult) -> Callable[[Scene, Provider], str]:
    def ask(scene: Scene, provider: Provider) -> str:
        provider.state, provider.given = state, list(given)
        record = scene.write(TAG, "submitted", "job-1")
        try:
            asyncio.run(scene.manager.advance(record))
        except TransientError:
            assert isinstance(state, TransientError)
        return scene.journal.find(TAG).status

    return ask


def tended(
    status: str, work: Callable[[Scene, BatchRecord], Awaitable[Any]], state: BatchStatus | Exception = WORKING
) -> Callable[[Scene, Provider], str]:
    def tend(scene: Scene, provider: Provider) -> str:
        provider.state = state
        record = scene.write(TAG, status, "job-1" if status == "submitted" else None)
        scene.held(lambda: work(scene, record))
        return scene.journal.find(TAG).status

    return tend


def forget(scene: Scene, record: BatchRecord) -> Awaitable[Any]:
    return scene.manager.forget(record)


def cancel(scene: Scene, record: BatchRecord) -> Awaitable[Any]:
    return scene.manager.cancel(record)


def cancel_without_requests(scene: Scene, record: BatchRecord) -> Awaitable[Any]:
    scene.journal.requests_file(record.tag).unlink()
    return scene.manager.cancel(record)


def closed(status: str) -> Callable[[Scene, Provider], str]:
    """Whether the requests of a closed batch are free, and stay so."""

    def close(scene: Scene, provider: Provider) -> str:
        record = scene.write(TAG, status)
        assert not record.is_open
        assert not scene.journal.requests_file(TAG).exists()
        scene.held(lambda: scene.manager.settle(record))
        assert scene.journal.find(TAG) == record
        return submitted_keys_are_free(scene)

    return close


def submitted_keys_are_free(scene: Scene) -> str:
    assert BatchSubmitter(scene.manager, CostReservation(None), {}, None)._pending == {}
    return END


ALL = [BatchResult(f"{TAG}-{number}", None, "the server had an error") for number in range(2)]
# by the words beside an arrow: what goes along it
WAYS: dict[tuple[str, str, str], list[Callable[[Scene, Provider], str]]] = {
    (START, "submitting", "written down, before anything is sent"): [handed_in],
    ("submitting", "submitted", "the provider has taken it"): [taken],
    ("submitting", "submitted", "no reply, and it is found at the provider"): [looked_for("job-1")],
    ("submitting", "dropped", "refused, or the provider has none"): [refused, looked_for(None)],
    ("submitting", "submitting", "the provider can't be asked, or can't tell yet"): [
        without_reply,
        looked_for(TransientError("no connection")),
        looked_for(UndecidedError("three look alike")),
    ],
    ("submitted", "submitted", "at work, or ends (cancel)"): [asked(WORKING), tended("submitted", cancel)],
    ("submitted", "submitted", "over, and results that it counts are not there yet"): [
        asked(BatchStatus("completed", True, results=2), ALL[0]),
        asked(BatchStatus("completed", True, results=None)),
    ],
    ("submitted", "submitted", "the provider does not answer"): [asked(TransientError("no connection"))],
    ("submitted", "collected", "over, every request answered or told failed"): [
        asked(BatchStatus("completed", True, results=2), *ALL),
        asked(BatchStatus("expired", True, results=0)),
    ],
    ("submitted", "dropped", "forget"): [tended("submitted", forget)],
    ("submitted", "dropped", "cancel, and the provider has none, or the requests are lost here"): [
        tended("submitted", cancel, UnknownBatchError("no batch job-1")),
        tended("submitted", cancel_without_requests, OVER),
    ],
    ("submitting", "dropped", "forget"): [tended("submitting", forget)],
    ("submitting", "dropped", "cancel, and the requests are lost here"): [
        tended("submitting", cancel_without_requests)
    ],
    ("collected", END, "answers are stored, the failed requests are free"): [closed("collected")],
    ("dropped", END, "every request is free"): [closed("dropped")],
}


def test_the_picture_has_every_state_and_each_has_an_exit() -> None:
    assert {one for start, end, _ in ARROWS for one in (start, end)} - {START, END} == STATES
    for state in STATES:
        reached = {state}
        for _ in STATES:
            reached |= {end for start, end, _ in ARROWS if start in reached}
        assert END in reached


def test_each_arrow_of_the_picture_is_gone_along() -> None:
    assert set(WAYS) == set(ARROWS)


@pytest.mark.parametrize(
    ("end", "way"),
    [
        pytest.param(arrow[1], way, id=f"{' '.join(arrow)} {number}")
        for arrow, ways in WAYS.items()
        for number, way in enumerate(ways)
    ],
)
def test_an_arrow_leads_where_the_picture_says(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, end: str, way: Callable[[Scene, Provider], str]
) -> None:
    provider = Provider()
    monkeypatch.setattr("tlac.engines.batch.manager.open_batch_interface", lambda _: provider)
    assert way(scene, provider) == end
