"""What the store promises to those who ask it."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from msgspec import structs

from tests.support.fake_answers import choice_request, embedding, entries, entry_for, image_request, insert_row, run_sql
from tlac.cache.store import AnswerCount, Store
from tlac.cache.verify import verify_store
from tlac.errors import StoreError, UsageError
from tlac.hashing import response_key
from tlac.types import LMMResponse, Outcome


def test_an_answer_comes_back_with_its_request(store: Store) -> None:
    entry = entry_for(image_request(1), "a Groenendael \u2603 \U0001f415\n")
    store.put_entries([entry])
    assert store.get_response(entry.key) == entry.response
    assert store.get_entry(entry.key) == entry
    assert store.get_response(response_key(image_request(2))) is None
    assert store.get_entry("nothing") is None


def test_an_answer_is_there_for_the_next_process(tmp_path: Path) -> None:
    entry = entry_for(image_request(1))
    with Store(tmp_path / "own") as store:
        store.put_entries([entry])
    with Store(tmp_path / "own") as store:
        assert store.get_entry(entry.key) == entry


def test_a_new_store_can_be_opened_by_several_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)

    def open_it(number: int) -> int:
        barrier.wait()
        with Store(tmp_path / str(number)) as store:
            return store.stats().answers

    with ThreadPoolExecutor(6) as threads:
        for number in range(10):
            assert list(threads.map(open_it, [number] * 6)) == [0] * 6


CLAIM = """
import sys
from pathlib import Path
from tlac.cache.store import Store

with Store(Path(sys.argv[1])) as store:
    for line in sys.stdin:
        print(store.claim(line.strip()), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks of this kind")
def test_what_one_process_asks_no_other_asks_until_it_is_given_back_or_the_process_ends(store: Store) -> None:
    command = [sys.executable, "-c", CLAIM, str(store.path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    ours, theirs = "8" * 64, "8" * 15 + "4" + "8" * 48
    assert store.claim(ours)
    with subprocess.Popen(command, env=environment, **pipes) as other:

        def claims(key: str) -> str:
            other.stdin.write(f"{key}\n")
            other.stdin.flush()
            return other.stdout.readline().strip()

        # the two keys differ in the last of the 62 bits that count, and another of ours is free
        assert [claims(key) for key in (ours, theirs, "f" * 64)] == ["False", "True", "True"]
        assert [store.claim(key) for key in (theirs, "f" * 64, "0" * 64)] == [False, False, True]
        store.release(ours)
        assert claims(ours) == "True"
        assert not store.claim(ours)
        other.stdin.close()
        other.wait()
        assert [store.claim(key) for key in (ours, theirs)] == [True, True]
    assert (store.path / "asking.lock").stat().st_mode & 0o077 == 0
    assert (store.path / "asking.lock").stat().st_size == 0


def test_a_store_whose_making_was_killed_is_made_by_the_next(tmp_path: Path) -> None:
    # diskcache makes its table of settings, the folders of values, then the other tables
    killed = """
import os, sys, diskcache
from pathlib import Path
from tlac.cache.store import Store
diskcache.Disk.__init__ = lambda *_, **__: os._exit(9)
Store(Path(sys.argv[1]))
"""
    assert subprocess.run([sys.executable, "-c", killed, tmp_path], check=False).returncode == 9
    entry = entry_for(image_request(1))
    with Store(tmp_path) as store:
        assert store.get_entry(entry.key) is None
        store.put_entries([entry])
        assert store.get_entry(entry.key) == entry


def test_a_store_whose_making_fails_leaves_no_connection_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: opened.append(connect(*args, **more)) or opened[-1])
    monkeypatch.setattr("diskcache.Disk.__init__", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path)
    assert opened
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_a_refusal_is_kept_and_can_be_replaced_by_an_answer(store: Store) -> None:
    refusal = entry_for(image_request(1), "", Outcome.REFUSED, reason="no people")
    store.put_entries([refusal])
    assert store.get_response(refusal.key) == refusal.response
    answer = entry_for(image_request(1), "a cat")
    store.put_entries([answer])
    assert list(store.entries()) == [answer]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNPARSED])
