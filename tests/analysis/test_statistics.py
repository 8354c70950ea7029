from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, matthews_corrcoef
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from tlac.analysis.compare import Paired, holm, kappa, mcnemar, pair, paired_difference

COUNT = st.integers(0, 80)
TABLES = st.builds(Paired, COUNT, COUNT, COUNT, COUNT).filter(lambda paired: paired.n > 0)
CHOICES = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 4)), min_size=1, max_size=80)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50))
def test_the_four_counts_are_those_of_the_flags(flags: list[tuple[bool, bool]]) -> None:
    first, second = (np.array([flag[place] for flag in flags], np.bool_) for place in (0, 1))
    paired = pair(first, second)
    assert paired.n == len(flags)
    assert (paired.both, paired.neither) == (flags.count((True, True)), flags.count((False, False)))
    assert (paired.only_first, paired.only_second) == (flags.count((True, False)), flags.count((False, True)))


@given(TABLES)
def test_mcnemar_is_the_exact_binomial_test(paired: Paired) -> None:
    table = [[paired.both, paired.only_first], [paired.only_second, paired.neither]]
    differing = paired.only_first + paired.only_second
    expected = binomtest(paired.only_first, differing, 0.5).pvalue if differing else 1.0
    assert mcnemar(paired) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(paired) == pytest.approx(min(1.0, statsmodels_mcnemar(table, exact=True).pvalue), abs=1e-12)


def test_mcnemar_of_a_tie_and_of_no_difference_is_one() -> None:
    assert mcnemar(Paired(3, 4, 4, 2)) == 1.0
    assert mcnemar(Paired(9, 0, 0, 1)) == 1.0


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


def newcombe(paired: Paired) -> tuple[float, float]:
    """The squares of the two widths, from what libraries have: Wilson's intervals, and phi as Matthews' coefficient."""
    n = paired.n
    right = (paired.both + paired.only_first, paired.both + paired.only_second)
    bounds = [proportion_confint(count, n, method="wilson") for count in right]
    flags = np.repeat([(1, 1), (1, 0), (0, 1), (0, 0)], list(astuple(paired)), axis=0).T
    phi = 0.0 if any(len(set(side)) < 2 for side in flags) else matthews_corrcoef(*flags)
    product = paired.both * paired.neither - paired.only_first * paired.only_second
    if product > 0:
        phi *= max(0, product - n / 2) / product
    one, other = (count / n for count in right)
    (low1, high1), (low2, high2) = bounds
    below = (one - low1) ** 2 - 2 * phi * (one - low1) * (high2 - other) + (high2 - other) ** 2
    above = (high1 - one) ** 2 - 2 * phi * (high1 - one) * (other - low2) + (other - low2) ** 2
    return below, above


@given(TABLES)
def test_the_paired_interval_is_newcombes(paired: Paired) -> None:
    found = paired_difference(paired)
    # squares: a root would blow up what rounding leaves of a width near zero
    squares = ((found.value - found.low) ** 2, (found.high - found.value) ** 2)
    assert squares == pytest.approx(newcombe(paired), abs=1e-12)
    assert -1 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@given(TABLES)
def test_the_paired_interval_turns_round_with_its_sides(paired: Paired) -> None:
    there = paired_difference(paired)
    back = paired_difference(Paired(paired.both, paired.only_second, paired.only_first, paired.neither))
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-9)


def test_the_paired_interval_has_a_width_where_nobody_differs() -> None:
    found = paired_difference(Paired(20, 0, 0, 0))
    assert found.value == 0
    assert found.low < 0 < found.high
