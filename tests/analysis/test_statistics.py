from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from tlac.analysis.compare import holm, kappa, mcnemar, paired_difference

COUNT = st.integers(0, 80)
# how many samples both got right, only the first, only the second, neither
TABLES = st.tuples(COUNT, COUNT, COUNT, COUNT).filter(any)
CHOICES = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=80)


def flags(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which samples each of two classifiers gets right, in an order that tells nothing."""
    pairs = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    order = np.random.default_rng(0).permutation(both + only_first + only_second + neither)
    first, second = np.array(pairs + [(False, False)] * neither, np.bool_)[order].T
    return first, second


@given(TABLES)
def test_mcnemar_is_the_exact_binomial_test(table: tuple[int, int, int, int]) -> None:
    both, only_first, only_second, neither = table
    differing = only_first + only_second
    expected = binomtest(only_first, differing, 0.5).pvalue if differing else 1.0
    assert mcnemar(*flags(*table)) == pytest.approx(expected, abs=1e-12)
    theirs = statsmodels_mcnemar([[both, only_first], [only_second, neither]], exact=True)
    assert mcnemar(*flags(*table)) == pytest.approx(min(1.0, theirs.pvalue), abs=1e-12)


def test_mcnemar_of_a_tie_and_of_no_difference_is_one() -> None:
    assert mcnemar(*flags(3, 4, 4, 2)) == 1.0
    assert mcnemar(*flags(9, 0, 0, 1)) == 1.0


@settings(max_examples=25)  # statsmodels takes 30 ms for each
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_steps_down_and_never_lowers_a_p_value(p_values: list[float]) -> None:
    corrected = holm(p_values)
    highest, expected = 0.0, {}
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, (len(p_values) - step) * p_values[place])
        expected[place] = min(1.0, highest)
    assert corrected == pytest.approx([expected[place] for place in range(len(p_values))], abs=1e-12)
    assert all(high >= low for low, high in zip(p_values, corrected, strict=True))


def test_holm_of_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06), abs=1e-12)


@given(CHOICES)
def test_kappa_agrees_with_scikit_learn_and_statsmodels(choices: list[tuple[int, int]]) -> None:
    first, second = np.array(choices, np.int64).T
    found = kappa(first, second)
    if len(set(first) | set(second)) == 1:
        assert found is None
        return
    assert found == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    table = np.zeros((6, 6))
    np.add.at(table, (first + 1, second + 1), 1)
    used = (table.sum(0) + table.sum(1)) > 0
    assert found == pytest.approx(cohens_kappa(table[used][:, used], return_results=False), abs=1e-12)


def test_kappa_of_nothing_or_of_one_class_is_undefined() -> None:
    assert kappa(np.zeros(0, np.int64), np.zeros(0, np.int64)) is None
    assert kappa(np.full(5, 2), np.full(5, 2)) is None
    assert kappa(np.full(5, 2), np.full(5, 1)) == 0.0


def newcombe(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The squares of the two widths, from what libraries have: Wilson's intervals, and phi as Matthews' coefficient."""
    n = len(first)
    bounds = [proportion_confint(side.sum(), n, method="wilson") for side in (first, second)]
    phi = 0.0 if first.all() or second.all() or not (first.any() and second.any()) else matthews_corrcoef(first, second)
    product = (first & second).sum() * (~first & ~second).sum() - (first & ~second).sum() * (~first & second).sum()
    if product > 0:
        phi *= max(0, product - n / 2) / product
    one, other = first.mean(), second.mean()
    (low1, high1), (low2, high2) = bounds
    below = (one - low1) ** 2 - 2 * phi * (one - low1) * (high2 - other) + (high2 - other) ** 2
    above = (high1 - one) ** 2 - 2 * phi * (high1 - one) * (other - low2) + (other - low2) ** 2
    return below, above


@given(TABLES)
def test_the_paired_interval_is_newcombes(table: tuple[int, int, int, int]) -> None:
    found = paired_difference(*flags(*table))
    # squares: a root would blow up what rounding leaves of a width near zero
    squares = ((found.value - found.low) ** 2, (found.high - found.value) ** 2)
    assert squares == pytest.approx(newcombe(*flags(*table)), abs=1e-12)
    assert -1 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@given(TABLES)
def test_the_paired_interval_turns_round_with_its_sides(table: tuple[int, int, int, int]) -> None:
    first, second = flags(*table)
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-9)


def test_the_paired_interval_has_a_width_where_nobody_differs() -> None:
    found = paired_difference(*flags(20, 0, 0, 0))
    assert found.value == 0
    assert found.low < 0 < found.high