def test_what_is_not_an_answer_is_not_kept(store: Store, outcome: Outcome) -> None:
    entry = entry_for(image_request(1))
    with pytest.raises(StoreError, match=f"outcome {outcome}"):
        store.put_entries([replace(entry, response=LMMResponse(outcome, "sorry"))])
    assert list(store.entries()) == []


def test_a_key_must_be_the_digest_of_its_request(store: Store) -> None:
    entry = entry_for(image_request(1))
    with pytest.raises(StoreError, match="not the digest"):
        store.put_entries([replace(entry, key="0" * 64)])


def test_a_lone_surrogate_is_refused_and_nothing_of_its_batch_is_kept(store: Store) -> None:
    with pytest.raises(UsageError, match="lone surrogate"):
        store.put_entries([entry_for(image_request(1)), entry_for(image_request(2), "\ud800")])
    assert list(store.entries()) == []


def test_entries_come_by_key_and_can_be_many(store: Store) -> None:
    many = entries(1203)
    store.put_entries(reversed(many))
    assert list(store.entries()) == many


def test_a_class_list_that_many_requests_share_is_kept_once(store: Store) -> None:
    classes = tuple(f"class number {number}" for number in range(1000))
    asked = [entry_for(choice_request(f"answer {number}", classes)) for number in range(200)]
    store.put_entries(asked[:100])
    for entry in asked[100:]:
        store.put_entries([entry])
    assert list(store.entries()) == sorted(asked, key=lambda entry: entry.key)
    assert (store.path / "responses" / "cache.db").stat().st_size < 1_000_000
    assert len(str(asked[0].request)) > 16_000


def test_deleted_answers_are_gone_and_counted(store: Store) -> None:
    kept = entries(5)
    store.put_entries(kept)
    assert store.delete_entries([kept[0].key, kept[3].key, "unknown"]) == 2
    assert list(store.entries()) == [kept[1], kept[2], kept[4]]


def test_embeddings_come_back_bit_for_bit(store: Store) -> None:
    items = [embedding(f"text {number}", 0.1 * number, -1e-30) for number in range(1100)]
    store.put_embeddings(items)
    store.put_embeddings([embedding("cut", 1.0, is_truncated=True)])
    found = store.get_embeddings([item.key for item in items] + ["missing"])
    assert len(found) == 1100
    assert all(np.array_equal(found[item.key].vector, item.vector) for item in items)
    assert not found[items[0].key].is_truncated
    assert store.get_embeddings([embedding("cut").key])[embedding("cut").key].is_truncated
    assert len(list(store.embeddings())) == 1101


@pytest.mark.parametrize("wanted", [3, 400, 501, 1100])
def test_embeddings_are_found_in_blocks_however_many_are_asked_for(store: Store, wanted: int) -> None:
    items = [embedding(f"text {number}", 0.1 * number, -1e-30, is_truncated=number % 3 == 0) for number in range(1100)]
    store.put_embeddings(items)
    keys = [item.key for item in items[:wanted]]
    found, is_there = store.load_embeddings([*keys, "f" * 64], "any")
    assert is_there.tolist() == [True] * wanted + [False]
    assert found.vectors[:wanted].tolist() == [item.vector.tolist() for item in items[:wanted]]
    assert found.is_truncated[:wanted].tolist() == [item.is_truncated for item in items[:wanted]]


@pytest.mark.parametrize("place", [-(2**63), -(10**6), 0, 2**62])
def test_rows_are_found_wherever_sqlite_has_put_them(store: Store, place: int) -> None:
    items = [embedding(f"text {number}", 0.1 * number) for number in range(600)]
    store.put_embeddings(items)
    run_sql(store.path / "embeddings", "UPDATE Cache SET rowid = rowid + ?", parameters=(place,))
    assert len(store.get_embeddings([item.key for item in items])) == 600
    assert len(list(store.embeddings())) == 600


