"""Ablation: the effects of prompts, encoder, template, matching, method and class order in a factorial of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlac.analysis.compare import PairedDifference
from tlac.errors import UsageError
from tlac.results.record import Run
from tlac.scoring.metrics import Z95
from tlac.scoring.predictions import OUTCOMES
from tlac.types import BoolArray, Float64Array, Outcome

FACTORS = ("prompts", "encoder", "template", "matching", "method", "class order", "choice")


@dataclass(frozen=True, slots=True)
class Effect:
    """A level's mean accuracy on the samples that are compared, and what it changes `against` its factor's first level.

    `difference` is the mean difference in accuracy over the `cells` pairs of runs that differ in nothing else, with
    its 95 % interval over images; both are None for the first level itself.
    """

    factor: str
    level: str
    accuracy: float
    against: str | None
    difference: PairedDifference | None
    cells: int


def effects(runs: Sequence[Run]) -> list[Effect]:
    """The effects of all factors with more than one level, factor by factor, on the samples of `is_compared`.

    The interval is Bonett and Price's adjusted Wald interval for paired proportions (Journal of Educational and
    Behavioral Statistics 37, 2012), with an image's mean difference over cells in place of its difference.
    Raises UsageError as `is_compared` does.
    """
    compared = is_compared(runs)
    cells = {
        tuple(describe_cell(run).values()): run.predictions.is_correct[compared].astype(np.float64) for run in runs
    }
    found = []
    for place, factor in enumerate(FACTORS):
        levels = list(dict.fromkeys(cell[place] for cell in cells))
        if len(levels) < 2:
            continue
        for level in levels:
            own = [hits for cell, hits in cells.items() if cell[place] == level]
            accuracy = float(np.mean(own))
            if level == levels[0]:
                found.append(Effect(factor, level, accuracy, None, None, len(own)))
                continue
            pairs = [
                (hits, cells[other])
                for cell, hits in cells.items()
                if cell[place] == level and (other := (*cell[:place], levels[0], *cell[place + 1 :])) in cells
            ]
            mean = np.mean([hits - base for hits, base in pairs], axis=0)
            found.append(Effect(factor, level, accuracy, levels[0], _interval(mean), len(pairs)))
    return found


def is_compared(runs: Sequence[Run]) -> BoolArray:
    """Which samples (n,) of the runs are compared: labelled ones whose call failed in none of them.

    A non-answer, such as a refusal, counts as wrong. Raises UsageError for runs on different samples, without labels,
    or without such a sample.
    """
    samples = [(list(run.predictions.samples), run.predictions.label.tolist()) for run in runs]
    if any(found != samples[0] for found in samples[1:]):
        raise UsageError("the runs are on different samples: an ablation compares runs on the same ones")
    is_labelled = runs[0].predictions.label >= 0
    if not is_labelled.any():
        raise UsageError(f"{runs[0].record.dataset} has no labels: an ablation compares accuracies")
    failed = OUTCOMES.index(Outcome.FAILED)
    has_failed = np.any([run.predictions.outcome == failed for run in runs], axis=0)
    compared: BoolArray = is_labelled & ~has_failed
    if not compared.any():
        raise UsageError("every labelled sample failed in one of the runs: there is nothing to compare")
    return compared


def describe_cell(run: Run) -> dict[str, str]:
    """A run's level of each factor."""
    record = run.record
    order = "own" if record.shuffle_classes is None else f"seed {record.shuffle_classes}"
    choice = "" if record.choice_by_index is None else ("index" if record.choice_by_index else "name")
    choice = "schema" if record.names_in_schema and choice == "index" else choice
    levels = (record.prompts, record.encoder, record.template, record.matching, record.method, order, choice)
    return dict(zip(FACTORS, levels, strict=True))


def _interval(differences: Float64Array) -> PairedDifference:
    """The mean of (n,) differences in [-1, 1] and its interval: one image for and one against are added."""
    n = len(differences) + 2
    mean = float(differences.sum()) / n
    variance = (float((differences**2).sum()) + 2) / n - mean**2
    half = Z95 * math.sqrt(variance / n)
    return PairedDifference(float(differences.mean()), max(-1.0, mean - half), min(1.0, mean + half))
