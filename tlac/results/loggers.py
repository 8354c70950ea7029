"""Finished runs in experiment trackers: settings, metrics, a table with thumbnails, and the run folder's files.

    log = open_mlflow()
    log(load_run("runs/20300101-120000-caltech101-gemini-tlac"))

Each `open_` function stands behind an entry point of the group `tlac.loggers`: called with nothing, it gives a function
that is called with each finished run. Where a tracker keeps what it is given is said to it as ever, such as by
MLFLOW_TRACKING_URI or WANDB_MODE=offline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import PIL.Image

from tlac.errors import ConfigError
from tlac.images import open_image
from tlac.results.folder import find_thumbnails, read_thumbnail
from tlac.results.record import Run
from tlac.runtime.formatting import escape_markdown

RunLogger: TypeAlias = Callable[[Run], None]

PROJECT = "tlac"
# a tracker's table is for a glance: all samples stand in the files
_MOST_ROWS = 200
_COSTS = ("cost_usd", "answers_cost_usd", "wall_s")
_NO_SETTINGS = ("run", "created_at", "format", *_COSTS)
_SHOWN = ("sample", "true_class", "predicted_class", "is_correct", "confidence", "answer", "outcome", "decided_by")


def open_mlflow() -> RunLogger:
    """Log runs to MLflow, by default into the experiment `tlac`. Raises ConfigError without the package."""
    return partial(_log_to_mlflow, _import("mlflow"))


def open_wandb() -> RunLogger:
    """Log runs to Weights & Biases, by default into the project `tlac`. Raises ConfigError without the package."""
    return partial(_log_to_wandb, _import("wandb"))


def open_trackio() -> RunLogger:
    """Log runs to Trackio, by default into the project `tlac`. Raises ConfigError without the package."""
    return partial(_log_to_trackio, _import("trackio"))


def _log_to_mlflow(mlflow: Any, run: Run) -> None:
    client = mlflow.MlflowClient()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(name)
    place = experiment.experiment_id if experiment else client.create_experiment(name)
    # the client, as the module's own functions set what holds for the whole process
    run_id = client.create_run(place, run_name=run.record.run).info.run_id
    for key, value in settings_of(run).items():
        client.log_param(run_id, key, value)
    for key, value in metrics_of(run).items():
        client.log_metric(run_id, key, value)
    rows, pictures = zip(*shown_rows(run), strict=True)
    columns = {name: [row[name] for row in rows] for name in _SHOWN}
    if all(pictures):
        # it refuses a column in which some have none
        columns["image"] = [mlflow.Image(picture) for picture in pictures]
    client.log_table(run_id, columns, f"{title_of(run)}.json")
    client.log_artifacts(run_id, str(run.folder), "run")
    client.set_terminated(run_id, "FINISHED" if run.record.is_complete else "FAILED")


def _log_to_wandb(wandb: Any, run: Run) -> None:
    # "off": what tlac prints is not the tracker's
    quiet = wandb.Settings(console="off", silent=True)
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    with wandb.init(project=project, name=run.record.run, config=settings_of(run), settings=quiet) as logged:
        table = wandb.Table(columns=["image", *_SHOWN])
        for row, picture in shown_rows(run):
            table.add_data(picture and wandb.Image(picture), *row.values())
        logged.log({**metrics_of(run), title_of(run): table})
        files = wandb.Artifact(run.record.run, type="run")
        files.add_dir(str(run.folder))
        logged.log_artifact(files)


def _log_to_trackio(trackio: Any, run: Run) -> None:
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    logged = trackio.init(project, name=run.record.run, config=settings_of(run), embed=False, auto_log_gpu=False)
    try:
        table = [
            # it shows text as Markdown, and an LMM's words are anybody's
            {name: escape_markdown(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
            | {"image": picture and trackio.Image(picture)}
            for row, picture in shown_rows(run)
        ]
        columns = ["image", *_SHOWN]
        cells = [[row[name] for name in columns] for row in table]
        trackio.log({**metrics_of(run), title_of(run): trackio.Table(columns, cells)})
        trackio.log_artifact(run.folder, name=run.record.run, type="run")
    finally:
        logged.finish()


def settings_of(run: Run) -> dict[str, str | int | float]:
    """The settings of a run that are one value each, by name."""
    found = {one.name: getattr(run.record, one.name) for one in fields(run.record) if one.name not in _NO_SETTINGS}
    return {name: value for name, value in found.items() if isinstance(value, (str, int, float)) and value != ""}


def metrics_of(run: Run) -> dict[str, float]:
    """What was measured, and what it cost, by name; nothing for what is not known."""
    metrics, record = run.metrics, run.record
    shares = ("accuracy", "accuracy_answered", "coverage", "top5", "mean_per_class", "macro_f1")
    found = {name: getattr(metrics, name) for name in (*shares, "n", "answered", "failed")}
    found |= dict(zip(("accuracy_low", "accuracy_high"), metrics.accuracy_ci95 or (), strict=False))
    found |= {name: getattr(record, name) for name in _COSTS}
    return {name: float(value) for name, value in found.items() if value is not None}


def title_of(run: Run) -> str:
    """The name of the table of a run, which says whether it holds all samples."""
    count = len(run.predictions)
    return "samples" if count <= _MOST_ROWS else f"{_MOST_ROWS} of {count} samples, wrong and doubtful ones first"


def shown_rows(run: Run) -> Iterator[tuple[dict[str, Any], PIL.Image.Image | None]]:
    """Some columns of the samples that are most worth looking at, each with its thumbnail where there is one."""
    rows = sorted(run.rows(), key=lambda row: (row["is_correct"] is True, row["confidence"] or 0.0))
    thumbnails = find_thumbnails(run.folder)
    for row in rows[:_MOST_ROWS]:
        file = thumbnails.get(row["image_sha256"] or "")
        yield {name: row[name] for name in _SHOWN}, _picture(file) if file else None


def _picture(file: Path) -> PIL.Image.Image | None:
    content = read_thumbnail(file)
    return open_image(content, file.name) if content else None


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(f"--log {package} needs a package: pip install 'tlac[{package}]'") from error
