from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, answer
from tests.support.fakes import FakeLMM, LetterEncoder
from tlac.analysis.review import calibrate
from tlac.cache.store import Store
from tlac.errors import InputError, UsageError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import Runner
from tlac.results.calibration import read_calibration, write_calibration
from tlac.results.folder import load_run
from tlac.results.record import Run
from tlac.types import LMMRequest, Outcome


def half_right(request: LMMRequest) -> str:
    # the second stage is right about the old car, wrong about the lorry
    return "red car" if request.stage == "stage2" and "big" in request.choice.answer else answer(request)


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(half_right))
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.load_encoder_config", lambda name: SPEC.encoder)
    return Runner(store).run(SPEC, tmp_path / "runs")


def test_a_calibration_survives_its_file(run: Run, tmp_path: Path) -> None:
    found = calibrate([run])
    write_calibration(tmp_path / "learnt.json", found)
    assert read_calibration(tmp_path / "learnt.json") == found
    assert (found.n, found.encoder, found.runs) == (9, "letters", (run.record.run,))
    assert found.level.keys() == {"choice", "exact"}


def test_a_run_scored_with_it_says_how_sure_each_prediction_is(run: Run, store: Store, tmp_path: Path) -> None:
    again = rescore(run.folder, store, Rescoring(calibration=calibrate([run]), abstain_below=0.6), tmp_path)
    read = load_run(again.folder)
    assert read.predictions == again.predictions
    assert read.record.calibration == again.record.calibration == calibrate([run])
    assert all(0 < one.confidence < 1 for one in read.predictions)
    assert {one.outcome for one in read.predictions} == {Outcome.ANSWERED, Outcome.ABSTAINED}
    assert all((one.confidence < 0.6) == (one.outcome is Outcome.ABSTAINED) for one in read.predictions)
    # what has abstained can be scored again
    assert rescore(again.folder, store, Rescoring(abstain_below=0.0), tmp_path).metrics.abstained == 0


def test_runs_of_two_encoders_and_calibrations_of_another_are_refused(run: Run, store: Store, tmp_path: Path) -> None:
    other = replace(run, record=replace(run.record, encoder="other"))
    with pytest.raises(UsageError, match="several text encoders"):
        calibrate([run, other])
    foreign = replace(calibrate([run]), encoder="other")
    with pytest.raises(UsageError, match="another text encoder"):
        rescore(run.folder, store, Rescoring(calibration=foreign), tmp_path)
    with pytest.raises(UsageError, match="another text encoder"):
        Runner(store).run(replace(SPEC, calibration=foreign), tmp_path)


def test_unlabelled_runs_teach_nothing(run: Run) -> None:
    unlabelled = tuple(replace(one, label=None) for one in run.predictions)
    with pytest.raises(UsageError, match="9 predictions teach nothing"):
        calibrate([replace(run, predictions=unlabelled)])


@pytest.mark.parametrize(
    "content", ["", "[]", '{"level": {}}', '{"level":{},"default_level":0,"temperature":-1,"n":0}']
)
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "learnt.json").write_text(content)
    with pytest.raises(InputError, match="not a calibration"):
        read_calibration(tmp_path / "learnt.json")
