from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

# imported while open_encoder is replaced, it would keep the replacement
import tlac.lmms.embedded  # noqa: F401
from tests.support.fakes import LetterEncoder
from tlac.cli import cli
from tlac.config.schemas import load_backend, load_dataset_config
from tlac.errors import EncoderUnavailableError

# it takes open_encoder when it is imported, which must not be the fake one
importlib.import_module("tlac.lmms.embedded")

KEY = "AIza-not-a-key-and-never-shown-to-anyone"


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """One encoder whose weights are there, others that want the hub."""

    def opened(config: object) -> LetterEncoder:
        assert config.is_offline  # type: ignore[attr-defined]
        if config.name != "minilm":  # type: ignore[attr-defined]
            raise EncoderUnavailableError("its weights are not on this machine")
        return LetterEncoder()

    monkeypatch.setattr("tlac.config.registry.open_encoder", opened)


def test_doctor_says_what_is_ready_and_never_a_key(
    tlac_command, encoders: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shown = tlac_command("doctor", "--json", "--data", tmp_path)
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert (found["backends"]["gemini"], found["backends"]["claude"]) == ("ready", "needs ANTHROPIC_API_KEY")
    assert found["encoders"]["minilm"] == "weights are here"
    assert found["encoders"]["clip-vit-b-16"] == "not here: its weights are not on this machine"
    assert (found["datasets"]["cifar10-samples"], found["datasets"]["dtd"]) == ("ready", f"missing in {tmp_path}")
    assert {"python", "tlac", "GPU", "extras missing", "configuration"} <= set(found["versions"])
    assert found["store"] == {str(tmp_path / "store"): "not there yet: the first run makes it"}
    plain = tlac_command("doctor")
    assert "\n  gemini " in plain.out
    assert KEY not in shown.out + plain.out
    assert not (tmp_path / "store").exists()


def test_doctor_asks_no_encoder_behind_an_endpoint(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.config.files.list_names", lambda kind: ["mine"] if kind == "encoder" else [])
    # nobody listens there: asking would be told
    Path("tlac.yaml").write_text(
        "encoders: {mine: {adapter: litellm, model: openai/tiny, api_base: 'http://127.0.0.1:9/v1'}}\n", "utf-8"
    )
    assert json.loads(tlac_command("doctor", "--json").out)["encoders"]["mine"] == "hosted, no key needed"


def test_doctor_checks_backends_where_it_is_asked_to(
    tlac_command, encoders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("tlac.cli.listings.check_calls", lambda name: asked.append(name) or ["answers"])
    found = json.loads(tlac_command("doctor", "--check", "--json").out)["backends"]
    assert found["embedded"] == "ready; answers"
    assert "gemini" not in asked


def test_init_writes_a_file_that_names_a_backend_and_a_dataset(tlac_command) -> None:
    shown = tlac_command("init", "--name", "flash: 2", "--model", "gemini/gemini-2.5-flash", "--images", "my photos")
    assert shown.code == 0, shown.err
    assert "with GEMINI_API_KEY set" in shown.out
    backend = load_backend("flash: 2")
    assert (backend.spec.model, backend.spec.api_key_env) == ("gemini/gemini-2.5-flash", "GEMINI_API_KEY")
    assert load_dataset_config("my-images").spec.options == {"path": "my photos"}
    assert Path("tlac.yaml").read_text(encoding="utf-8").count("#") >= 5
    again = tlac_command("init", "--name", "other", "--model", "openai/gpt-4o", "--images", "photos")
    assert (again.code, again.err) == (2, "tlac: tlac.yaml is there already: edit it, or move it away first\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_gets_its_script(tlac_command, shell: str) -> None:
    shown = tlac_command("completion", shell)
    assert shown.code == 0, shown.err
    assert "_TLAC_COMPLETE" in shown.out


@pytest.mark.parametrize(
    ("typed", "incomplete", "offered"),
    [
        (["bench", "--backend"], "gem", {"gemini"}),
        (["bench", "--dataset"], "cifar10", {"cifar10", "cifar10-samples", "cifar100", "cifar100-samples"}),
        (["bench", "--method"], "tlac-", {"tlac-cascade", "tlac-relook", "tlac-shortlist"}),
        (["estimate", "--prompts"], "d", {"default", "default-1"}),
        (["backends", "show"], "cl", {"claude"}),
        ([], "leader", {"leaderboard"}),
    ],
)
def test_names_complete_in_the_shell(typed: list[str], incomplete: str, offered: set[str]) -> None:
    made = BashComplete(cli, {}, "tlac", "_TLAC_COMPLETE")
    assert {item.value for item in made.get_completions(typed, incomplete)} == offered