@pytest.mark.parametrize(("dimensions", "is_found"), [(1, True), (65_536, True), (65_537, False), (0, False)])
def test_vectors_have_one_dimension_at_least_and_65536_at_most(store: Store, dimensions: int, is_found: bool) -> None:
    item = embedding("a", 1.0)
    store.put_embeddings([item])
    vector = base64.b64encode(np.ones(dimensions, "<f4").tobytes()).decode()
    row = f'{{"is_truncated":false,"vector":"{vector}"}}'
    run_sql(store.path / "embeddings", "UPDATE Cache SET value = ?", parameters=(row,))
    if is_found:
        assert store.load_embeddings([item.key], "any")[0].vectors.tolist() == [[1.0] * dimensions]
        return
    with pytest.raises(StoreError, match=f"a vector of {4 * dimensions} bytes: expected 4 for each of 1 to 65536 dim"):
        store.load_embeddings([item.key], "any")


@pytest.mark.parametrize("wanted", [20, 700])
def test_one_bad_embedding_among_many_is_named(store: Store, wanted: int) -> None:
    items = [embedding(f"text {number}", 0.1, 0.2) for number in range(700)]
    store.put_embeddings(items)
    bad = items[7].key
    nan = base64.b64encode(np.array([np.nan, 1], "<f4").tobytes()).decode()
    statement = "UPDATE Cache SET value = ? WHERE key = ?"
    for value, complaint in (
        (f'{{"is_truncated":false,"vector":"{nan}"}}', "not finite"),
        ('{"is_truncated":false,"vector":"AAAA"}', "3 bytes"),
        ('{"is_truncated":false,"vector":"AAAAAA=="}', "number of dimensions"),
        ('{"is_truncated":false}', "vector"),
    ):
        run_sql(store.path / "embeddings", statement, parameters=(value, bad))
        with pytest.raises(StoreError, match=complaint):
            store.load_embeddings([item.key for item in items[:wanted]], "any")


@pytest.mark.parametrize("has_block", [False, True])
def test_embeddings_of_another_number_of_dimensions_stand_for_no_others(store: Store, has_block: bool) -> None:
    items = [embedding(f"text {number}", 0.1, 0.2) for number in range(700)]
    store.put_embeddings(items)
    if has_block:
        store.load_embeddings([item.key for item in items], "any")
    others = [embedding(f"other {number}", 0.5) for number in range(700)]
    store.put_embeddings(others)
    with pytest.raises(StoreError, match="another number of dimensions than the encoder's 2"):
        store.load_embeddings([item.key for item in [*items[:512], *others]], "any")


@pytest.mark.parametrize("change", ["key = CAST(key AS BLOB)", "key = 17", "mode = 4", "raw = 0"])
def test_a_row_that_tlac_never_writes_is_not_taken_for_an_answer(store: Store, change: str) -> None:
    asked = entries(600)
    store.put_entries(asked)
    run_sql(store.path / "responses", f"UPDATE Cache SET {change} WHERE key = '{asked[5].key}'")
    keys = [entry.key for entry in asked]
    if change == "mode = 4":
        with pytest.raises(StoreError, match="not text that tlac wrote"):
            list(store.responses(keys))
    else:
        assert asked[5].key not in dict(store.responses(keys))
    assert len(dict(store.responses([key for key in keys if key != asked[5].key]))) == 599


def test_statistics_count_by_backend_stage_and_outcome(store: Store) -> None:
    store.put_entries(
        [
            entry_for(image_request(1), cost_usd=0.5),
            entry_for(image_request(2), cost_usd=None),
            entry_for(image_request(3), "", Outcome.REFUSED, cost_usd=0.25),
            entry_for(choice_request("a cat"), cost_usd=1.0, backend="other"),
        ]
    )
    store.put_embeddings([embedding("x", 1.0)])
    stats = store.stats()
    assert stats.counts == (
        AnswerCount("fake", "stage1", "answered", 2, None),
        AnswerCount("fake", "stage1", "refused", 1, 0.25),
        AnswerCount("other", "stage2", "answered", 1, 1.0),
    )
    assert (stats.answers, stats.embeddings, stats.cost_usd) == (4, 1, None)
    assert stats.size_bytes > 10_000


