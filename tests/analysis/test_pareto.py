from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, Cars, answer
from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tests.support.made_runs import write_run
from tlac.analysis.leaderboard import find_frontiers, recommend
from tlac.cache.store import Store
from tlac.errors import UsageError
from tlac.evaluation.runner import Runner
from tlac.results.record import Run
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions


@pytest.fixture
def point(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Runs of 60 samples on disk, so many of them right, at such a price for 1,000."""
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(answer))
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    spec = replace(SPEC, dataset=Cars(size=60))
    monkeypatch.setattr("tests.support.cars.make_png", lambda number: make_png(number % 9))
    made = Runner(store).run(spec, tmp_path / "first")
    folders = iter(range(100))

    def build(backend: str, right: int, per_1000: float | None, method: str = "tlac", **changes) -> Run:
        predictions = Predictions.of(
            replace(one, predicted=one.label if place < right else (one.label + 1) % 3)
            for place, one in enumerate(made.predictions)
        )
        given = {
            "run": f"run{next(folders)}",
            "backend": backend,
            "method": method,
            "answers_cost_usd": None if per_1000 is None else per_1000 * 0.06,
            **changes,
        }
        record = replace(made.record, **given)
        metrics = measure(predictions)
        return Run(write_run(tmp_path / "runs", record, predictions, metrics, {}), record, predictions, metrics)

    return build


def test_what_another_beats_on_both_is_dominated(point) -> None:
    runs = [point("dear", 57, 4.0), point("cheap", 40, 0.5), point("poor", 39, 0.6), point("unpriced", 60, None)]
    (points,) = find_frontiers(runs)
    assert [(one.run.record.backend, one.is_dominated) for one in points] == [
        ("cheap", False),
        ("poor", True),
        ("dear", False),
        ("unpriced", False),
    ]
    assert [one.cost_per_1000_usd for one in points] == [pytest.approx(0.5), pytest.approx(0.6), pytest.approx(4), None]


def test_equal_points_do_not_dominate_each_other_and_the_latest_of_the_same_settings_counts(point) -> None:
    early = point("one", 20, 1.0, created_at="2030-01-01T00:00:00+00:00")
    late = point("one", 40, 1.0, created_at="2030-01-02T00:00:00+00:00")
    (points,) = find_frontiers([late, early, point("two", 40, 1.0)])
    assert [(one.run.record.run, one.is_dominated) for one in points] == [
        (late.record.run, False),
        (points[1].run.record.run, False),
    ]


def test_each_dataset_has_its_own_frontier_and_incomplete_runs_have_none(point) -> None:
    runs = [point("a", 40, 1.0), point("a", 50, 1.0, dataset="lorries"), point("b", 60, 0.1, is_complete=False)]
    assert [len(points) for points in find_frontiers(runs)] == [1, 1]


def test_the_most_accurate_that_the_budget_pays_for_is_recommended(point) -> None:
    runs = [point("cheap", 40, 0.5), point("middle", 41, 1.0), point("good", 57, 2.0), point("best", 59, 8.0)]
    (points,) = find_frontiers(runs)
    chosen, cheaper, next_better = recommend(points, 10, 5000)
    assert (chosen.name, cheaper) == ("good tlac", ())
    assert next_better is not None
    assert next_better.name == "best tlac"
    # one image of 60 may be chance
    chosen, cheaper, _ = recommend(points, 5, 5000)
    assert (chosen.name, [one.name for one in cheaper]) == ("middle tlac", ["cheap tlac"])
    assert recommend(points, 1000, 5000)[2] is None


def test_a_budget_for_nothing_names_the_cheapest(point) -> None:
    (points,) = find_frontiers([point("cheap", 40, 0.5), point("dear", 50, 2.0)])
    with pytest.raises(UsageError, match=r"\$1\.00 does not pay .* the cheapest, cheap tlac, takes \$2\.50"):
        recommend(points, 1, 5000)
    (unpriced,) = find_frontiers([point("odd", 40, None)])
    with pytest.raises(UsageError, match="no run has a known cost"):
        recommend(unpriced, 1, 5000)


def test_the_commands_print_it(point, tlac_command, tmp_path: Path) -> None:
    point("cheap", 40, 0.5)
    point("poor", 39, 0.6)
    point("good", 57, 2.0)
    place = tmp_path / "runs"
    shown = tlac_command("frontier", place)
    assert shown.code == 0, shown.err
    (line,) = [line for line in shown.out.splitlines() if "poor" in line]
    assert "dominated" in line
    document = json.loads(tlac_command("frontier", place, "--json").out)
    assert [one["dominated"] for one in document["frontiers"][0]] == [False, True, False]
    told = tlac_command("recommend", place, "--budget", "10", "--images", "5000")
    assert told.out.startswith("good tlac: 95.0 % (95 % CI ")
    assert "$10.00 for 5,000 images: the most accurate of 3 runs within $10.00." in told.out
    picked = json.loads(tlac_command("recommend", place, "--budget", "3", "--images", "5000", "--json").out)
    assert (picked["chosen"]["backend"], picked["next_better"]["backend"]) == ("cheap", "good")


def test_what_is_recommended_covers_the_runs_of_known_cost_and_names_the_others(
    point, tlac_command, tmp_path: Path
) -> None:
    point("cheap", 40, 0.5)
    point("odd", 59, None)
    told = tlac_command("leaderboard", tmp_path / "runs", "--recommend", "--budget", "10", "--images", "5000").out
    assert "the most accurate of 1 runs with a known cost within $10.00." in told
    assert "odd tlac: 98.3 %; left out, as its cost is unknown." in told


def test_several_datasets_need_a_name(point, tlac_command, tmp_path: Path) -> None:
    point("a", 40, 1.0)
    point("a", 50, 1.0, dataset="lorries")
    given = ("recommend", tmp_path / "runs", "--budget", "10", "--images", "10")
    shown = tlac_command(*given)
    assert shown.code == 2
    assert "cars, 60 images; lorries, 60 images: name one --dataset" in shown.err
    assert tlac_command(*given, "--dataset", "lorries").out.startswith("a tlac: 83.3 %")
    assert tlac_command("frontier", tmp_path / "nowhere").code == 2


def test_two_draws_of_one_dataset_are_told_apart(point, tlac_command, tmp_path: Path) -> None:
    point("a", 40, 1.0, limit=60, seed=1)
    point("a", 50, 1.0, limit=60, seed=2)
    point("a", 50, 1.0, digests={"dataset": "0123456789"})
    point("a", 50, 1.0, digests={"dataset": "abcdef0123"})
    shown = tlac_command("leaderboard", tmp_path / "runs", "--frontier").out
    assert [line for line in shown.splitlines() if line.startswith("cars")] == [
        "cars, 60 images, version 012345",
        "cars, 60 images, version abcdef",
        "cars, 60 images, seed 1",
        "cars, 60 images, seed 2",
    ]
