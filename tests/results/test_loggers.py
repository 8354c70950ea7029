"""Runs in experiment trackers, each in its own local mode; what is not installed is skipped."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import PIL.Image
import pytest

from tests.support.fakes import digest
from tests.support.made_runs import made_prediction, made_run, write_run
from tlac.errors import ConfigError
from tlac.results.folder import load_run
from tlac.results.loggers import metrics_of, open_wandb, settings_of, shown_rows, title_of
from tlac.results.record import Run

ROOT = Path(__file__).parents[2]


def thumbnail() -> bytes:
    content = BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(content, "WEBP")
    return content.getvalue()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = made_run([(0, 0), (0, 1), (2, None)], backend="pack:cars", limit=3)
    files = {f"thumbnails/{digest('1.png')}.webp": thumbnail()}
    return load_run(write_run(tmp_path / "runs", made.record, made.predictions, made.metrics, files))


def test_settings_and_metrics_are_plain_values_and_hold_only_what_is_known(run: Run) -> None:
    settings = settings_of(run)
    chosen = [settings[name] for name in ("backend", "method", "limit", "is_complete")]
    assert chosen == ["pack:cars", "tlac", 3, True]
    assert not {"classes", "calls", "answers_cost_usd", "parent"} & settings.keys()
    metrics = metrics_of(run)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["accuracy_low"] < 1 / 3 < metrics["accuracy_high"]
    assert (metrics["answers_cost_usd"], metrics["n"]) == (1.0, 3.0)
    assert "cost_usd" not in metrics_of(replace(run, record=replace(run.record, cost_usd=None)))


def test_the_rows_most_worth_looking_at_come_first_with_their_thumbnails(run: Run) -> None:
    rows = list(shown_rows(run))
    assert [row["sample"] for row, _ in rows] == ["2.png", "1.png", "0.png"]
    assert [picture.size if picture else None for _, picture in rows] == [None, (8, 8), None]
    assert title_of(run) == "samples"


def test_a_table_that_does_not_hold_all_samples_says_so() -> None:
    large = made_run([(0, 0)] * 300)
    assert len(list(shown_rows(large))) == 200
    assert title_of(large) == "200 of 300 samples, wrong and doubtful ones first"


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"--log wandb needs a package: pip install 'tlac\[wandb\]'"):
        open_wandb()


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skip without these packages; they are imported in another process alone."""
    missing = [name for name in packages if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def log_apart(opener: str, run: Path, folder: Path, **environment: str) -> None:
    """Log a run in a process of its own: trackers read the environment once, and leave threads and loggers behind."""
    script = (
        "import sys; from tlac import load_run; from tlac.results import loggers\n"
        "getattr(loggers, sys.argv[1])()(load_run(sys.argv[2]))"
    )
    own = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), **environment}
    command = [sys.executable, "-c", script, opener, str(run)]
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs("trackio")
def test_trackio_keeps_a_run_on_this_machine(run: Run, tmp_path: Path) -> None:
    answer = "**bold** [a link](http://127.0.0.1:9)"
    record = replace(run.record, run="two")
    folder = write_run(tmp_path / "runs", record, [made_prediction("0.png", 0, 1, answer=answer)], run.metrics, {})
    log_apart("open_trackio", folder, tmp_path, TRACKIO_DIR=str(tmp_path / "kept"))
    with closing(sqlite3.connect(tmp_path / "kept" / "tlac.db")) as database:
        ((name, metrics),) = database.execute("select run_name, metrics from metrics").fetchall()
    assert name == "two"
    logged = json.loads(metrics)
    assert logged["accuracy"] == 0.0
    (row,) = logged["samples"]["_value"]
    assert (row["true_class"], row["predicted_class"]) == ("red car", "old car")
    # it shows text as Markdown
    assert row["answer"] == "\\*\\*bold\\*\\* \\[a link\\](http://127.0.0.1:9)"
    kept = {path.read_bytes() for path in (tmp_path / "kept" / "artifacts").rglob("*") if path.is_file()}
    assert (folder / "predictions.jsonl").read_bytes() in kept


@pytest.mark.slow
@needs("mlflow", "alembic")
@pytest.mark.parametrize("has_all_thumbnails", [True, False])
def test_mlflow_keeps_a_run_in_a_local_store(run: Run, tmp_path: Path, has_all_thumbnails: bool) -> None:
    if has_all_thumbnails:
        for name in ("0.png", "2.png"):
            (run.folder / "thumbnails" / f"{digest(name)}.webp").write_bytes(thumbnail())
    log_apart("open_mlflow", run.folder, tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        ((name, status, artifacts),) = store.execute("select name, status, artifact_uri from runs").fetchall()
        settings = dict(store.execute("select key, value from params").fetchall())
        metrics = dict(store.execute("select key, value from metrics").fetchall())
        assert ("tlac",) in store.execute("select name from experiments").fetchall()
    assert (name, status) == ("one", "FINISHED")
    assert settings["backend"] == "pack:cars"
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    place = Path(artifacts)
    assert (place / "run" / "predictions.jsonl").read_bytes() == (run.folder / "predictions.jsonl").read_bytes()
    table = json.loads((place / "samples.json").read_text())
    assert table["columns"][0] == "sample"
    assert [row[0] for row in table["data"]] == ["2.png", "1.png", "0.png"]
    assert ("image" in table["columns"]) is has_all_thumbnails


@pytest.mark.slow
@needs("wandb")
def test_wandb_keeps_a_run_offline(run: Run, tmp_path: Path) -> None:
    log_apart("open_wandb", run.folder, tmp_path, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (kept,) = folder.glob("*.wandb")
    content = kept.read_bytes()
    for words in (b"pack:cars", b"accuracy_low", b"predictions.jsonl"):
        assert words in content
    (table,) = (folder / "files" / "media" / "table").glob("samples*.json")
    rows = json.loads(table.read_text())
    assert rows["columns"][:3] == ["image", "sample", "true_class"]
    assert [row[1] for row in rows["data"]] == ["2.png", "1.png", "0.png"]
