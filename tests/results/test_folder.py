from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import made_runs
from tests.support.fakes import digest
from tests.support.made_runs import write_run
from tlac.errors import InputError, TlacError
from tlac.results.folder import name_run, read_record
from tlac.results.predictions import encode_predictions, read_predictions
from tlac.results.record import Run, summary
from tlac.results.usage import Tokens
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome, Prediction

PREDICTIONS = (
    Prediction(
        "a.jpg",
        digest("image"),
        0,
        Outcome.ANSWERED,
        "a\u2028car",
        "red car",
        "choice",
        0,
        0.5,
        0.1,
        ((0, 0.5), (1, 0.4)),
        digest("k"),
        digest("l"),
    ),
    Prediction("b.jpg", None, 1, Outcome.FAILED, None, None, None, None, None, None, (), None, None, reason="time-out"),
)
RECORD = replace(
    made_runs.RECORD,
    is_complete=False,
    tokens=Tokens(30, 4, 0),
    cost_usd=0.25,
    answers_cost_usd=None,
    digests={},
    classes=("red car", "old car"),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", RECORD, PREDICTIONS, measure(PREDICTIONS), {"report.html": b"<p>page</p>"})
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "report.html",
        "run.json",
    ]
    assert read_record(folder) == RECORD
    assert tuple(read_predictions(folder / "predictions.jsonl")) == PREDICTIONS


def test_a_prediction_is_one_line_with_the_documented_keys() -> None:
    (line,) = encode_predictions(Predictions.of(PREDICTIONS[:1]))
    assert list(json.loads(line))[:13] == [
        "sample", "image_sha256", "label", "outcome", "answer", "choice", "rung",
        "predicted", "score", "margin", "top5", "stage1_key", "stage2_key",
    ]  # fmt: skip
    assert line.count(b"\n") == 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_run(tmp_path, RECORD, PREDICTIONS, measure(PREDICTIONS), {})
    folders = [write_run(tmp_path, RECORD, (), measure(()), {}) for _ in range(2)]
    assert [(folder.name, read_record(folder).run) for folder in folders] == [("one-2", "one-2"), ("one-3", "one-3")]
    assert len(list(read_predictions(tmp_path / "one" / "predictions.jsonl"))) == 2


def test_a_crash_in_writing_leaves_no_half_folder(tmp_path: Path) -> None:
    def breaking():
        yield PREDICTIONS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path, RECORD, breaking(), measure(PREDICTIONS), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no rights of this kind")
@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_a_run_folder_keeps_to_the_umask(tmp_path: Path, umask: int, folder_mode: int, file_mode: int) -> None:
    before = os.umask(umask)
    try:
        folder = write_run(tmp_path, RECORD, PREDICTIONS, measure(PREDICTIONS), {"report.html": b"<p>page</p>"})
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == folder_mode
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {file_mode}


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".unfinished-0123"
    left.mkdir()
    (left / "predictions.jsonl").write_text("half")
    os.utime(left, (1, 1))
    folder = write_run(tmp_path, RECORD, PREDICTIONS, measure(PREDICTIONS), {})
    assert list(tmp_path.iterdir()) == [folder]


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TlacError, match="choose another --out"):
        write_run(tmp_path / "file", RECORD, PREDICTIONS, measure(PREDICTIONS), {})


def test_names_are_safe_for_every_file_system() -> None:
    assert name_run("20300101", "folder:/a b/../c", "gpt-4o") == "20300101-folder-a-b-..-c-gpt-4o"


@pytest.mark.parametrize("text", ["{", '{"sample": 1}', "\xff", "[]"])
def test_broken_predictions_name_file_and_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b"".join(encode_predictions(Predictions.of(PREDICTIONS[:1]))) + text.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"predictions.jsonl: line 2"):
        list(read_predictions(path))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("image_sha256", '"../../secret"', "image_sha256"),
        ("stage1_key", '"<b>"', "stage1_key"),
        ("rung", '"<b>"', "rung"),
        ("label", "4294967296", "label"),
        ("predicted", "-1", "predicted"),
        ("score", "null", "a predicted class without score and margin"),
        ("margin", "null", "a predicted class without score and margin"),
    ],
)
def test_a_line_that_no_run_writes_is_refused(tmp_path: Path, field: str, value: str, complaint: str) -> None:
    (line,) = encode_predictions(Predictions.of(PREDICTIONS[:1]))
    path = tmp_path / "predictions.jsonl"
    own = json.dumps(json.loads(line)[field], ensure_ascii=False)
    path.write_bytes(line.replace(f'"{field}":{own}'.encode(), f'"{field}":{value}'.encode()))
    with pytest.raises(InputError, match=rf"predictions.jsonl: line 1: .*{complaint}"):
        read_predictions(path)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is .* a run folder"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="not a run record"):
        read_record(tmp_path)


def test_the_summary_has_the_documented_keys(tmp_path: Path) -> None:
    run = Run(tmp_path, replace(RECORD, is_complete=True), PREDICTIONS, measure(PREDICTIONS))
    found = summary(run)
    assert {
        "run", "backend", "model", "dataset", "split", "method", "matching", "encoder", "prompts", "n", "answered",
        "refused", "empty", "truncated", "unparsed", "failed", "is_complete", "accuracy", "accuracy_ci95",
        "accuracy_answered", "coverage", "top5", "mean_per_class", "calls", "tokens", "cost_usd", "wall_s",
    } <= found.keys()  # fmt: skip
    assert found["calls"] == {"stage1": {"asked": 2, "from_store": 0}, "stage2": {"asked": 1, "from_store": 0}}
    assert found["tokens"] == {"prompt": 30, "completion": 4, "cached": 0}
    json.dumps(found)
