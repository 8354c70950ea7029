"""What a run found of each image, with the names of classes: rows for files and for data frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tlac.results.calls import CallFacts, SampleCalls
from tlac.results.table_files import Columns, Row
from tlac.scoring.confidence import confidences
from tlac.scoring.predictions import Predictions

COLUMNS: Columns = {
    "sample": str,
    "true_class": str,
    "predicted_class": str,
    "is_correct": bool,
    "confidence": float,
    "candidates": list,
    "answer": str,
    "choice": str,
    "outcome": str,
    "decided_by": str,
    "score": float,
    "margin": float,
    "reason": str,
    "cost_usd": float,
    "latency_s": float,
    "image_sha256": str,
}
"""The columns of `sample_rows`."""


def sample_rows(predictions: Predictions, classes: Sequence[str], calls: Sequence[SampleCalls] = ()) -> Iterator[Row]:
    """One row for each sample, in order; cells are None where nothing is known.

    `is_correct` is None without a label. `candidates` are (class name, score), best first. `cost_usd` is what those of
    its answers cost that no row before has needed, so that the column's sum is what all answers cost; `latency_s` sums
    up the calls that gave its answers, whenever they were made. Both come from `calls`, those of a run's folder.
    """
    decisions = predictions.decisions
    stored = decisions.confidence
    sure = np.where(np.isnan(stored), confidences(decisions), stored)[predictions.decision].tolist()
    # an older run may have none, and those of another run would be others
    is_known = [one.sample for one in calls] == list(predictions.samples)
    found = (one.calls for one in calls) if is_known else iter(((),) * len(predictions))
    counted: set[str] = set()
    for prediction, confidence, turns in zip(predictions, sure, found, strict=True):
        label, predicted = prediction.label, prediction.predicted
        yield {
            "sample": prediction.sample,
            "true_class": None if label is None else classes[label],
            "predicted_class": None if predicted is None else classes[predicted],
            "is_correct": None if label is None else predicted == label,
            "confidence": None if np.isnan(confidence) else confidence,
            "candidates": [(classes[index], score) for index, score in prediction.top5],
            "answer": prediction.answer,
            "choice": prediction.choice,
            "outcome": str(prediction.outcome),
            "decided_by": prediction.decided_by,
            "score": prediction.score,
            "margin": prediction.margin,
            "reason": prediction.reason or None,
            "cost_usd": _new_cost(turns, counted),
            "latency_s": sum(one.latency_s for one in turns) if turns else None,
            "image_sha256": prediction.image_sha256,
        }


def _new_cost(turns: Sequence[CallFacts], counted: set[str]) -> float | None:
    """What those of these answers cost that were not `counted` before; None where not known."""
    new = {one.key: one.cost_usd for one in turns if one.key not in counted}
    counted.update(new)
    return None if not turns or None in new.values() else sum(cost or 0.0 for cost in new.values())
