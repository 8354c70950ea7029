from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.fakes import LetterEncoder

PACK = Path(__file__).parents[2] / "cassettes" / "packs" / "samples40.jsonl.zst"


def test_a_run_is_priced_anew(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    assert tlac_command("cache", "import", PACK).code == 0
    asked = ("--backend", f"pack:{PACK}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--json")
    (run,) = json.loads(tlac_command("bench", *asked, "--method", "slac", "--no-report").out)["runs"]
    shown = tlac_command("estimate", run["run"])
    assert shown.code == 0, shown.err
    # the pack's model is nobody's product
    assert "20 answers; cost when asked unknown (prices: litellm" in shown.out
    assert "at today's prices unknown" in shown.out
    # the folder of a run, and a folder of runs
    (found,) = json.loads(tlac_command("estimate", run["run"], Path(run["run"]).parent, "--json").out)["runs"]
    assert (found["answers"], found["now_usd"]) == (20, None)