@pytest.mark.parametrize(
    "row",
    [
        {"mode": 4, "value": b"cos\nsystem\n."},
        {"mode": 2, "filename": "/etc/hostname", "value": None},
        {"mode": 3, "filename": "../../x", "value": None},
        {"value": b"{}"},
        {"value": 1},
        {"value": "{}"},
        {"value": '{"backend": "\ufffd'},
        {"value": "[" * 1_000_000},
        {"value": "x" * (16 * 2**20 + 1)},
    ],
)
def test_a_row_that_tlac_did_not_write_is_an_error_that_names_it(store: Store, row: dict[str, object]) -> None:
    insert_row(store.path / "responses", **row)
    for read in (store.get_response, store.get_entry):
        with pytest.raises(StoreError, match=r"under ffffffffffff .*cache verify"):
            read("f" * 64)
    with pytest.raises(StoreError, match="under ffffffffffff"):
        list(store.entries())


@pytest.mark.parametrize(
    "change", ["mode = 4", "mode = 0", "filename = '/etc/hostname'", "value = CAST(value AS BLOB)"]
)
def test_a_row_whose_text_is_sound_but_that_is_stored_otherwise_is_refused(store: Store, change: str) -> None:
    store.put_entries(entries(1))
    run_sql(store.path / "responses", f"UPDATE Cache SET {change}")
    with pytest.raises(StoreError, match="not text that tlac wrote"):
        store.get_response(entries(1)[0].key)
    assert len(verify_store(store.path).problems) == 1


def test_a_row_is_not_hidden_by_an_expiry_that_another_program_set(store: Store) -> None:
    store.put_entries(entries(1))
    run_sql(store.path / "responses", "UPDATE Cache SET expire_time = 1")
    assert store.get_entry(entries(1)[0].key) == entries(1)[0]


def test_a_request_whose_class_list_is_gone_is_an_error(store: Store) -> None:
    entry = entry_for(choice_request("a cat", tuple(f"class number {number}" for number in range(200))))
    store.put_entries([entry])
    run_sql(store.path / "responses", "DELETE FROM Cache WHERE key LIKE 'text:%'")
    with Store(store.path) as fresh:
        assert fresh.get_response(entry.key) == entry.response
        with pytest.raises(
            StoreError, match=r"a request whose text text:[0-9a-f]{12} is gone; see `tlac cache verify`"
        ):
            fresh.get_entry(entry.key)


def test_threads_can_write_and_read_at_once(store: Store) -> None:
    many = entries(200)

    def write(part: int) -> None:
        for entry in many[part::8]:
            store.put_entries([entry])
            assert store.get_entry(entry.key) == entry

    threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(store.entries()) == many


def test_a_closed_store_says_so_rather_than_answer(tmp_path: Path) -> None:
    store = Store(tmp_path / "own")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get_response("key")


def test_opening_a_warm_store_brings_in_no_heavy_package(store: Store) -> None:
    store.put_entries(entries(100))
    heavy = {"torch", "litellm", "open_clip", "sentence_transformers", "zstandard"}
    check = f"""
import sys
from pathlib import Path
from tlac.cache.store import Store
Store(Path({str(store.path)!r})).close()
print(sorted({heavy!r} & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]"


def test_a_cost_that_is_not_known_is_not_counted_as_nothing(store: Store) -> None:
    known, unknown = entries(2)
    store.put_entries([known, replace(unknown, response=structs.replace(unknown.response, cost_usd=None))])
    assert store.stats().cost_usd is None
