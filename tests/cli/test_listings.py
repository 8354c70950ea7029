from __future__ import annotations

import importlib
import json

import pytest

from tests.support.fakes import FakeLMM
from tlac.config.registry import list_plugins
from tlac.types import LMMResponse, Outcome, Usage

# it takes open_lmm when it is imported, which must not be the fake one
importlib.import_module("tlac.evaluation.runner")


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("backends", "gemini"),
        ("encoders", "minilm"),
        ("methods", "tlac-relook"),
        ("prompts", "default"),
        ("suites", "samples"),
        ("datasets", "imagenet-samples"),
    ],
)
def test_what_can_be_named_is_listed_and_shown(tlac_command, group: str, name: str) -> None:
    assert f"\n{name} " in f"\n{tlac_command(group, 'list').out}"
    listed = json.loads(tlac_command(group, "list", "--json").out)
    assert name in [one["name"] for one in listed]
    assert all(one["description"] for one in listed)
    assert json.loads(tlac_command(group, "show", name, "--json").out)["name"] == name
    shown = tlac_command(group, "show", "nonsense")
    assert (shown.code, shown.err.count("\n")) == (2, 1)


def test_a_methods_options_are_shown_as_they_are_typed(tlac_command) -> None:
    assert "\n  --method tlac-relook:relook_below=0.5\n" in tlac_command("methods", "show", "tlac-relook").out
    assert "\n  --method clip:templates=paper\n" in tlac_command("methods", "show", "clip").out
    # what methods share is told with each
    fused = tlac_command("methods", "show", "slac-fused").out
    assert "With `second`, the name of a prompt set," in fused
    assert "inheritance" not in fused, "what Python says of a base class of its own"
    assert len(tlac_command("methods", "list").out.splitlines()) == len(list_plugins("tlac.methods"))


def test_backends_say_whether_their_key_is_set(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    def states() -> dict[str, str]:
        return {one["name"]: one["ready"] for one in json.loads(tlac_command("backends", "list", "--json").out)}

    before = states()
    assert (before["gemini"], before["embedded"], before["ollama"]) == ("needs GEMINI_API_KEY", "ready", "own server")
    monkeypatch.setenv("GEMINI_API_KEY", "AIza-not-a-key-and-never-shown")
    assert states()["gemini"] == "ready"


def test_a_check_says_what_each_stage_answers_and_fails_where_an_answer_is_cut(
    tlac_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tlac.config.registry.open_lmm", lambda backend: FakeLMM(lambda _: "a red square"))
    shown = tlac_command("backends", "check", "gemini")
    assert shown.code == 0, shown.err
    assert [line.partition(" in ")[0] for line in shown.out.splitlines()] == [
        "gemini: stage 1: answered 'a red square'",
        "gemini: stage 2: answered 'a red square'",
    ]
    cut = LMMResponse(Outcome.TRUNCATED, "", usage=Usage(300, 256, reasoning=250))
    monkeypatch.setattr("tlac.config.registry.open_lmm", lambda backend: FakeLMM(lambda _: cut))
    shown = tlac_command("backends", "check", "gemini")
    assert (shown.code, shown.out) == (1, "")
    assert shown.err == (
        "tlac: gemini: stage 1: 1 of 1 answers were cut by max_tokens; 98 % of the completion tokens were thoughts: "
        "raise max_tokens, or lower reasoning_effort\n"
    )


def test_datasets_say_whether_their_images_are_here(tlac_command, tmp_path) -> None:
    def states(*options: object) -> dict[str, str]:
        listed = json.loads(tlac_command("datasets", "list", "--json", *options).out)
        return {one["name"]: one["ready"] for one in listed}

    assert (states()["imagenet-samples"], states()["dtd"]) == ("ready", "needs --data")
    (tmp_path / "data" / "dtd" / "images").mkdir(parents=True)
    found = states("--data", tmp_path / "data")
    assert (found["dtd"], found["ucf101"]) == (f"in {tmp_path / 'data' / 'dtd'}", f"missing in {tmp_path / 'data'}")
