from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean

from tests.support.made_runs import made_run
from tlac.analysis.suite_table import harmonic_mean, harmonics_of, series_of
from tlac.errors import InputError
from tlac.results.record import Cell


def cell(dataset: str, split: str, right: int, n: int = 10, is_complete: bool = True) -> Cell:
    pairs = [(0, 0)] * right + [(0, 1)] * (n - right)
    return Cell("s", dataset, split, "fake", "tlac", made_run(pairs, is_complete=is_complete))


def test_only_complete_cells_are_averaged_and_counted() -> None:
    failed = Cell("s", "c", "all", "fake", "tlac", error=InputError("c is missing"))
    cells = [cell("a", "all", 9), cell("b", "all", 1, is_complete=False), failed]
    (series,) = series_of(cells, ["a", "b", "c"])
    assert (series["mean"], series["complete"], series["total"]) == (0.9, 1, 3)
    assert series["by_dataset"]["c"]["error"] == "c is missing"


def test_without_a_complete_cell_there_is_no_average() -> None:
    (series,) = series_of([cell("a", "all", 9, is_complete=False)], ["a"])
    assert (series["mean"], series["complete"]) == (None, 0)


def test_h_is_that_of_the_means_over_datasets_complete_in_both_halves() -> None:
    cells = [cell("a", "base", 8), cell("b", "base", 6), cell("c", "base", 1)]
    cells += [cell("a", "novel", 4), cell("b", "novel", 6), cell("c", "novel", 9, is_complete=False)]
    (found,) = harmonics_of(series_of(cells, ["a", "b", "c"]))
    assert (found["base"], found["novel"], found["complete"], found["total"]) == (0.7, 0.5, 2, 3)
    assert found["h"] == pytest.approx(2 * 0.7 * 0.5 / 1.2)
    assert found["by_dataset"] == pytest.approx({"a": 2 * 0.8 * 0.4 / 1.2, "b": 0.6})


def test_one_half_alone_has_no_h() -> None:
    assert harmonics_of(series_of([cell("a", "novel", 8)], ["a"])) == []


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_the_harmonic_mean_is_scipys(base: float, novel: float) -> None:
    assert harmonic_mean(base, novel) == pytest.approx(hmean([base, novel]), abs=1e-12)


def test_the_harmonic_mean_of_nothing_right_is_zero() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(None, 0.5) is None


def test_a_title_names_a_split_only_where_there_is_one() -> None:
    assert cell("dtd", "novel", 1).title == "dtd (novel) fake tlac"
    assert cell("dtd", "all", 1).title == "dtd fake tlac"
