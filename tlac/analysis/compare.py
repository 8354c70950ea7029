"""Compares runs pair by pair on the samples that both have: which is more accurate, and whether that is chance.

The statistics of two classifiers on the same samples come first: paired difference, exact test, correction, agreement.
statsmodels does what it has, and is imported when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tlac.errors import InputError, UsageError
from tlac.results.record import Run
from tlac.scoring.metrics import wilson_interval
from tlac.scoring.predictions import OUTCOMES, Predictions, digest_texts
from tlac.types import BoolArray, Outcome

_SampleKey: TypeAlias = tuple[str, str | None, int]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The first accuracy less the second, in [-1, 1], and its 95 % interval."""

    value: float
    low: float
    high: float


def paired_difference(first: BoolArray, second: BoolArray) -> PairedDifference:
    """The difference of two accuracies on the same n >= 1 samples, with Newcombe's interval; (n,) flags say what is
    right.

    Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635: Wilson's intervals of both accuracies,
    combined with their correlation. Unlike Wald's it keeps its coverage where few samples differ, and it has a
    width where none does. No library here has an interval for paired proportions.
    """
    (a, b), (c, d) = _table(first, second)
    n = a + b + c + d
    (low1, high1), (low2, high2) = wilson_interval(a + b, n), wilson_interval(a + c, n)
    share1, share2 = (a + b) / n, (a + c) / n
    margins, product = (a + b) * (c + d) * (a + c) * (b + d), float(a * d - b * c)
    if product > 0:
        # Newcombe's continuity correction
        product = max(0.0, product - n / 2)
    phi = product / math.sqrt(margins) if margins else 0.0

    def width(one: float, other: float) -> float:
        # rounding can leave a tiny negative number where both are equal and fully correlated
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    value = (b - c) / n
    below, above = width(share1 - low1, high2 - share2), width(high1 - share1, share2 - low2)
    return PairedDifference(value, max(-1.0, value - below), min(1.0, value + above))


def mcnemar(first: BoolArray, second: BoolArray) -> float:
    """The two-sided p-value of McNemar's exact test on (n,) flags; 1 where the two differ on no sample."""
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    return min(1.0, float(exact_test(_table(first, second), exact=True).pvalue))


def _table(first: BoolArray, second: BoolArray) -> list[list[int]]:
    """The contingency table: a row for the first and a column for the second, right before wrong."""
    return [[int(np.sum(one & other)) for other in (second, ~second)] for one in (first, ~first)]


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
    """Two runs, by their places, on the n labelled samples that these two share: first less second.

    `p` is McNemar's exact p-value, `p_holm` the same corrected for all pairs; `kappa` the agreement of what they
    predicted, None where it is not defined. `both` and `neither` count the samples that both, or none, got right,
    `only_first` and `only_second` are those that one alone did. `left_out` samples stand in one of the two only,
    `failed` ones have a failed call in at least one.
    """

    first: int
    second: int
    difference: PairedDifference
    p: float
    p_holm: float
    kappa: float | None
    both: int
    neither: int
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    left_out: int
    failed: int

    @property
    def n(self) -> int:
        """The samples."""
        return self.both + self.neither + len(self.only_first) + len(self.only_second)


def compare(runs: Sequence[Run]) -> list[PairTest]:
    """Test every pair of runs on one dataset; a pair that shares no labelled sample is left out.

    Raises UsageError for fewer than two runs, InputError for runs that don't compare.
    """
    if len(runs) < 2:
        found = f"{runs[0].folder} alone was found" if runs else "none was found"
        raise UsageError(f"compare needs at least two runs, and {found}: name two run folders, or a folder of several")
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
    # the place of each labelled sample by its key
    places = [{key: at for at, key in enumerate(sample_keys(run.predictions)) if key[2] >= 0} for run in runs]
    pairs = (_test_pair(*pair, runs, places) for pair in combinations(range(len(runs)), 2))
    return correct([test for test in pairs if test is not None])


def correct(tests: Sequence[PairTest]) -> list[PairTest]:
    """The tests with `p_holm` corrected for all of them."""
    corrected = holm([test.p for test in tests])
    return [replace(test, p_holm=p_holm) for test, p_holm in zip(tests, corrected, strict=True)]


def sample_keys(predictions: Predictions) -> list[_SampleKey]:
    """What tells a sample from all others: id, sha256 of its image, label (-1 for none)."""
    return list(
        zip(predictions.samples, digest_texts(predictions.image_sha256), predictions.label.tolist(), strict=True)
    )


def _test_pair(
    first: int, second: int, runs: Sequence[Run], places: Sequence[Mapping[_SampleKey, int]]
) -> PairTest | None:
    one, other = runs[first].predictions, runs[second].predictions
    shared = [key for key in places[first] if key in places[second]]
    left, right = (np.array([places[run][key] for key in shared], np.int64) for run in (first, second))
    failed = OUTCOMES.index(Outcome.FAILED)
    has_failed = (one.outcome[left] == failed) | (other.outcome[right] == failed)
    left, right = left[~has_failed], right[~has_failed]
    if not len(left):
        return None
    is_first, is_second = one.is_correct[left], other.is_correct[right]
    p_value = mcnemar(is_first, is_second)
    return PairTest(
        first=first,
        second=second,
        difference=paired_difference(is_first, is_second),
        p=p_value,
        p_holm=p_value,
        # no answer is a choice of its own
        kappa=kappa(one.predicted[left], other.predicted[right]),
        both=int(np.sum(is_first & is_second)),
        neither=int(np.sum(~is_first & ~is_second)),
        only_first=tuple(one.samples[at] for at in left[is_first & ~is_second].tolist()),
        only_second=tuple(one.samples[at] for at in left[is_second & ~is_first].tolist()),
        left_out=len(places[first]) + len(places[second]) - 2 * len(shared),
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
