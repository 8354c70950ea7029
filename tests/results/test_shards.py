"""Predictions as parquet shards: what a line of predictions.jsonl holds, from folders that a stranger may have made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes import digest
from tests.support.reported_runs import prediction, refusal, some_run, with_shards, write_reported_run
from tlac.errors import ConfigError, InputError
from tlac.results.folder import load_run
from tlac.results.predictions import PREDICTIONS, encode_predictions, name_shard, read_asked, read_predictions
from tlac.results.usage import read_calls
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions
from tlac.types import Prediction

pa = pytest.importorskip("pyarrow", reason="pyarrow comes with the extra: pip install 'tlac[ray]'")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = (
    prediction(0, 0, 1, words=(1, 2), reason="", logprob=-0.25),
    refusal(1, 2),
    replace(prediction(2, 3, 0), label=None, shortlist=(0, 2), stage2_with_image=True, second=-1.0, confidence=1.0),
    prediction(3, 1, 2, votes=(2, None, 2), further=((1, "stage1", digest("a")), (-1, "stage2", digest("b")))),
    replace(prediction(4, 1, 2), answer="é\u2028\n\x00", choice=None, stage2_key=None, top5=()),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_shards(write_reported_run(tmp_path / "runs", some_run()), 3)


def lines(rows: Iterable[Prediction]) -> bytes:
    return b"".join(encode_predictions(Predictions.of(rows)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_hold_what_lines_do(tmp_path: Path, count: int) -> None:
    run = some_run()
    plain = write_reported_run(tmp_path / "plain", replace(run, predictions=Predictions.of(ROWS)))
    before, asked = lines(read_predictions(plain / PREDICTIONS)), list(read_asked(plain / PREDICTIONS))
    folder = with_shards(plain, count)
    assert sorted(path.name for path in (folder / "predictions").iterdir()) == [
        f"{place:05d}-of-{count:05d}.parquet" for place in range(count)
    ]
    assert before == lines(read_predictions(folder / PREDICTIONS)) == lines(ROWS)
    assert list(read_asked(folder / PREDICTIONS)) == asked


def test_others_read_a_shard_as_a_table_of_columns(tmp_path: Path) -> None:
    folder = with_shards(write_reported_run(tmp_path, replace(some_run(), predictions=Predictions.of(ROWS))), 1)
    rows = pq.read_table(folder / "predictions").to_pylist()
    assert [row["sample"] for row in rows] == [row.sample for row in ROWS]
    assert [row["predicted"] for row in rows] == [1, None, 0, 2, 2]
    assert rows[3]["further"][0] == {"member": 1, "stage": "stage1", "key": digest("a")}
    assert rows[0]["top5"][0] == {"class": 1, "score": ROWS[0].score}
    assert (rows[3]["votes"], rows[0]["rung"]) == ([2, None, 2], ROWS[0].decided_by)


def test_a_run_of_shards_is_loaded_as_one_of_lines_is(folder: Path) -> None:
    run, again = some_run(), load_run(folder)
    assert (again.predictions, again.metrics) == (run.predictions, measure(run.predictions))
    assert list(again.rows()) == [*load_run(folder).rows()]
    assert [one.sample for one in read_calls(folder)] == list(run.predictions.samples)


def test_a_missing_package_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"00000-of-00003.parquet: .*pip install 'tlac\[ray\]'"):
        load_run(folder)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda shards: (shards / name_shard(2, 3)).unlink(), r"00002-of-00003.parquet: is missing; have the run made"),
        (lambda shards: (shards / name_shard(0, 3)).unlink(), r"00000-of-00003.parquet: is missing"),
        (lambda shards: (shards / name_shard(0, 2)).write_bytes(b""), r"00000-of-00003.parquet: is missing"),
        (lambda shards: (shards / name_shard(5, 3)).write_bytes(b""), r"'00005-of-00003.parquet' is of another run"),
        (lambda shards: (shards / "notes.txt").write_text(""), r"'notes.txt' is no shard of predictions: move it away"),
        (lambda shards: (shards.parent / PREDICTIONS).write_text(""), r"predictions.jsonl: stands beside the folder"),
        (lambda shards: [path.unlink() for path in shards.iterdir()], r"00000-of-00001.parquet: is missing"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(folder: Path, spoil: Callable[[Path], Any], complaint: str) -> None:
    spoil(folder / "predictions")
    with pytest.raises(InputError, match=complaint):
        load_run(folder)


def rewrite(folder: Path, change: Callable[[Any], Any], **options: Any) -> None:
    """The first shard with another table in it."""
    path = folder / "predictions" / name_shard(0, 3)
    how = {"use_dictionary": False, "store_schema": False} | options
    pq.write_table(change(pq.read_table(path)), path, **how)


def with_cells(name: str, kind: Any, cell: Any) -> Callable[[Any], Any]:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array([cell] * len(table), kind))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda table: table.drop_columns(["choice"]), "the column choice is missing"),
        (lambda table: table.append_column("more", table["sample"]), "the column 'more' is none of a run's"),
        (with_cells("score", pa.string(), "0.9"), "the column score holds string, and not double"),
        (with_cells("top5", pa.list_(pa.float64()), [1.0]), "the column top5 holds list"),
        (with_cells("label", pa.int32(), -2), "row 1: .*label"),
        (with_cells("score", pa.float64(), float("nan")), "row 1: .*score"),
        (with_cells("score", pa.float64(), None), "row 1: .*a predicted class without score and margin"),
        (with_cells("stage1_key", pa.string(), "../../secret"), "row 1: .*stage1_key"),
        (with_cells("rung", pa.string(), "<b>"), "row 1: .*rung"),
        (with_cells("outcome", pa.string(), "splendid"), "row 1: .*outcome"),
        (with_cells("sample", pa.string(), None), "row 1: .*sample"),
        (with_cells("words", pa.list_(pa.int32()), [None]), "row 1: .*words"),
        (with_cells("confidence", pa.float64(), 1.5), "row 1: .*confidence"),
    ],
)
def test_a_row_that_no_run_writes_is_refused(folder: Path, change: Callable[[Any], Any], complaint: str) -> None:
    rewrite(folder, change)
    with pytest.raises(InputError, match=f"00000-of-00003.parquet: .*{complaint}") as told:
        load_run(folder)
    assert "\n" not in str(told.value)


def test_a_class_outside_of_the_list_is_refused(folder: Path) -> None:
    rewrite(folder, with_cells("predicted", pa.int32(), 4))
    with pytest.raises(InputError, match=r"a class outside the 4 that run\.json lists"):
        load_run(folder)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"use_dictionary": True}, "encoded by a dictionary"),
        # a package that knows the types which it names may run what comes with them
        ({"store_schema": True}, "a schema of its own"),
    ],
)
def test_a_file_that_could_do_more_than_it_says_is_not_read(folder: Path, options: Any, complaint: str) -> None:
    rewrite(folder, lambda table: table, **options)
    with pytest.raises(InputError, match=f"00000-of-00003.parquet: .*{complaint}"):
        load_run(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 8 + b"PAR1", b"\x00" * 100, b"PAR1\0\0\0\0PAR1"])
def test_what_is_no_parquet_is_refused(folder: Path, content: bytes) -> None:
    (folder / "predictions" / name_shard(1, 3)).write_bytes(content)
    with pytest.raises(InputError, match=r"00001-of-00003\.parquet: .*no parquet file"):
        load_run(folder)


def test_a_shard_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    shard = folder / "predictions" / name_shard(1, 3)
    shard.rename(tmp_path / "mine")
    shard.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is a link"):
        load_run(folder)
    shard.unlink()
    (folder / "predictions").rename(tmp_path / "ours")
    (folder / "predictions").symlink_to(tmp_path / "ours")
    with pytest.raises(InputError, match="a link, which is not followed"):
        load_run(folder)
