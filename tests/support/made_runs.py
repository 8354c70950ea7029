"""Runs made by hand, for the tests of what is done with finished runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from tests.support.fakes import digest
from tlac.evaluation.run_config import RunConfig, RunResult
from tlac.results import folder
from tlac.results.folder import Attachment
from tlac.results.record import Run, RunRecord
from tlac.results.usage import Calls, StageCalls, Tokens
from tlac.scoring.confidence import Calibration, confidences
from tlac.scoring.metrics import Counts, Metrics, measure
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome, Prediction

RECORD = RunRecord(
    run="one",
    created_at="2030-01-01T00:00:00+00:00",
    backend="fake",
    model="m",
    stage2_backend="fake",
    stage2_model="m",
    dataset="cars",
    split="all",
    protocol="ours",
    method="tlac",
    matching="ladder",
    encoder="letters",
    template="{}",
    prompts="default",
    is_complete=True,
    stopped=None,
    calls=Calls(StageCalls(2, 0), StageCalls(1, 0)),
    tokens=Tokens(),
    cost_usd=0.0,
    answers_cost_usd=1.0,
    wall_s=1.5,
    concurrency=4,
    limit=None,
    seed=0,
    truncated_texts=0,
    truncated_classes=0,
    digests={"dataset": "d"},
    versions={},
    classes=("red car", "old car", "lorry"),
)


def write_run(
    out: Path,
    record: RunRecord,
    predictions: Iterable[Prediction],
    metrics: Metrics,
    attachments: Mapping[str, Attachment],
) -> Path:
    return folder.write_run(out, record, Predictions.of(predictions), metrics, attachments).folder


def made_prediction(sample: str, label: int | None, predicted: int | None, **changes: object) -> Prediction:
    outcome = Outcome.ANSWERED if predicted is not None else Outcome.REFUSED
    top = ((predicted, 0.5),) if predicted is not None else ()
    decided_by = "similarity" if predicted is not None else None
    made = Prediction(
        sample, digest(sample), label, outcome, "x", None, decided_by, predicted, 0.5, 0.1, top, digest("k"), None
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def made_run(pairs: Sequence[tuple[int | None, int | None]], **changes: object) -> Run:
    """A run whose samples have these labels and predictions; `changes` go into its record."""
    predictions = Predictions.of(made_prediction(f"{number}.png", *pair) for number, pair in enumerate(pairs))
    record = replace(RECORD, **changes)  # type: ignore[arg-type]
    return Run(Path("runs") / record.run, record, predictions, measure(predictions))


def written(run: Run, out: Path) -> Path:
    """The run as a folder in `out`."""
    return write_run(out, run.record, run.predictions, run.metrics, {})


def record_of(config: RunConfig) -> RunRecord:
    """The record of a run of that config which came to nothing."""
    result = RunResult(Predictions.of(()), Counts.of(Predictions.of(())), 0, 0)
    return config.record(result, measure(()), datetime.now(timezone.utc), 0.0)


def confidence_of(prediction: Prediction, calibration: Calibration | None = None) -> float | None:
    """A prediction's confidence, None where it has no class."""
    (found,) = confidences(Predictions.of([prediction]).decisions, calibration).tolist()
    return None if math.isnan(found) else found
