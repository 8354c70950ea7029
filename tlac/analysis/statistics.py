"""Statistics of two classifiers on the same samples: paired difference, exact test, correction, agreement.

statsmodels does what it has, and is imported when it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlac.scoring.metrics import wilson_interval
from tlac.types import BoolArray


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
