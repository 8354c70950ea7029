"""Compares runs on the samples that they share: who is right where the other is wrong, and whether it is chance.

Does not know how runs are made or shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tlac.analysis.statistics import (
    Paired,
    PairedDifference,
    cost_per_correct,
    holm,
    kappa,
    mcnemar,
    pair,
    paired_difference,
)
from tlac.errors import InputError, UsageError
from tlac.results.record import Run
from tlac.scoring.metrics import wilson_interval
from tlac.types import BoolArray, Outcome, Prediction


@dataclass(frozen=True, slots=True)
class Standing:
    """One run on the shared samples: right answers, accuracy in [0, 1] with its 95 % interval, and the cost of the
    whole run's answers over its own right ones, None where a price is not known."""

    run: Run
    correct: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    cost_per_correct_usd: float | None


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two runs, by their places among the standings: first less second.

    `p` is McNemar's exact p-value, `p_holm` the same corrected for all pairs; `kappa` the agreement of what they
    predicted, None where it is not defined. `only_first` and `only_second` are the samples that one alone got right.
    """

    first: int
    second: int
    paired: Paired
    difference: PairedDifference
    p: float
    p_holm: float
    kappa: float | None
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs on the `n` samples that all of them have an answer or non-answer for.

    `left_out` samples stand in some runs only, `failed` ones have a failed call in at least one.
    """

    n: int
    left_out: int
    failed: int
    standings: tuple[Standing, ...]
    pairings: tuple[Pairing, ...]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare every pair of runs on the labelled samples that all of them share: same id, image and label.

    Samples whose call failed in a run are left out: asking again may still give their answer. A non-answer, such
    as a refusal, counts as wrong. Raises UsageError for fewer than two runs, InputError for runs that don't
    compare.
    """
    if len(runs) < 2:
        raise UsageError("compare needs at least two runs: name two run folders")
    _require_comparable(runs)
    rows = [
        {(one.sample, one.image_sha256, one.label): one for one in run.predictions if one.label is not None}
        for run in runs
    ]
    known = set().union(*rows)
    common = [key for key in rows[0] if all(key in row for row in rows[1:])]
    shared = [key for key in common if all(row[key].outcome is not Outcome.FAILED for row in rows)]
    if not shared:
        raise InputError(f"{_names(runs)}: no labelled sample in common: compare runs on the same images")
    right = [np.array([row[key].predicted == row[key].label for key in shared], np.bool_) for row in rows]
    chosen = [np.array([_chosen(row[key]) for key in shared], np.int64) for row in rows]
    samples = [sample for sample, _, _ in shared]
    places = list(combinations(range(len(runs)), 2))
    tables = [pair(right[first], right[second]) for first, second in places]
    p_values = [mcnemar(table) for table in tables]
    corrected = holm(p_values)
    pairings = [
        Pairing(
            first=first,
            second=second,
            paired=table,
            difference=paired_difference(table),
            p=p_value,
            p_holm=p_holm,
            kappa=kappa(chosen[first], chosen[second]),
            only_first=_where(right[first] & ~right[second], samples),
            only_second=_where(right[second] & ~right[first], samples),
        )
        for (first, second), table, p_value, p_holm in zip(places, tables, p_values, corrected, strict=True)
    ]
    return Comparison(
        n=len(shared),
        left_out=len(known) - len(common),
        failed=len(common) - len(shared),
        standings=tuple(_standing(run, int(flags.sum()), len(shared)) for run, flags in zip(runs, right, strict=True)),
        pairings=tuple(pairings),
    )


def _require_comparable(runs: Sequence[Run]) -> None:
    first = runs[0].record
    for record in (run.record for run in runs[1:]):
        for what, ours, theirs in (
            ("class lists", first.classes, record.classes),
            ("protocols", first.protocol, record.protocol),
            ("splits", first.split, record.split),
        ):
            if ours != theirs:
                raise InputError(
                    f"{first.run} and {record.run} have different {what}"
                    + (f" ({ours}; {theirs})" if isinstance(ours, str) else "")
                    + ": compare runs on the same dataset"
                )


def _where(flags: BoolArray, samples: Sequence[str]) -> tuple[str, ...]:
    return tuple(sample for sample, flag in zip(samples, flags, strict=True) if flag)


def _chosen(prediction: Prediction) -> int:
    """What was predicted; no answer is a choice of its own."""
    return -1 if prediction.predicted is None else prediction.predicted


def _standing(run: Run, correct: int, n: int) -> Standing:
    whole = sum(one.label is not None and one.predicted == one.label for one in run.predictions)
    cost = cost_per_correct(run.record.answers_cost_usd, whole)
    return Standing(run, correct, correct / n, wilson_interval(correct, n), cost)


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(run.record.run for run in runs)
