"""A store that is deleted, or whose making is killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from tests.support.fake_answers import embedding, entries, image_request
from tests.support.fakes import FakeLMM
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.engines.batch.journal import Journal
from tlac.engines.ray.logs import new_run_folder
from tlac.errors import StoreError
from tlac.hashing import response_key
from tlac.lmms.middleware.cache import StoredLMM
from tlac.runtime.safe_files import replacing, sweep_unfinished, unfinished_folder
from tlac.types import LMMRequest

MANY = entries(1300)


@contextmanager
def told(path: Path) -> Iterator[tuple[Store, list[str]]]:
    said: list[str] = []
    with Store(path, said.append) as store:
        yield store, said


@pytest.mark.parametrize("part", ["", "responses", "responses/cache.db"])
def test_a_store_that_is_deleted_in_use_is_noticed_and_loses_nothing(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "store"
    with told(folder) as (store, said):
        store.put_entries(MANY[:1200])
        store.put_embeddings([embedding("a", 1.0)])
        shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()
        store.put_entries(MANY[1200:1250])
        assert len(said) == 1
        assert "was deleted or exchanged while it was in use; all that it held was put back" in said[0]
        store.put_entries(MANY[1250:])
        store.put_embeddings([embedding("b", 2.0)])
        assert list(store.entries()) == MANY
    with Store(folder) as again:
        assert list(again.entries()) == MANY
        assert {item.key for item in again.embeddings()} == {embedding("a").key, embedding("b").key}
    assert verify_store(folder).problems == ()


def test_a_store_that_is_just_being_deleted_is_put_back_too(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with told(folder) as (store, said):
        store.put_entries(MANY[:5])
        # files go one by one, and its format's may be the first
        for name in ("tlac-store.json", "responses/cache.db"):
            (folder / name).unlink()
        store.put_entries(MANY[5:7])
        assert len(said) == 1
    with Store(folder) as again:
        assert list(again.entries()) == MANY[:7]
    assert verify_store(folder).problems == ()


def test_an_embedding_is_never_replaced_and_an_answer_is_also_in_a_store_that_was_put_back(tmp_path: Path) -> None:
    folder, other = tmp_path / "store", structs.replace(MANY[0].response, text="another")
    with told(folder) as (store, _):
        for number in range(2):
            store.put_entries(MANY[:1])
            store.put_embeddings([embedding("a", 1.0), embedding(f"b{number}", 2.0)])
            store.put_embeddings([embedding("a", 7.0), embedding(f"c{number}", 3.0)])
            assert store.get_embeddings([embedding("a").key])[embedding("a").key].vector.tolist() == [1.0]
            assert len(list(store.embeddings())) == 3 + 2 * number
            store.put_entries([replace(MANY[0], response=other)])
            assert list(store.entries()) == [replace(MANY[0], response=other)]
            shutil.rmtree(folder)


def test_a_store_that_is_deleted_after_the_last_answer_is_put_back_at_the_end(tmp_path: Path) -> None:
    with told(tmp_path / "store") as (store, said):
        store.put_entries(MANY[:5])
        shutil.rmtree(tmp_path / "store")
    assert len(said) == 1
    with Store(tmp_path / "store") as again:
        assert list(again.entries()) == MANY[:5]


def test_a_run_whose_store_is_deleted_under_it_loses_no_answer(tmp_path: Path) -> None:
    def answer(request: LMMRequest) -> str:
        if request == image_request(20):
            shutil.rmtree(tmp_path / "store")
        return "a cat"

    with told(tmp_path / "store") as (store, said):
        lmm = StoredLMM(FakeLMM(answer), store, "fake")

        async def ask_all() -> None:
            for start in range(0, 40, 8):
                await asyncio.gather(*(lmm.ask(image_request(number)) for number in range(start, start + 8)))

        asyncio.run(ask_all())
    assert len(said) == 1
    with Store(tmp_path / "store") as again:
        assert {entry.key for entry in again.entries()} == {response_key(image_request(number)) for number in range(40)}


def test_a_store_that_was_only_read_is_left_deleted(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        store.put_entries(MANY[:5])
    with told(tmp_path / "store") as (store, said):
        assert list(store.entries()) == MANY[:5]
        shutil.rmtree(tmp_path / "store")
    assert said == []
    assert not (tmp_path / "store").exists()


def test_a_store_that_was_exchanged_for_another_keeps_what_both_hold(tmp_path: Path) -> None:
    with told(tmp_path / "store") as (store, said):
        store.put_entries(MANY[:5])
        shutil.rmtree(tmp_path / "store")
        with Store(tmp_path / "store") as other:
            other.put_entries(MANY[3:8])
        store.put_entries(MANY[8:9])
        assert list(store.entries()) == MANY[:9]
    assert len(said) == 1


def test_two_that_use_a_deleted_store_both_put_back_what_they_wrote(tmp_path: Path) -> None:
    with told(tmp_path / "store") as (first, said), told(tmp_path / "store") as (second, also_said):
        first.put_entries(MANY[:5])
        shutil.rmtree(tmp_path / "store")
        barrier = threading.Barrier(2)

        def put(store: Store, start: int) -> None:
            barrier.wait()
            for entry in MANY[start : start + 20]:
                store.put_entries([entry])

        threads = [threading.Thread(target=put, args=pair) for pair in ((first, 5), (second, 25))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(said), len(also_said)) == (1, 1)
    with Store(tmp_path / "store") as again:
        assert list(again.entries()) == MANY[:45]


def test_a_deleted_store_that_can_not_be_put_back_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = Store(folder)
    store.put_entries(MANY[:5])
    shutil.rmtree(folder)
    folder.write_text("in its place")
    for attempt in (lambda: store.put_entries(MANY[5:6]), store.close):
        with pytest.raises(StoreError, match="was deleted while it was in use, and can't be put back"):
            attempt()


def make_half(folder: Path, step: int) -> None:
    """A store as a process leaves it that is killed in that step of making it."""
    folder.mkdir()
    (folder / "tlac-store.json").write_text('{"tlac_store": 2}\n')
    if step >= 1:
        (folder / "responses" / ".unfinished-1234").mkdir(parents=True)
        (folder / "responses" / ".unfinished-1234" / "cache.db").write_bytes(b"half")
        os.utime(folder / "responses" / ".unfinished-1234", (1, 1))
    if step >= 2:
        with Store(folder.with_name("whole")):
            pass
        shutil.copy(folder.with_name("whole") / "responses" / "cache.db", folder / "responses" / "cache.db")


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_store_whose_making_was_killed_is_no_problem_and_is_made_by_the_next(tmp_path: Path, step: int) -> None:
    folder = tmp_path / "store"
    make_half(folder, step)
    found = verify_store(folder)
    assert (found.answers, found.embeddings, found.problems) == (0, 0, ())
    with Store(folder) as store:
        store.put_entries(MANY[:1])
    assert [path.name for path in (folder / "responses").iterdir() if path.name.startswith(".unfinished-")] == []
    assert verify_store(folder).problems == ()


def test_a_store_with_answers_and_without_its_other_database_is_a_problem(tmp_path: Path) -> None:
    with Store(tmp_path / "store") as store:
        store.put_entries(MANY[:1])
    (tmp_path / "store" / "embeddings" / "cache.db").unlink()
    assert [problem.database for problem in verify_store(tmp_path / "store").problems] == ["embeddings"]
    with Store(tmp_path / "other") as store:
        store.put_embeddings([embedding("a", 1.0)])
    (tmp_path / "other" / "responses" / "cache.db").unlink()
    assert [problem.database for problem in verify_store(tmp_path / "other").problems] == ["responses"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no rights of this kind")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("is_folder_there", [False, True])
def test_nobody_but_its_owner_can_read_a_new_store(tmp_path: Path, umask: int, is_folder_there: bool) -> None:
    before = os.umask(umask)
    try:
        if is_folder_there:
            (tmp_path / "store").mkdir()
        with Store(tmp_path / "store") as store:
            store.put_entries(MANY[:3])
            store.put_embeddings([embedding("a", 1.0)])
            made = [path for path in (tmp_path / "store").rglob("*") if "lock" not in path.name]
            rights = {path: stat.S_IMODE(path.stat().st_mode) for path in made}
    finally:
        os.umask(before)
    assert {path.name for path in made} >= {"tlac-store.json", "cache.db", "cache.db-wal", "cache.db-shm"}
    assert {path: mode for path, mode in rights.items() if mode & 0o077} == {}
    if not is_folder_there:
        assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


@pytest.mark.skipif(os.name == "nt", reason="Windows has no rights of this kind")
def test_what_batches_and_workers_write_beside_the_store_is_its_owners_too(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    with Store(tmp_path / "store") as store, new_run_folder(store.path) as run:
        lock = Journal(store.path).try_lock()
        assert lock is not None
        lock.release()
        for folder in (run.path.parent, store.path / "batches"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_rights_that_a_store_was_given_later_stay(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        path.chmod(0o770 if path.is_dir() else 0o660)
    with Store(tmp_path / "store") as store:
        store.put_entries(MANY[:3])
    assert stat.S_IMODE((tmp_path / "store" / "responses" / "cache.db").stat().st_mode) == 0o660


def test_what_the_dead_left_is_swept_and_what_the_living_hold_stays(tmp_path: Path) -> None:
    for name in (".unfinished-dead", ".unfinished-dead-folder", "other"):
        path = tmp_path / name
        path.mkdir() if "folder" in name else path.touch()
        os.utime(path, (1, 1))
    (tmp_path / ".unfinished-new").touch()
    with replacing(tmp_path / "file"), unfinished_folder(tmp_path) as alive:
        for path in tmp_path.glob(".unfinished-*"):
            if path.name != ".unfinished-new":
                os.utime(path, (1, 1))
        sweep_unfinished(tmp_path)
        assert alive.exists()
        assert len(list(tmp_path.glob(".unfinished-*"))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"file", "other", ".unfinished-new"}


def test_a_closed_store_is_neither_written_to_nor_made_anew(tmp_path: Path) -> None:
    first, second = entries(2)
    with Store(tmp_path / "store") as store:
        store.put_entries([first])
    with pytest.raises(StoreError, match="the store was closed"):
        store.put_entries([second])
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreError, match="the store was closed"):
        store.put_entries([second])
    store.close()
    assert not (tmp_path / "store").exists()
