"""Compares runs pair by pair on the samples that both have: which is more accurate, and whether that is chance.

The statistics of two classifiers on the same samples come first: paired difference, exact test, correction, agreement.
statsmodels does what it has, and is imported when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlac.errors import InputError, UsageError
from tlac.results.record import Run
from tlac.scoring.metrics import wilson_interval
from tlac.scoring.predictions import OUTCOMES, Int32Array, Predictions, digest_texts
from tlac.types import BoolArray, Outcome


@dataclass(frozen=True, slots=True)
class Paired:
    """Two classifiers on the same samples: how many both, only the first, only the second, or neither got right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """The samples."""
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The first accuracy less the second, in [-1, 1], and its 95 % interval."""

    value: float
    low: float
    high: float


def pair(first: BoolArray, second: BoolArray) -> Paired:
    """The four counts of two (n,) flags, true where a sample is right."""
    return Paired(
        int(np.sum(first & second)),
        int(np.sum(first & ~second)),
        int(np.sum(~first & second)),
        int(np.sum(~first & ~second)),
    )


def paired_difference(paired: Paired) -> PairedDifference:
    """The difference of two accuracies on the same samples, with Newcombe's interval; n >= 1.

    Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635: Wilson's intervals of both accuracies,
    combined with their correlation. Unlike Wald's it keeps its coverage where few samples differ, and it has a
    width where none does. No library here has an interval for paired proportions.
    """
    n, a, b, c = paired.n, paired.both, paired.only_first, paired.only_second
    first, second = (a + b) / n, (a + c) / n
    (low1, high1), (low2, high2) = wilson_interval(a + b, n), wilson_interval(a + c, n)
    phi = _correlation(paired)
    below = _combine(first - low1, high2 - second, phi)
    above = _combine(high1 - first, second - low2, phi)
    value = (b - c) / n
    return PairedDifference(value, max(-1.0, value - below), min(1.0, value + above))


def _combine(one: float, other: float, phi: float) -> float:
    # rounding can leave a tiny negative number where both are equal and fully correlated
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _correlation(paired: Paired) -> float:
    """The phi coefficient with Newcombe's continuity correction; 0 where one margin is empty."""
    a, b, c, d, n = paired.both, paired.only_first, paired.only_second, paired.neither, paired.n
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if not margins:
        return 0.0
    product = float(a * d - b * c)
    if product > 0:
        product = max(0.0, product - n / 2)
    return product / math.sqrt(margins)


def mcnemar(paired: Paired) -> float:
    """The two-sided p-value of McNemar's exact test; 1 where the two differ on no sample."""
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    table = [[paired.both, paired.only_first], [paired.only_second, paired.neither]]
    return min(1.0, float(exact_test(table, exact=True).pvalue))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p-values corrected by Holm's step-down method for being several, in their order."""
    if not p_values:
        return ()
    from statsmodels.stats.multitest import multipletests

    return tuple(float(value) for value in multipletests(list(p_values), method="holm")[1])


def kappa(first: NDArray[np.signedinteger[Any]], second: NDArray[np.signedinteger[Any]]) -> float | None:
    """Cohen's kappa of two (n,) choices, in [-1, 1]; None where both always chose one and the same class."""
    classes, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    if len(classes) < 2:
        # agreement by chance is already complete: 0 divided by 0
        return None
    # scikit-learn's warns where there are many classes for the samples
    from statsmodels.stats.inter_rater import cohens_kappa

    pairs = places[: len(first)] * len(classes) + places[len(first) :]
    table = np.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), len(classes))
    return float(cohens_kappa(table, return_results=False))


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
