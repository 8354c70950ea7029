from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import hypergeom
from statsmodels.stats.proportion import samplesize_confint_proportion

from tlac.analysis.review import draw_order, plan_review, sample_interval, sample_size
from tlac.results.labels import Label


@pytest.mark.parametrize(("rate", "half_width"), [(0.05, 0.02), (0.5, 0.05), (0.01, 0.005)])
def test_a_large_population_takes_what_statsmodels_says(rate: float, half_width: float) -> None:
    assert sample_size(10**12, rate, half_width) == math.ceil(samplesize_confint_proportion(rate, half_width))


@pytest.mark.parametrize(
    ("population", "wanted"),
    # 385 of an endless population, as the tables have it (Cochran, Sampling Techniques)
    [(100, 80), (1_000, 278), (10_000, 370), (100_000, 383), (10**9, 385), (5, 5), (1, 1), (0, 0)],
)
def test_a_small_population_takes_fewer(population: int, wanted: int) -> None:
    assert sample_size(population, 0.5, 0.05) == wanted


def test_the_sample_gives_the_promised_width() -> None:
    drawn = sample_size(2_000, 0.1, 0.03)
    spread = math.sqrt(0.1 * 0.9 / drawn * (2_000 - drawn) / (2_000 - 1))
    assert 1.96 * spread == pytest.approx(0.03, rel=0.01)


@pytest.mark.parametrize(
    ("right", "n", "population", "counts"),
    # by scipy.stats.hypergeom: the fewest and the most right ones of all that leave each tail more than 2.5 %
    [
        (18, 20, 50, (37, 48)),
        (55, 58, 66, (61, 63)),
        (415, 437, 10_000, (9254, 9678)),
        (0, 5, 9, (0, 3)),
        (7, 7, 7, (7, 7)),
    ],
)
def test_an_interval_of_a_sample_is_exact(right: int, n: int, population: int, counts: tuple[int, int]) -> None:
    assert [share * population for share in sample_interval(right, n, population)] == pytest.approx(counts)


@pytest.mark.parametrize(("population", "n"), [(66, 58), (50, 20), (200, 100), (1_000, 278)])
@pytest.mark.parametrize("rate", [0.0, 0.5, 0.8, 0.95, 0.99, 1.0])
def test_an_interval_of_a_sample_covers_what_is_so_95_times_in_100(population: int, n: int, rate: float) -> None:
    truth = round(rate * population)
    draws, times = np.unique(hypergeom(population, truth, n).rvs(4_000, random_state=0), return_counts=True)
    is_covered = []
    for right in draws.tolist():
        low, high = (round(share * population) for share in sample_interval(right, n, population))
        assert right <= low <= high <= population - (n - right)
        is_covered.append(low <= truth <= high)
    # three standard errors below 95 %
    assert float(times @ is_covered) / 4_000 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 4_000)


def test_a_plan_counts_the_doubtful_and_leaves_out_what_has_no_label() -> None:
    sure, doubtful, unknown = (
        Label("a.jpg", name, share) for name, share in (("cat", 0.9), ("cat", 0.2), (None, None))
    )
    plan = plan_review([sure] * 9_800 + [doubtful] * 200 + [unknown] * 50)
    assert (plan.labelled, plan.doubtful, plan.sample) == (10_000, 200, 437)
    assert str(plan) == (
        "200 of 10,000 labels are doubtful (confidence below 0.5): review these first. To know how many are wrong, "
        "review 437 drawn at random: if 22 of these are wrong, 3.2 to 7.5 % of all are (95 %)."
    )
    assert str(plan_review([sure, sure])) == (
        "None of 2 labels is doubtful (confidence below 0.5). To know how many are wrong, review all 2."
    )
    assert str(plan_review([unknown])) == "There is no label to review."


def test_the_draw_hangs_on_the_paths_alone_and_favours_none() -> None:
    paths = [f"{number}.jpg" for number in range(1_000)]
    order = draw_order(paths)
    assert sorted(order) == list(range(1_000))
    backwards = draw_order(paths[::-1])
    assert [paths[place] for place in order] == [paths[::-1][place] for place in backwards]
    # the mean place of 200 drawn of 1,000 lies within 3 standard errors of the middle
    assert sum(order[:200]) / 200 == pytest.approx(499.5, abs=3 * 288.7 / math.sqrt(200) * math.sqrt(0.8))
    assert draw_order(["same", "same", "\udc80"])
