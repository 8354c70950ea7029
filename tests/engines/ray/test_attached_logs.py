"""The logs of a large run become an attached pack: with the same answers as those of a small one, whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.support.fake_answers import attach, choice_request, entry_for, image_request, write_lines
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.engines.ray import logs
from tlac.engines.ray.job import SerializedError
from tlac.engines.ray.logs import AnswerLog, RunFolder, logs_in, merge_left_behind, merge_logs, new_run_folder
from tlac.types import Outcome

FAULT = SerializedError("SampleError", "no such image")
CLASSES = tuple(f"class number {number}" for number in range(200))
# few keys, so that they meet; the last two share a long text
REQUESTS = [*map(image_request, range(4)), choice_request("a cat", CLASSES), choice_request("a dog", CLASSES)]
ANSWERS = st.builds(
    lambda request, text, outcome, at: entry_for(request, text, outcome, created_at=f"2030-01-0{at}T00:00:00+00:00"),
    st.sampled_from(REQUESTS),
    st.sampled_from(["a cat", "a dog", "a bird"]),
    st.sampled_from([Outcome.ANSWERED, Outcome.REFUSED]),
    st.integers(1, 3),
)
FILES = st.lists(st.lists(ANSWERS, max_size=4), max_size=3)


@pytest.fixture
def attaching(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few there are, answers are attached."""
    monkeypatch.setattr(logs, "ATTACHED_BYTES", 1)


def fill(folder: RunFolder, files: Sequence[list[StoredAnswer]]) -> None:
    for number, answers in enumerate(files):
        path = write_lines(folder.logs / f"{number}.jsonl", answers)
        with path.open("a") as file:
            file.write(json.dumps({"failed": f"{number:064x}", "fault": msgspec.structs.asdict(FAULT)}) + "\n")


def stored(path: Path) -> list[StoredAnswer]:
    """All answers of a store, once it is known to be sound."""
    with Store(path) as store:
        found = list(store.entries())
        assert [store.get_entry(answer.key) for answer in found] == found
    assert (verify_store(path).answers, verify_store(path).problems) == (len(found), ())
    return found


@settings(max_examples=25)
@given(first=st.lists(ANSWERS, max_size=3), pack=FILES, files=FILES, retry=st.sampled_from([(), (Outcome.REFUSED,)]))
def test_attached_or_merged_the_same_answers_count(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[StoredAnswer],
    pack: list[list[StoredAnswer]],
    files: list[list[StoredAnswer]],
    retry: tuple[Outcome, ...],
) -> None:
    found = []
    for bound in (1, 2**60):
        path = tmp_path_factory.mktemp("roads") / "store"
        with pytest.MonkeyPatch.context() as patch, Store(path) as store:
            patch.setattr(logs, "ATTACHED_BYTES", bound)
            store.put_entries(first)
            attach(store, *pack, name="before")
            with new_run_folder(store.path) as folder:
                fill(folder, files)
                keys, failures = merge_logs(store, folder, retry)
            assert not list((path / "cluster").iterdir())
            is_attached = (path / "attached" / folder.path.name).exists()
            assert is_attached == bool(bound == 1 and files)
        assert len(keys) == len({answer.key for answers in files for answer in answers})
        assert failures == {f"{number:064x}": FAULT for number in range(len(files))}
        found.append(stored(path))
    assert found[0] == found[1]


def test_few_answers_are_merged_and_many_are_attached(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        for text, is_attached in (("a cat", False), ("a cat " * 400_000, True)):
            answers = [entry_for(image_request(number), text) for number in range(30)]
            with new_run_folder(store.path) as folder:
                fill(folder, [answers])
                merge_logs(store, folder, [Outcome.ANSWERED] if is_attached else ())
            assert (store.path / "attached" / folder.path.name).exists() == is_attached
            assert list(store.entries()) == sorted(answers, key=lambda answer: answer.key)


@pytest.mark.usefixtures("attaching")
def test_while_a_worker_writes_nothing_is_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_ORPHANS_S", 0.0)
    answers = [entry_for(request) for request in REQUESTS]
    with Store(tmp_path / "store") as store, new_run_folder(store.path) as folder:
        fill(folder, [answers[:2]])
        log = AnswerLog(folder.logs / "b.jsonl")
        asyncio.run(log.keep(answers[2]))
        merge_logs(store, folder)
        assert [path.name for path in logs_in(folder.logs)] == ["b.jsonl"]
        assert len(list(store.entries())) == 3
        asyncio.run(log.keep(answers[3]))
        asyncio.run(log.close())
        merge_logs(store, folder)
        assert not folder.logs.exists()
    assert len(stored(tmp_path / "store")) == 4


@pytest.mark.usefixtures("attaching")
@pytest.mark.parametrize("killed_in", ["attached._write_index", "attached.open_pack", "attached.Path.rename", None])
def test_what_a_kill_leaves_the_next_start_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str | None
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    answers = [entry_for(request) for request in REQUESTS]
    again = replace(answers[0], response=structs.replace(answers[0].response, text="newer", created_at="2031"))

    def run() -> None:
        with Store(tmp_path / "store") as store, new_run_folder(store.path) as folder:
            store.put_entries(answers[:1])
            fill(folder, [answers[1:3], [*answers[3:], again]])
            with monkeypatch.context() as patch:
                if killed_in:
                    patch.setattr(f"tlac.cache.{killed_in}", kill)
                merge_logs(store, folder)
            # after the logs were renamed, and before the run's folder is removed
            kill()

    with pytest.raises(Killed):
        run()
    with Store(tmp_path / "store") as store:
        merge_left_behind(store)
        assert not list((store.path / "cluster").iterdir())
        assert store.stats().attached_packs == 1
        assert merge_left_behind(store) == 0
    assert stored(tmp_path / "store") == sorted([again, *answers[1:]], key=lambda answer: answer.key)


@pytest.mark.usefixtures("attaching")
def test_two_runs_that_end_at_once_are_both_attached(tmp_path: Path) -> None:
    path = tmp_path / "store"
    answers = [entry_for(request) for request in REQUESTS]
    newer = [replace(one, response=structs.replace(one.response, text="newer", created_at="2031")) for one in answers]
    with Store(path) as one, Store(path) as other, new_run_folder(path) as first, new_run_folder(path) as second:
        fill(first, [answers[:4]])
        fill(second, [newer[2:]])
        merge_logs(one, first)
        merge_logs(other, second)
        expected = sorted([*answers[:2], *newer[2:]], key=lambda answer: answer.key)
        assert list(one.entries()) == list(other.entries()) == expected
    assert stored(path) == expected
