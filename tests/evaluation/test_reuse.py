from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, Cars, answer
from tests.support.fakes import FakeLMM, LetterEncoder
from tlac.cache.store import Store
from tlac.errors import SampleError
from tlac.evaluation.reuse import Finished
from tlac.evaluation.runner import Runner
from tlac.types import LMMRequest, LMMResponse, Outcome


@pytest.fixture
def bench(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runner]:
    def opened(reply=answer) -> Runner:
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(reply))
        monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
        return Runner(store)

    return opened


def test_the_latest_complete_run_of_the_same_spec_is_found(bench, tmp_path: Path) -> None:
    runner = bench()
    runs = [runner.run(SPEC, tmp_path) for _ in range(2)]
    found = Finished(tmp_path).find(runner.resolve(SPEC))
    assert found is not None
    assert found.folder == runs[1].folder
    assert (found.predictions, found.metrics, found.record) == (runs[1].predictions, runs[1].metrics, runs[1].record)


@pytest.mark.parametrize(
    "change",
    [{"limit": 3}, {"shuffle_classes": 2}, {"order_trials": 1}, {"method": "slac"}, {"template": "x {}"}],
)
def test_a_run_of_another_spec_is_not(bench, tmp_path: Path, change: dict[str, object]) -> None:
    runner = bench()
    runner.run(SPEC, tmp_path)
    other = replace(SPEC, **change)
    assert Finished(tmp_path).find(runner.resolve(other)) is None


def test_without_a_limit_the_seed_changes_nothing(bench, tmp_path: Path) -> None:
    runner = bench()
    runner.run(SPEC, tmp_path)
    other = replace(SPEC, seed=5)
    assert Finished(tmp_path).find(runner.resolve(other)) is not None


def test_an_incomplete_run_is_not_reused(bench, tmp_path: Path) -> None:
    def flaky(request: LMMRequest) -> str:
        raise SampleError("fake: too large")

    runner = bench(flaky)
    assert not runner.run(SPEC, tmp_path).record.is_complete
    assert Finished(tmp_path).find(runner.resolve(SPEC)) is None


def test_another_dataset_under_the_same_name_is_not_the_same(bench, tmp_path: Path) -> None:
    runner = bench()
    runner.run(SPEC, tmp_path)
    other = replace(SPEC, dataset=Cars(size=8))
    assert Finished(tmp_path).find(runner.resolve(other)) is None


def test_outcomes_that_are_to_be_asked_again_are_not_reused(bench, tmp_path: Path) -> None:
    runner = bench(lambda request: LMMResponse(Outcome.REFUSED, "no"))
    runner.run(SPEC, tmp_path)
    finished, spec = Finished(tmp_path), runner.resolve(SPEC)
    assert finished.find(spec) is not None
    assert finished.find(spec, [Outcome.EMPTY]) is not None
    assert finished.find(spec, [Outcome.REFUSED]) is None


def test_a_broken_run_folder_is_passed_over(bench, tmp_path: Path) -> None:
    runner = bench()
    first, second = (runner.run(SPEC, tmp_path) for _ in range(2))
    (second.folder / "predictions.jsonl").write_text("{")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("{}")
    found = Finished(tmp_path).find(runner.resolve(SPEC))
    assert found is not None
    assert found.folder == first.folder
