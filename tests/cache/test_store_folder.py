"""The store's folder and its format."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fake_answers import entries, restore_format_1
from tlac.cache.store import FORMAT, Store, read_format, store_folder
from tlac.errors import StoreError


def test_the_folder_is_named_by_the_environment_or_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLAC_CACHE_DIR", "/somewhere")
    assert store_folder() == Path("/somewhere")
    monkeypatch.delenv("TLAC_CACHE_DIR")
    assert store_folder().name == "tlac"


def test_a_file_in_place_of_the_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match=r"file.*--store \(or TLAC_CACHE_DIR\)"):
            Store(path)


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tlac-store.json").write_text('{"tlac_store": 99}')
    with pytest.raises(StoreError, match="upgrade tlac or choose another --store"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tlac-store.json"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"tlac_store": "2"}', '{"tlac_store": 0}', "[" * 100_000])
def test_a_broken_format_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tlac-store.json").write_text(content)
    with pytest.raises(StoreError, match=r"tlac-store.json"):
        Store(tmp_path)


def test_a_folder_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "responses").mkdir()
    with pytest.raises(StoreError, match="not a store of tlac's"):
        Store(tmp_path)


def test_a_path_that_diskcache_would_take_for_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    with pytest.raises(StoreError, match="variable"):
        Store(tmp_path / "$ELSEWHERE")


def test_an_older_store_is_migrated_and_keeps_every_answer(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    restore_format_1(folder)
    with Store(folder) as store:
        found = list(store.entries())
        assert {entry.response.text for entry in found if entry.request["stage"] == "stage1"} == {
            "a red car",
            "an old car",
        }
        assert {entry.response.text for entry in found if entry.request["stage"] == "stage2"} == {
            "class number 0",
            "class number 1",
        }
        assert store.stats().embeddings == 1
        assert store.warnings == ()
    assert read_format(folder) == FORMAT
    with Store(folder) as store:
        assert list(store.entries()) == found
        store.put_entries(entries(2))
        assert len(list(store.entries())) == 6


def test_migration_keeps_the_shared_class_list_once(tmp_path: Path) -> None:
    restore_format_1(tmp_path / "old")
    Store(tmp_path / "old").close()
    content = (tmp_path / "old" / "responses" / "cache.db").read_bytes()
    assert content.count(b"class number 77\\n") == 1
