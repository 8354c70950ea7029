from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, Cars, answer
from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tlac.analysis.ablation import effects, is_compared
from tlac.analysis.compare import paired_difference
from tlac.cache.store import Store
from tlac.errors import SampleError, UsageError
from tlac.evaluation.runner import Runner
from tlac.results.record import Run
from tlac.scoring.predictions import Predictions
from tlac.types import LMMRequest, Outcome


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(answer))

    def ran(**changes) -> Run:
        return Runner(store).run(replace(SPEC, **changes), tmp_path / "runs")

    return ran


def test_an_effect_is_the_mean_paired_difference_over_all_else(run) -> None:
    runs = [run(method=method, matching=rule) for method in ("slac", "tlac") for rule in ("ladder", "paper")]
    found = {(effect.factor, effect.level): effect for effect in effects(runs)}
    assert set(found) == {("method", "slac"), ("method", "tlac"), ("matching", "ladder"), ("matching", "paper")}
    slac, tlac = found["method", "slac"], found["method", "tlac"]
    assert (slac.against, slac.difference, tlac.against, tlac.cells) == (None, None, "slac", 2)
    accuracy = [one.metrics.accuracy for one in runs]
    assert slac.accuracy == pytest.approx((accuracy[0] + accuracy[1]) / 2)
    assert tlac.difference is not None
    assert tlac.difference.value == pytest.approx(tlac.accuracy - slac.accuracy)
    assert tlac.difference.low < tlac.difference.value < tlac.difference.high


def test_the_interval_is_near_newcombes_where_one_pair_of_cells_is_compared(run) -> None:
    import numpy as np

    many = Cars(size=9)
    first, second = run(dataset=many, method="slac"), run(dataset=many, method="tlac")
    (_, effect) = effects([first, second])
    hits = [np.array([one.predicted == one.label for one in found.predictions]) for found in (second, first)]
    expected = paired_difference(*hits)
    assert effect.difference is not None
    assert effect.difference.value == expected.value
    assert effect.difference.low == pytest.approx(expected.low, abs=0.12)
    assert effect.difference.high == pytest.approx(expected.high, abs=0.12)


def test_no_difference_still_has_a_width(run) -> None:
    (_, effect) = effects([run(template="{}"), run(template="{} ")])
    assert effect.difference is not None
    assert effect.difference.value == 0
    assert effect.difference.low < 0 < effect.difference.high


def test_one_level_has_no_effect_and_other_samples_are_refused(run) -> None:
    assert effects([run()]) == []
    with pytest.raises(UsageError, match="on different samples"):
        effects([run(), run(dataset=Cars(size=6), method="slac")])
    one = run()
    unlabelled = replace(one, predictions=Predictions.of(replace(found, label=None) for found in one.predictions))
    with pytest.raises(UsageError, match="no labels"):
        effects([unlabelled])


def test_a_sample_that_failed_in_one_run_is_left_out_of_all(run) -> None:
    first, second = run(method="slac"), run(method="tlac")
    whole = {effect.level: effect.accuracy for effect in effects([first, second])}
    right = next(at for at, one in enumerate(first.predictions) if one.predicted == one.label)
    rows = list(first.predictions)
    rows[right] = replace(rows[right], outcome=Outcome.FAILED, predicted=None)
    failed = replace(first, predictions=Predictions.of(rows))
    assert is_compared([failed, second]).tolist() == [at != right for at in range(9)]
    left = {effect.level: effect.accuracy for effect in effects([failed, second])}
    assert left["slac"] == pytest.approx((9 * whole["slac"] - 1) / 8)
    hit = second.predictions[right].predicted == second.predictions[right].label
    assert left["tlac"] == pytest.approx((9 * whole["tlac"] - hit) / 8)
    all_failed = replace(first, predictions=Predictions.of(replace(one, outcome=Outcome.FAILED) for one in rows))
    with pytest.raises(UsageError, match="nothing to compare"):
        effects([all_failed, second])


def test_an_image_that_is_always_refused_leaves_the_others_compared(tlac_command, monkeypatch) -> None:
    def ask(request: LMMRequest) -> str:
        if any(image.sha256 == hashlib.sha256(make_png(1)).hexdigest() for image in request.images):
            raise SampleError("HTTP 400: invalid image")
        return "an old car" + " that has stood in the rain for years" * (request.stage == "stage1")

    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(ask))
    for number, name in enumerate(("lorry", "old car", "red car")):
        Path(f"photos/{name}").mkdir(parents=True)
        Path(f"photos/{name}/x.png").write_bytes(make_png(number))
    asked = ("ablate", "--backend", "gemini", "--dataset", "folder:photos", "--method", "slac", "--method", "tlac")
    shown = tlac_command(*asked)
    heading, *cells = (line.split() for line in shown.out.splitlines()[:3])
    assert heading == ["method", "n", "top-1", "95", "%", "CI", "cover", "failed", "cost"]
    assert sorted((cell[0], cell[1], cell[5]) for cell in cells) == [("slac", "3", "1"), ("tlac", "3", "1")]
    assert (
        "effects on 2 of 3 samples; left out: 1 with a failed call in one of the cells, or without a label" in shown.out
    )
    assert "slac: clip-vit-b-16 cut 1 texts" in shown.out
    assert shown.code == 3
    assert "2 of 2 cells are incomplete (1 of 3 samples failed (old car/x.png: HTTP 400: invalid image))" in shown.err
    assert json.loads(tlac_command(*asked, "--json").out)["compared"] == 2


@pytest.mark.slow
def test_the_command_pays_once_for_what_cells_share(tlac_command, tmp_path: Path) -> None:
    given = ("ablate", "--backend", "embedded", "--dataset", "cifar10-samples", "--limit", "3", "--encoder", "minilm")
    factors = ("--method", "slac", "--method", "tlac", "--matching", "ladder", "--matching", "paper")
    shown = tlac_command(*given, *factors, "--json")
    assert shown.code == 0, shown.err
    document = json.loads(shown.out)
    assert len(document["cells"]) == 4
    assert [(one["factor"], one["level"]) for one in document["effects"]] == [
        ("matching", "ladder"),
        ("matching", "paper"),
        ("method", "slac"),
        ("method", "tlac"),
    ]
    again = tlac_command(*given, *factors, "--offline")
    assert again.code == 0, again.err
    assert "mean top-1" in again.out
    records = [json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "here" / "runs").iterdir()]
    assert sum(record["calls"]["stage1"]["asked"] for record in records) == 3
    levels = tlac_command(*given, "--levels", "hints=0,4,4:spread", "--levels", "choice=index,name,schema", "--json")
    factors = [(one["factor"], one["level"]) for one in json.loads(levels.out)["effects"]]
    assert factors == [
        *(("prompts", name) for name in ("default", "default:hints=4", "default:hints=4,spread=true")),
        *(("choice", form) for form in ("index", "name", "schema")),
    ]
    for wrong_levels, complaint in (("hnts=1", "did you mean 'hints'"), ("choice=both", "such as hints=0,10,30 or")):
        assert complaint in tlac_command(*given, "--levels", wrong_levels).err
    too_many = tlac_command(*given, "--levels", "hints=3,10")
    assert too_many.code == 2
    assert too_many.err.splitlines() == ["tlac: hints: 10 of 10 class names would be shown; show fewer than all"]
    wrong = tlac_command(*given, "--method", "slak")
    assert (wrong.code, "did you mean 'slac'" in wrong.err) == (2, True)
