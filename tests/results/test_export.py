"""What runs found of each image, as rows, data frames and files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pandas
import pyarrow.parquet
import pytest

import tlac
from tests.support.fakes import digest
from tests.support.made_runs import RECORD, made_prediction, write_run
from tlac.results.usage import CallFacts, SampleCalls, encode_calls
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome

COLUMNS = (
    *("sample", "true_class", "predicted_class", "is_correct", "confidence", "candidates", "answer", "choice"),
    *("outcome", "decided_by", "score", "margin", "reason", "cost_usd", "latency_s", "image_sha256"),
)


def call(key: str, cost_usd: float | None, latency_s: float = 1.0) -> CallFacts:
    return CallFacts("stage1", digest(key), latency_s, cost_usd, 10, 5, False)


CALLS = (
    SampleCalls("a.png", (call("1", 0.5), call("choice", 0.25, 0.5))),
    # the words differ, and the second question is the same
    SampleCalls("b.png", (call("2", 0.125), call("choice", 0.25, 0.5))),
    SampleCalls("c.png", (call("3", None),)),
    SampleCalls("d.png"),
)


# as many as there are samples, and none of them
OTHERS = b"".join(encode_calls(SampleCalls(f"other-{call.sample}", call.calls) for call in CALLS))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    predictions = Predictions.of(
        [
            made_prediction("a.png", 0, 0, answer="=a red car", top5=((0, 0.5), (2, 0.25)), confidence=0.75),
            made_prediction("b.png", 1, 0),
            made_prediction("c.png", None, 2),
            made_prediction("d.png", 2, None, outcome=Outcome.FAILED, reason="the server is gone", answer=None),
        ]
    )
    files = {"calls.jsonl": encode_calls(CALLS)}
    return write_run(tmp_path / "runs", RECORD, predictions, measure(predictions), files)


def known(column: pandas.Series) -> list[object]:
    """The cells of a column, None for those that are missing."""
    return [None if pandas.isna(cell) else cell for cell in column]


def test_a_run_is_read_as_a_data_frame_with_the_names_of_classes(run: Path) -> None:
    frame = tlac.load_run(str(run)).to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert known(frame["true_class"]) == ["red car", "old car", None, "lorry"]
    assert known(frame["predicted_class"]) == ["red car", "red car", "lorry", None]
    assert known(frame["is_correct"]) == [True, False, None, False]
    assert frame["candidates"][0] == [("red car", 0.5), ("lorry", 0.25)]
    assert frame["outcome"].tolist() == ["answered", "answered", "answered", "failed"]
    assert known(frame["reason"]) == [None, None, None, "the server is gone"]
    assert frame["confidence"][0] == 0.75
    assert 0 < frame["confidence"][1] < 1
    assert math.isnan(frame["confidence"][3])
    # means over columns go without conversion
    assert frame["is_correct"].mean() == pytest.approx(1 / 3)


def test_an_answer_that_samples_share_costs_once_and_an_unknown_price_is_none(run: Path) -> None:
    rows = list(tlac.load_run(run).rows())
    assert [row["cost_usd"] for row in rows] == [0.75, 0.125, None, None]
    assert [row["latency_s"] for row in rows] == [1.5, 1.5, 1.0, None]


@pytest.mark.parametrize("calls", [b"", b'{"sample":"other.png","calls":[]}\n', OTHERS])
def test_without_the_calls_of_these_samples_nothing_is_said_of_cost(run: Path, calls: bytes) -> None:
    (run / "calls.jsonl").write_bytes(calls)
    assert {(row["cost_usd"], row["latency_s"]) for row in tlac.load_run(run).rows()} == {(None, None)}


def test_export_writes_the_same_cells_in_every_format(tlac_command, run: Path, tmp_path: Path) -> None:
    for kind in ("csv", "parquet", "jsonl"):
        shown = tlac_command("export", run, "-o", tmp_path / f"out.{kind}")
        assert (shown.code, shown.err) == (0, "")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    parquet = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(table[0]) == list(lines[0]) == list(parquet[0]) == ["run", "dataset", "backend", "method", *COLUMNS]
    assert [row["run"] for row in table] == ["one"] * 4
    # a spreadsheet must not take an answer for a formula; the others keep it as it was
    assert [rows[0]["answer"] for rows in (table, lines, parquet)] == ["'=a red car", "=a red car", "=a red car"]
    assert [row["is_correct"] for row in table] == ["true", "false", "", "false"]
    assert [row["is_correct"] for row in lines] == [row["is_correct"] for row in parquet] == [True, False, None, False]
    assert json.loads(table[0]["candidates"]) == lines[0]["candidates"] == [["red car", 0.5], ["lorry", 0.25]]
    assert parquet[0]["candidates"] == [{"class": "red car", "score": 0.5}, {"class": "lorry", "score": 0.25}]
    assert [row["cost_usd"] for row in table] == ["0.75", "0.125", "", ""]


def test_export_takes_folders_of_runs_and_names_what_it_can_not_use(tlac_command, run: Path, tmp_path: Path) -> None:
    shown = tlac_command("export", run.parent, run, "-o", tmp_path / "out.jsonl")
    assert shown.code == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4
    (tmp_path / "empty").mkdir()
    assert "holds no run" in tlac_command("export", tmp_path / "empty", "-o", tmp_path / "out.csv").err
    shown = tlac_command("export", run, "-o", tmp_path / "out.xlsx")
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert "unknown file format 'xlsx'" in shown.err
