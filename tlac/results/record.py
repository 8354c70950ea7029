"""What a run says of itself: its record, what it found of each sample, and how it is summed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlac.errors import TlacError
from tlac.results.table_files import Columns, Row
from tlac.results.usage import CallFacts, Calls, SampleCalls, Tokens, read_calls
from tlac.scoring.confidence import Calibration, confidences
from tlac.scoring.metrics import Metrics
from tlac.scoring.predictions import Predictions

RUN_FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything needed to repeat a run, and what it took: the content of run.json.

    `cost_usd` is what this run paid, `answers_cost_usd` what all its answers cost whenever they were asked; None
    where a price is not known. `classes` are the class names that predictions index, `prompt` names the stage-1
    prompt of the prompt set. `ensemble` names the backends that voted beside the first, `aliases` are further names of
    classes; `abstain_below` and `calibration` as in `RunConfig`. `shuffle_classes` is the seed of the order in which
    stage 2 was shown the class names, None for their own, and `hints` are the class names that stage 1 showed.
    `choice_by_index` says how stage 2 was asked to choose, None where it was not or in older runs; `names_in_schema`:
    by a name, where a schema holds all that are listed (each stored request says which it was). `dataset_notes` say
    what the dataset's loader skipped or missed, `dataset_details` what it chose, such as the columns of a table.
    `sources` are the files that describe backends, encoder, prompts and dataset. `budget_per_image` is the budget in
    USD by which the method's settings were chosen, and what each of its steps was reckoned to cost; empty without one.
    """

    run: str
    created_at: str
    backend: str
    model: str
    stage2_backend: str
    stage2_model: str
    dataset: str
    split: str
    protocol: str
    method: str
    matching: str
    encoder: str
    template: str
    prompts: str
    is_complete: bool
    stopped: str | None
    calls: Calls
    tokens: Tokens
    cost_usd: float | None
    answers_cost_usd: float | None
    wall_s: float
    concurrency: int
    limit: int | None
    seed: int
    truncated_texts: int
    truncated_classes: int
    digests: dict[str, str]
    versions: dict[str, str]
    classes: tuple[str, ...] = field(repr=False)
    parent: str | None = None
    prompt: str = ""
    shuffle_classes: int | None = None
    order_trials: OrderTrials | None = None
    ensemble: tuple[str, ...] = ()
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    abstain_below: float | None = None
    calibration: Calibration | None = None
    shortlist_recall: ShortlistRecall | None = None
    dataset_notes: tuple[str, ...] = ()
    dataset_details: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    choice_by_index: bool | None = None
    names_in_schema: bool = False
    budget_per_image: dict[str, float] = field(default_factory=dict)
    format: int = RUN_FORMAT


