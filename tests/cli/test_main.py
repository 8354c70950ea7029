from __future__ import annotations

import subprocess
import sys

import pytest

from tlac.cli import _COMMANDS, _SECTIONS


def test_help_lists_every_command_and_how_to_start(tlac_command) -> None:
    shown = tlac_command("--help")
    assert shown.code == 0
    for name in _COMMANDS:
        assert f"\n  {name} " in shown.out
    assert "tlac bench --backend embedded" in shown.out


def test_help_is_in_sections_of_at_most_16_entries(tlac_command) -> None:
    shown = tlac_command("--help").out
    headings = [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert [heading for heading in headings if heading not in ("Usage", "Options")] == list(_SECTIONS)
    assert sum(map(len, _SECTIONS.values())) <= 16


def test_help_of_bench_is_in_sections_and_hides_what_one_method_uses(tlac_command) -> None:
    shown = tlac_command("bench", "--help").out
    places = [shown.index(f"\n{heading}:\n") for heading in ("What to run", "Prompts and scoring", "Calls and cost")]
    assert places == sorted(places)
    for option in ("--backend", "--encoder", "--max-cost", "--json"):
        assert f"\n  {option}" in shown
    assert "--relook-below" not in shown
    assert "--clip-templates" not in shown


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_help(tlac_command, name: str) -> None:
    shown = tlac_command(name, "--help")
    assert shown.code == 0
    assert shown.out.startswith(f"Usage: tlac {name}")


def test_an_error_is_one_line_and_debug_shows_the_traceback(tlac_command) -> None:
    shown = tlac_command("backends", "show", "gemni")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("tlac: unknown backend 'gemni': did you mean 'gemini'?")
    assert shown.err.count("\n") == 1
    command = [sys.executable, "-m", "tlac", "backends", "show", "gemni", "--debug"]
    debugged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert debugged.returncode != 0
    assert "Traceback" in debugged.stderr


def test_a_fault_of_our_own_is_one_line_too(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(kind: str) -> list[str]:
        raise RuntimeError("bug")

    monkeypatch.setattr("tlac.config.files.list_names", break_down)
    shown = tlac_command("backends", "list")
    assert (shown.code, shown.err) == (1, "tlac: unexpected RuntimeError: bug (--debug shows where)\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["bensh"], "No such command 'bensh'"),
        (["bench"], "name a dataset with --dataset"),
        (["bench", "--dataset", "cifar10-samples"], "--backend"),
        (["bench", "--backend", "embedded", "--dataset", "cifar10-samples", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_use_exits_with_2(tlac_command, arguments: list[str], complaint: str) -> None:
    shown = tlac_command(*arguments)
    assert shown.code == 2
    assert complaint in shown.err


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom tlac.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        "    print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    heavy = {"numpy", "torch", "litellm", "diskcache", "yaml", "msgspec", "rich.console", "PIL"}
    assert heavy & set(loaded) == set()
