"""What verification finds, and that finding it runs and changes nothing."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_answers import choice_request, embedding, entries, entry_for, insert_row, run_sql
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.errors import StoreError

CLASSES = tuple(f"class number {number}" for number in range(200))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Store(tmp_path / "mine") as store:
        store.put_entries([*entries(3), entry_for(choice_request("a cat", CLASSES))])
        store.put_embeddings([embedding("a", 1.0), embedding("b", 2.0)])
    return tmp_path / "mine"


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_sound_store_is_clean(folder: Path) -> None:
    found = verify_store(folder)
    assert (found.answers, found.embeddings, found.problems) == (4, 2, ())


def test_hostile_rows_are_reported_one_by_one_and_nothing_is_run_read_or_deleted(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    hostile: list[tuple[dict[str, object], str]] = [
        ({"mode": 4, "value": bomb}, "mode 4"),
        ({"key": bomb, "raw": 0}, "unpickled"),
        ({"mode": 2, "filename": str(secret), "value": None}, "mode 2"),
        ({"filename": str(secret)}, "names a file"),
        ({"filename": "../../secret"}, "names a file"),
        ({"expire_time": 1.0}, "expires"),
        ({"key": b"\xff\x00"}, "key is of type blob"),
        ({"key": 7}, "key is of type integer"),
        ({"key": "x" * 2000}, "too long"),
        ({"value": b"{}"}, "value is of type blob"),
        ({"value": None}, "value is of type null"),
        ({"value": 1.5}, "value is of type real"),
        ({"value": "x" * (16 * 2**20 + 1)}, "16,777,217 bytes"),
        ({"value": "{}"}, "request"),
        ({"value": "[" * 100_000}, "not as expected"),
        ({"value": '{"backend": "b", "request": ' + "[" * 100_000 + "]" * 100_000 + "}"}, "not as expected"),
        ({"key": "text:" + "0" * 64, "value": '{"text": "x"}'}, "not the digest"),
    ]
    for number, (columns, _) in enumerate(hostile):
        insert_row(folder / "responses", rowid=1000 + number, **{"key": f"{number:064x}", **columns})
    before = (folder / "responses" / "cache.db").read_bytes()
    found = verify_store(folder)
    assert [(problem.database, problem.row) for problem in found.problems] == [
        ("responses", 1000 + number) for number in range(len(hostile))
    ]
    for problem, (_, complaint) in zip(found.problems, hostile, strict=True):
        assert complaint in problem.problem
    assert found.answers == 4
    assert not (tmp_path / "exploded").exists()
    assert secret.read_text() == "secret"
    assert (folder / "responses" / "cache.db").read_bytes() == before


def test_text_that_is_not_utf_8_is_reported(folder: Path) -> None:
    run_sql(folder / "responses", "UPDATE Cache SET value = CAST(x'22FF22' AS TEXT) WHERE rowid = 2")
    (problem,) = verify_store(folder).problems
    assert (problem.database, problem.row) == ("responses", 2)


def test_an_answer_under_the_key_of_another_is_reported(folder: Path) -> None:
    run_sql(folder / "responses", "UPDATE Cache SET value = replace(value, '\"temperature\":0', '\"temperature\":1')")
    assert len(verify_store(folder).problems) == 4
    assert all("not the digest" in problem.problem for problem in verify_store(folder).problems)


def test_a_changed_or_missing_class_list_is_reported(folder: Path) -> None:
    run_sql(folder / "responses", "UPDATE Cache SET value = replace(value, 'class number 7,', 'class number 8,')")
    problems = [problem.problem for problem in verify_store(folder).problems]
    assert len(problems) == 2
    assert all("not the one" in problem or "not the digest" in problem for problem in problems)
    run_sql(folder / "responses", "DELETE FROM Cache WHERE key LIKE 'text:%'")
    (problem,) = verify_store(folder).problems
    assert re.search("text text:[0-9a-f]{12} is gone$", problem.problem)


def test_a_vector_with_a_value_that_is_no_number_is_reported(folder: Path) -> None:
    run_sql(folder / "embeddings", 'UPDATE Cache SET value = \'{"is_truncated":false,"vector":"AADAfw=="}\'')
    assert [problem.database for problem in verify_store(folder).problems] == ["embeddings"] * 2


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END", "trigger 'evil'"),
        ("INSERT INTO Settings VALUES ('get', 1)", "setting 'get'"),
        ("UPDATE Settings SET value = 10 WHERE key = 'cull_limit'", "'cull_limit' is 10"),
    ],
)
def test_a_store_that_is_not_opened_is_still_looked_at(folder: Path, statement: str, complaint: str) -> None:
    run_sql(folder / "responses", statement)
    found = verify_store(folder)
    assert [complaint in problem.problem for problem in found.problems] == [True]
    assert (found.answers, found.embeddings) == (4, 2)


def test_a_view_in_place_of_the_table_is_not_read(folder: Path) -> None:
    run_sql(
        folder / "responses",
        "ALTER TABLE Cache RENAME TO Other",
        "CREATE VIEW Cache AS SELECT load_extension('evil') AS rowid FROM Other",
    )
    found = verify_store(folder)
    assert any("view 'Cache'" in problem.problem for problem in found.problems)
    assert found.answers == 0


def test_a_database_that_is_damaged_or_gone_is_reported(folder: Path) -> None:
    with (folder / "responses" / "cache.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * 8192)
    (folder / "embeddings" / "cache.db").unlink()
    problems = verify_store(folder).problems
    assert {problem.database for problem in problems} == {"responses", "embeddings"}
    assert problems[-1].problem == "there is no database"


def test_pages_that_sqlite_has_lost_are_reported_in_its_words(folder: Path) -> None:
    with (folder / "responses" / "cache.db").open("r+b") as file:
        # how many pages are free, in the database's head
        file.seek(36)
        file.write((3).to_bytes(4, "big"))
    (problem,) = verify_store(folder).problems
    assert problem.database == "responses"
    assert "freelist" in problem.problem.lower()


def test_a_folder_without_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here"):
        verify_store(tmp_path)


def test_a_newer_format_is_reported(folder: Path) -> None:
    (folder / "tlac-store.json").write_text('{"tlac_store": 99}')
    assert "upgrade" in verify_store(folder).problems[0].problem
