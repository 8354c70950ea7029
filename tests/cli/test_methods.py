"""The methods beyond the paper's through the command line: the embedded backend, and the emulator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.emulated import plant_keys
from tests.support.emulator import Asked, Emulator, Reply, running_emulator
from tlac.runtime.litellm_setup import load_litellm

EMBEDDED = ("bench", "--backend", "embedded", "--encoder", "minilm", "--dataset", "cifar10-samples", "--limit", "2")


def load_run(summary: dict) -> tuple[dict, list[dict]]:
    folder = Path(summary["run"])
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((folder / "run.json").read_text(encoding="utf-8")), [json.loads(line) for line in lines]


def test_each_method_runs_on_the_embedded_backend_and_a_second_time_for_nothing(tlac_command) -> None:
    methods = ("tlac-shortlist:k=3", "tlac-relook:k=3,relook_below=1", "slac-fused")
    asked = [word for method in methods for word in ("--method", method)]
    first = tlac_command(*EMBEDDED, *asked, "--json")
    assert first.code == 0, first.err
    runs = json.loads(first.out)["runs"]
    assert [run["method"] for run in runs] == [*methods]
    for run in runs:
        record, predictions = load_run(run)
        assert (run["n"], run["is_complete"], record["stopped"]) == (2, True, None)
        assert (Path(run["run"]) / "report.html").stat().st_size > 0
        assert all(one["outcome"] == "answered" for one in predictions)
    shortlists = [one.get("shortlist") for one in load_run(runs[0])[1]]
    assert all(shown is None or len(shown) == 3 for shown in shortlists)
    assert any(shortlists)
    assert all(len(one["further"]) == 1 for one in load_run(runs[2])[1])

    second = tlac_command(*EMBEDDED, *asked, "--json", "--offline", "--no-report")
    assert second.code == 0, second.err
    for run, again in zip(runs, json.loads(second.out)["runs"], strict=True):
        assert again["calls"]["stage1"]["asked"] == again["calls"]["stage2"]["asked"] == 0
        written = [(Path(one["run"]) / "predictions.jsonl").read_bytes() for one in (run, again)]
        assert written[0] == written[1]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch):
    plant_keys(monkeypatch)
    load_litellm()

    def script(asked: Asked) -> Reply:
        # a second stage may hold the image as well
        if asked.class_indices or not asked.images:
            listed = dict(
                line.split(": ", 1)[::-1] for line in asked.text.splitlines() if line.split(": ")[0].isdecimal()
            )
            return Reply(json.dumps({"class_index": listed["frog"]}))
        return Reply("a frog" if "name alone" in asked.text else "a small green frog on a leaf")

    with running_emulator(script) as running:
        monkeypatch.setenv("GEMINI_API_BASE", running.base("gemini"))
        monkeypatch.setenv("OPENAI_API_BASE", running.base("openai"))
        yield running


@pytest.mark.parametrize("method", ["tlac-shortlist:k=3", "tlac-relook:k=3,relook_below=1", "slac-fused", "vote"])
def test_each_method_speaks_to_a_provider(tlac_command, emulator: Emulator, method: str) -> None:
    backends = ("--backend", "gemini", *(("--backend", "gpt-4o") if method == "vote" else ()))
    given = ("--encoder", "minilm", "--dataset", "cifar10-samples", "--limit", "2", "--method", method, "--no-report")
    shown = tlac_command("bench", *backends, *given, "--json")
    assert shown.code == 0, shown.err
    (run,) = json.loads(shown.out)["runs"]
    record, predictions = load_run(run)
    assert run["cost_usd"] > 0
    frog = record["classes"].index("frog")
    assert {one["predicted"] for one in predictions} == {frog}
    providers = {asked.provider for asked in emulator.asked}
    assert providers == ({"gemini", "openai"} if method == "vote" else {"gemini"})
    if method.startswith("tlac-"):
        second = [asked for asked in emulator.asked if asked.class_indices]
        assert {len(asked.class_indices) for asked in second} == {3}
        assert all(bool(asked.images) is method.startswith("tlac-relook") for asked in second)
    if method == "vote":
        assert run["backend"] == "gemini+gpt-4o"
        assert all(one["votes"] == [frog, frog] for one in predictions)


def test_abstaining_calibrating_and_aliases_go_together(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("automobile: [car, sports car]\n")
    first = tlac_command(*EMBEDDED, "--method", "slac", "--aliases", tmp_path / "names.yaml", "--json", "--no-report")
    assert first.code == 0, first.err
    (run,) = json.loads(first.out)["runs"]
    assert load_run(run)[0]["aliases"] == {"automobile": ["car", "sports car"]}
    assert "confidence" not in load_run(run)[1][0]

    strict = tlac_command("score", run["run"], "--abstain-below", "1", "--json")
    (given_up,) = json.loads(strict.out)["runs"]
    assert (given_up["abstained"], given_up["accuracy"], given_up["coverage"]) == (2, 0.0, 0.0)

    learnt = tlac_command("calibrate", run["run"], "--json")
    if run["accuracy"] in (0.0, 1.0):
        assert learnt.code == 2
        assert "2 predictions teach nothing" in learnt.err
    else:
        assert learnt.code == 0, learnt.err
        sure = tlac_command("score", run["run"], "--calibration", "calibration.json", "--json")
        (found,) = json.loads(sure.out)["runs"]
        assert all(0 < one["confidence"] < 1 for one in load_run(found)[1])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--method", "tlac-shortlist:n=3"), "unknown option of the method tlac-shortlist 'n'"),
        (("--method", "vote"), "give --backend more than once"),
        (("--abstain-below", "2"), "0<=x<=1"),
        (("--calibration", "none.json"), "none.json"),
        (("--aliases", "none.yaml"), "none.yaml"),
        (("--template", "a photo of a {} | a drawing"), "must hold {}"),
    ],
)
def test_wrong_use_is_one_line(tlac_command, words: tuple[str, str], complaint: str) -> None:
    shown = tlac_command(*EMBEDDED, *words)
    assert shown.code == 2
    assert complaint in shown.err
    assert "Traceback" not in shown.err
