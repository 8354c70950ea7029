"""What is looked at before a database is opened."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import diskcache
import pytest

from tests.support.fake_answers import entries, run_sql
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.errors import StoreError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with three answers."""
    with Store(tmp_path / "mine") as store:
        store.put_entries(entries(3))
    return tmp_path / "mine"


def settings(folder: Path) -> dict[str, object]:
    with closing(sqlite3.connect(folder / "responses" / "cache.db")) as connection:
        return dict(connection.execute("SELECT key, value FROM Settings"))


def test_a_store_never_evicts_and_survives_the_loss_of_power(folder: Path) -> None:
    found = settings(folder)
    assert (found["eviction_policy"], found["cull_limit"], found["size_limit"]) == ("none", 0, 2**62)
    assert (found["sqlite_journal_mode"], found["sqlite_synchronous"]) == ("wal", 2)


def test_eviction_that_another_program_turned_on_is_turned_off_and_said(folder: Path) -> None:
    diskcache.Cache(str(folder / "responses"), **diskcache.DEFAULT_SETTINGS).close()
    assert settings(folder)["cull_limit"] == 10
    with Store(folder) as store:
        assert "changed cull_limit" in store.warnings[0]
        assert "may have deleted answers; restored" in store.warnings[0]
        assert len(list(store.entries())) == 3
    assert settings(folder)["cull_limit"] == 0
    with Store(folder) as store:
        assert store.warnings == ()


def test_a_journal_that_another_program_turned_off_is_turned_on_again_by_writing(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "responses" / "cache.db")) as connection:
        assert connection.execute("PRAGMA journal_mode=delete").fetchone() == ("delete",)
    with Store(folder) as store:
        store.put_entries(entries(4))
        assert len(list(store.entries())) == 4
    with closing(sqlite3.connect(folder / "responses" / "cache.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("policy", ["least-recently-stored", "least-recently-used", "least-frequently-used"])
def test_the_index_that_an_eviction_policy_leaves_behind_does_no_harm(folder: Path, policy: str) -> None:
    diskcache.Cache(str(folder / "responses"), eviction_policy=policy, tag_index=1).close()
    with Store(folder) as store:
        store.put_entries(entries(4))
        assert len(list(store.entries())) == 4


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END", "trigger 'evil'"),
        ("CREATE VIEW evil AS SELECT 1", "view 'evil'"),
        ("CREATE TABLE evil (a)", "table 'evil'"),
        ("CREATE INDEX evil ON Cache (abs(mode))", "index 'evil'"),
        ("ALTER TABLE Cache ADD COLUMN evil GENERATED ALWAYS AS (abs(mode))", "table 'Cache' that is not as"),
        ("INSERT INTO Settings VALUES ('get', 1)", "setting 'get'"),
        ("INSERT INTO Settings VALUES ('disk_fetch', 1)", "setting 'disk_fetch'"),
        ("INSERT INTO Settings VALUES ('sqlite_writable_schema', 1)", "setting 'sqlite_writable_schema'"),
        ("INSERT INTO Settings VALUES (x'6765', 1)", "setting 'ge'"),
        ("UPDATE Settings SET value = 'many' WHERE key = 'count'", "setting 'count'"),
    ],
)
def test_a_database_that_tlac_did_not_make_so_is_not_opened(folder: Path, statement: str, complaint: str) -> None:
    run_sql(folder / "responses", statement)
    with pytest.raises(StoreError, match=complaint) as refusal:
        Store(folder)
    assert "choose another --store" in str(refusal.value)


def test_a_setting_that_would_weaken_the_journal_is_put_right(folder: Path) -> None:
    run_sql(folder / "responses", "UPDATE Settings SET value = 'off' WHERE key = 'sqlite_journal_mode'")
    with Store(folder) as store:
        assert "changed sqlite_journal_mode; restored" in store.warnings[0]
    assert settings(folder)["sqlite_journal_mode"] == "wal"


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 40, b"\0" * 4096])
def test_a_file_that_is_no_database_is_refused(folder: Path, content: bytes) -> None:
    shutil.rmtree(folder / "responses")
    (folder / "responses").mkdir()
    (folder / "responses" / "cache.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"cache.db"):
        Store(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")
@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "cache.db-journal"])
def test_a_pipe_in_place_of_a_database_is_refused_without_waiting(tmp_path: Path, name: str) -> None:
    with Store(tmp_path / "store") as store:
        store.put_entries(entries(1))
    (tmp_path / "store" / "responses" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "store" / "responses" / name)
    with pytest.raises(StoreError, match=rf"{name}: is no regular file"):
        Store(tmp_path / "store")
    assert any("no regular file" in problem.problem for problem in verify_store(tmp_path / "store").problems)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")
def test_a_pipe_in_place_of_the_format_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tlac-store.json")
    with pytest.raises(StoreError, match="no regular file"):
        Store(tmp_path)
