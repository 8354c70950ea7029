"""Random and damaged run folders are read, compared and reported, or refused in one line."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fuzzing import JSON, damage, fuzzed, one_line
from tests.support.reported_runs import some_run, with_shards, write_reported_run
from tlac.analysis.compare import compare
from tlac.analysis.leaderboard import rank_runs
from tlac.errors import TlacError
from tlac.report.run_page import write_report
from tlac.results.folder import load_run
from tlac.results.predictions import PREDICTIONS, name_shard, read_asked

pytestmark = pytest.mark.fuzz

FILES = ("run.json", "predictions.jsonl", "calls.jsonl", "thumbnails/originals.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reported_run(tmp_path_factory.mktemp("runs"), some_run())


def with_another_value(document: Any, data: st.DataObject) -> Any:
    """JSON with another value in one place."""
    keys: list[Any] = []
    if isinstance(document, (dict, list)):
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    if not keys or data.draw(st.integers(0, 3)) == 0:
        return data.draw(JSON)
    key = data.draw(st.sampled_from(keys))
    changed = dict(document) if isinstance(document, dict) else list(document)
    changed[key] = with_another_value(changed[key], data)
    return changed


def changed(content: bytes, data: st.DataObject) -> bytes:
    if data.draw(st.booleans()):
        return data.draw(damage(content))
    lines = content.splitlines() if data.draw(st.booleans()) else [content]
    number = data.draw(st.integers(0, len(lines) - 1))
    with suppress(ValueError):
        lines[number] = json.dumps(with_another_value(json.loads(lines[number]), data)).encode()
    return b"\n".join(lines) + b"\n"


@fuzzed
@given(st.data())
def test_a_changed_run_folder(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    for name in data.draw(st.sets(st.sampled_from(FILES), min_size=1, max_size=2)):
        (folder / name).write_bytes(changed((folder / name).read_bytes(), data))
    try:
        run = load_run(folder)
        compare([run, load_run(whole)])
        rank_runs([run])
        if data.draw(st.integers(0, 3)) == 0:
            # takes ten times as long as the rest
            write_report(run)
    except TlacError as error:
        one_line(error)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_shards(write_reported_run(tmp_path_factory.mktemp("shards"), some_run()), 2)


@fuzzed
@given(st.data())
def test_a_changed_shard(sharded: Path, tmp_path: Path, data: st.DataObject) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sharded, folder)
    shard = folder / "predictions" / name_shard(data.draw(st.integers(0, 1)), 2)
    if data.draw(st.booleans()):
        shard.write_bytes(data.draw(damage(shard.read_bytes())))
    else:
        rows = with_another_value(pq.read_table(shard).to_pylist(), data)
        with suppress(pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError, LookupError):
            table = pa.Table.from_pylist(rows, pq.read_schema(shard) if data.draw(st.booleans()) else None)
            pq.write_table(table, shard, use_dictionary=False, store_schema=False)
    for read in (load_run, lambda one: list(read_asked(one / PREDICTIONS))):
        try:
            read(folder)
        except TlacError as error:
            one_line(error)
