"""Compares runs pair by pair on the samples that both have: which is more accurate, and whether that is chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from tlac.analysis.statistics import Paired, PairedDifference, holm, kappa, mcnemar, pair, paired_difference
from tlac.errors import InputError, UsageError
from tlac.results.record import Run
from tlac.scoring.predictions import OUTCOMES, Int32Array, Predictions, digest_texts
from tlac.types import BoolArray, Outcome


@dataclass(frozen=True, slots=True)
class PairTest:
    """Two runs, by their places, on the `counts.n` labelled samples that these two share: first less second.

    `p` is McNemar's exact p-value, `p_holm` the same corrected for all pairs; `kappa` the agreement of what they
    predicted, None where it is not defined. `only_first` and `only_second` are the samples that one alone got right.
    `left_out` samples stand in one of the two only, `failed` ones have a failed call in at least one.
    """

    first: int
    second: int
    counts: Paired
    difference: PairedDifference
    p: float
    p_holm: float
    kappa: float | None
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    left_out: int
    failed: int


def compare(runs: Sequence[Run]) -> list[PairTest]:
    """Test every pair of runs on one dataset; a pair that shares no labelled sample is left out.

    Raises UsageError for fewer than two runs, InputError for runs that don't compare.
    """
    if len(runs) < 2:
        raise UsageError("compare needs at least two runs: name two run folders")
    _require_comparable(runs)
    tests = pair_tests(runs)
    if not tests:
        names = ", ".join(run.record.run for run in runs)
        raise InputError(f"{names}: no labelled sample in common: compare runs on the same images")
    return tests


def pair_tests(runs: Sequence[Run]) -> list[PairTest]:
    """The tests of all pairs that share labelled samples: same id, image and label.

    Samples whose call failed in one of the two are left out: asking again may still give their answer. A non-answer,
    such as a refusal, counts as wrong.
    """
    columns = [_columns(run) for run in runs]
    found = [
        test
        for first, second in combinations(range(len(runs)), 2)
        if (test := _test_pair(first, columns[first], second, columns[second])) is not None
    ]
    return correct(found)


def correct(tests: Sequence[PairTest]) -> list[PairTest]:
    """The tests with `p_holm` corrected for all of them."""
    corrected = holm([test.p for test in tests])
    return [replace(test, p_holm=p_holm) for test, p_holm in zip(tests, corrected, strict=True)]


def sample_keys(predictions: Predictions) -> list[tuple[str, str | None, int]]:
    """What tells a sample from all others: id, sha256 of its image, label (-1 for none)."""
    return list(
        zip(predictions.samples, digest_texts(predictions.image_sha256), predictions.label.tolist(), strict=True)
    )


# the place of each sample by its key, and by place: the prediction (-1 for none), is it correct, has its call failed
_Columns = tuple[dict[tuple[str, str | None, int], int], Int32Array, BoolArray, BoolArray]


def _columns(run: Run) -> _Columns:
    predictions = run.predictions
    places = {key: place for place, key in enumerate(sample_keys(predictions)) if key[2] >= 0}
    has_failed = predictions.outcome == OUTCOMES.index(Outcome.FAILED)
    # no answer is a choice of its own
    return places, predictions.predicted, predictions.is_correct, has_failed


def _test_pair(first: int, ours: _Columns, second: int, theirs: _Columns) -> PairTest | None:
    shared = [key for key in ours[0] if key in theirs[0]]
    left = np.array([ours[0][key] for key in shared], np.int64)
    right = np.array([theirs[0][key] for key in shared], np.int64)
    has_failed = ours[3][left] | theirs[3][right]
    left, right = left[~has_failed], right[~has_failed]
    if not len(left):
        return None
    samples = [key[0] for key, flag in zip(shared, has_failed.tolist(), strict=True) if not flag]
    is_first, is_second = ours[2][left], theirs[2][right]
    counts = pair(is_first, is_second)
    p_value = mcnemar(counts)
    return PairTest(
        first=first,
        second=second,
        counts=counts,
        difference=paired_difference(counts),
        p=p_value,
        p_holm=p_value,
        kappa=kappa(ours[1][left], theirs[1][right]),
        only_first=tuple(samples[place] for place in np.flatnonzero(is_first & ~is_second)),
        only_second=tuple(samples[place] for place in np.flatnonzero(is_second & ~is_first)),
        left_out=len(ours[0]) + len(theirs[0]) - 2 * len(shared),
        failed=int(has_failed.sum()),
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