SAMPLE_COLUMNS: Columns = {
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
"""The columns of `Run.rows`."""


class _OnDemand:
    """A run's predictions: given, or made by the function that was given when they are first asked for.

    A run of a hundred million samples is measured and written without ever being in memory.
    """

    def __get__(self, run: Run | None, _owner: type[Run]) -> Predictions:
        if run is None:
            # what a dataclass asks for a default
            raise AttributeError
        held: Predictions | Callable[[], Predictions] = run.__dict__["predictions"]
        if callable(held):
            held = run.__dict__["predictions"] = held()
        return held

    def __set__(self, run: Run, value: Predictions | Callable[[], Predictions]) -> None:
        run.__dict__["predictions"] = value


@dataclass(frozen=True)
class Run:
    """A finished run: its record, predictions and metrics, and the folder where they lie."""

    folder: Path
    record: RunRecord
    predictions: _OnDemand = _OnDemand()
    # mypy takes a descriptor for a default
    metrics: Metrics  # type: ignore[misc]

    def calls(self) -> tuple[SampleCalls, ...]:
        """What each sample's answers took; empty where an older run does not tell. Raises InputError."""
        return read_calls(self.folder)

    def rows(self) -> Iterator[Row]:
        """What was found of each sample, in order; cells are None where nothing is known. Raises InputError.

        `is_correct` is None without a label. `candidates` are (class name, score), best first. `cost_usd` is what those
        of its answers cost that no row before has needed, so that the column's sum is what all answers cost;
        `latency_s` sums up the calls that gave its answers, whenever they were made.
        """
        predictions, classes, calls = self.predictions, self.record.classes, self.calls()
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

    @property
    def unread_choices(self) -> int:
        """The samples whose stage-2 answer named no class, so that similarity decided. The paper's rule scores the
        words of every choice, and leaves none unread."""
        return self.metrics.unread_choices if self.record.matching != "paper" else 0

    def to_pandas(self) -> Any:
        """The same as a pandas DataFrame: a row for each sample, in order. Raises InputError."""
        import pandas

        # these types of text and truth know missing cells in every version of pandas
        types: dict[type, str] = {str: "string", bool: "boolean", float: "float64", list: "object"}
        frame = pandas.DataFrame(self.rows(), columns=list(SAMPLE_COLUMNS), dtype="object")
        return frame.astype({name: types[kind] for name, kind in SAMPLE_COLUMNS.items()})


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a matrix and how it ended. `is_reused` runs were there before. `suite` is None outside of suites."""

    suite: str | None
    dataset: str
    split: str
    backend: str
    method: str
    run: Run | None = None
    error: TlacError | None = None
    is_reused: bool = False

    @property
    def title(self) -> str:
        """The cell in words."""
        return f"{describe_part(self.dataset, self.split)} {self.backend} {self.method}".replace("  ", " ")

    @property
    def is_complete(self) -> bool:
        """Whether there is a result that counts."""
        return self.run is not None and self.run.record.is_complete


def describe_part(dataset: str, split: str) -> str:
    """A dataset and its split as results name them."""
    return dataset if split == "all" else f"{dataset} ({split})"


def summary(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    record, metrics = run.record, run.metrics
    settings = ("backend", "model", "stage2_backend", "dataset", "split", "protocol", "method", "matching", "encoder")
    counts = ("n", "answered", "refused", "empty", "truncated", "unparsed", "failed", "abstained")
    return {
        "run": str(run.folder),
        **{name: getattr(record, name) for name in (*settings, "prompts")},
        **{name: getattr(metrics, name) for name in counts},
        "is_complete": record.is_complete,
        **{name: getattr(metrics, name) for name in ("accuracy", "accuracy_ci95", "accuracy_answered")},
        "hints": len(record.hints),
        **{name: getattr(metrics, name) for name in ("unhinted", "accuracy_unhinted", "coverage")},
        **{name: getattr(metrics, name) for name in ("top5", "mean_per_class", "macro_f1")},
        "calibration_error": metrics.confidence.calibration_error if metrics.confidence else None,
        "shortlist": asdict(metrics.shortlist) if metrics.shortlist else None,
        "unread_choices": run.unread_choices,
        "shortlist_recall": asdict(record.shortlist_recall) if record.shortlist_recall else None,
        "by_decision": {decided_by: asdict(values) for decided_by, values in metrics.by_decision.items()},
        "calls": asdict(record.calls),
        "tokens": asdict(record.tokens),
        "cost_usd": record.cost_usd,
        "answers_cost_usd": record.answers_cost_usd,
        "shuffle_classes": record.shuffle_classes,
        "order_trials": asdict(record.order_trials) if record.order_trials else None,
        "wall_s": record.wall_s,
    }


@dataclass(frozen=True, slots=True)
class ShortlistRecall:
    """Of the samples that were shown a shortlist, `known` have a stored choice from the whole list as well, and
    `inside` of these choices stand in the shortlist."""

    known: int
    inside: int


@dataclass(frozen=True, slots=True)
class OrderTrials:
    """How stage 2 chose when it was shown rotated class lists, beside the run's own order.

    `asked` counts the samples that had a stage 2, `failed` those of them with a trial that gave no answer: they
    are left out of what follows. `changed` samples were predicted otherwise in at least one trial;
    `change_rate` is the share of changed predictions among all (sample, trial) pairs, and `accuracies` hold
    the accuracy over the whole run with each trial's choices in place of its own, None without labels.
    """

    trials: int
    asked: int
    failed: int
    changed: int
    change_rate: float | None
    accuracies: tuple[float | None, ...]


def _new_cost(turns: Sequence[CallFacts], counted: set[str]) -> float | None:
    """What those of these answers cost that were not `counted` before; None where not known."""
    new = {one.key: one.cost_usd for one in turns if one.key not in counted}
    counted.update(new)
    return None if not turns or None in new.values() else sum(cost or 0.0 for cost in new.values())
