"""Rows under hard conditions: processes that are killed or race, disks that are full or read-only."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.fake_answers import entries, entry_for, image_request
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.errors import StoreError

SIGKILL = Path(__file__).parents[2] / "benchmarks" / "perf" / "sigkill_store.py"

WRITE_UNTIL_FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.support.fake_answers import entries
from tlac.errors import StoreError
from tlac.cache.store import Store
with Store(Path({folder!r})) as store:
    many = entries(2000)
    store.put_entries(many[:50])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    stored = 50
    for entry in many[50:]:
        try:
            store.put_entries([entry])
        except StoreError as error:
            readable = len(list(store.entries()))
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            store.put_entries([entry])
            print(stored, readable, error)
            break
        stored += 1
"""

# synthetic rows of 15 MB, last by key: what they hold is never parsed
FILL_1_2_GB = """
PRAGMA synchronous=OFF;
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 80)
INSERT INTO Cache(key, raw, store_time, access_time, mode, value)
SELECT 'text:' || n, 1, n, n, 1, printf('%.*c', 15000000, 'x') FROM numbers;
PRAGMA wal_checkpoint(TRUNCATE);
"""

WRITE_SOME = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.support.fake_answers import entries
from tlac.cache.store import Store
with Store(Path({folder!r})) as store:
    for entry in entries(100)[{part}::4]:
        store.put_entries([entry])
"""


def run_python(program: str, **names: object) -> str:
    text = program.format(tests=str(Path(__file__).parents[2]), **names)
    return subprocess.check_output([sys.executable, "-W", "error", "-c", text], text=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets no test mount a tmpfs; full disks are tested by a limit on file size instead")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> None:
    try:
        with (folder / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass


def put_one_by_one(store: Store, answers: list[StoredAnswer]) -> None:
    for answer in answers:
        store.put_entries([answer])


def test_nothing_acknowledged_is_lost_when_writers_are_killed() -> None:
    finished = subprocess.run([sys.executable, str(SIGKILL), "10"], check=False, capture_output=True, text=True)
    found = json.loads(finished.stdout)
    assert (found["lost"], found["wrong"], found["problems"]) == (0, 0, 0)
    assert found["acknowledged"] > 100
    assert finished.returncode == 0


def test_processes_can_make_and_fill_one_store_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: run_python(WRITE_SOME, folder=str(tmp_path / "own"), part=part), range(4)))
    with Store(tmp_path / "own") as store:
        assert list(store.entries()) == entries(100)
    assert verify_store(tmp_path / "own").problems == ()


def test_where_a_file_can_grow_no_more_the_error_says_so_and_nothing_is_lost_before_or_after(tmp_path: Path) -> None:
    said = run_python(WRITE_UNTIL_FULL, folder=str(tmp_path / "own"))
    stored, readable, complaint = said.split(maxsplit=2)
    assert int(readable) == int(stored) > 50
    assert "can't be written" in complaint
    assert "choose another --store" in complaint
    with Store(tmp_path / "own") as store:
        assert len(list(store.entries())) == int(readable) + 1
        store.put_entries(entries(2000))
        assert list(store.entries()) == entries(2000)
    assert verify_store(tmp_path / "own").problems == ()


def test_a_full_disk_can_be_read_and_written_again_once_there_is_room(small_disk: Path) -> None:
    kept = entries(200)
    with Store(small_disk / "own") as store:
        store.put_entries(kept[:100])
        fill(small_disk)
        with pytest.raises(StoreError, match="can't be written"):
            put_one_by_one(store, kept[100:])
        readable = list(store.entries())
        assert readable[:100] == kept[:100]
    with Store(small_disk / "own") as reopened:
        assert list(reopened.entries()) == readable
        with pytest.raises(StoreError, match="can't be written"):
            reopened.require_writable()
        (small_disk / "fill").unlink()
        reopened.put_entries(kept)
        assert list(reopened.entries()) == kept


def test_a_read_only_disk_can_be_read_but_not_written(small_disk: Path) -> None:
    kept = entries(100)
    with Store(small_disk / "own") as store:
        store.put_entries(kept)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Store(small_disk / "own") as store:
        assert list(store.entries()) == kept
        for attempt in (store.require_writable, lambda: store.put_entries([entry_for(image_request(999))])):
            with pytest.raises(StoreError, match=r"can't be written.*choose another --store"):
                attempt()
    assert verify_store(small_disk / "own").problems == ()
    with pytest.raises(StoreError, match="Read-only"):
        Store(small_disk / "another")


# it writes 1.2 GB
@pytest.mark.slow
def test_no_answer_disappears_above_the_size_at_which_diskcache_would_evict(tmp_path: Path) -> None:
    database = tmp_path / "own" / "responses" / "cache.db"
    with Store(tmp_path / "own") as store:
        store.put_entries(entries(20))
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.executescript(FILL_1_2_GB)
    with Store(tmp_path / "own") as store:
        assert database.stat().st_size > 1.2e9
        put_one_by_one(store, entries(40))
        assert list(store.entries()) == entries(40)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM Cache").fetchone() == (40 + 80,)
    database.unlink()
