from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tlac.cli import _COMMANDS, _SECTIONS


def test_help_lists_every_command_and_how_to_start(tlac_command) -> None:
    shown = tlac_command("--help")
    assert shown.code == 0
    entries = [entry for listed in _SECTIONS.values() for entry in listed]
    for entry in entries:
        assert f"\n  {entry}" in shown.out
    assert {name for entry in entries for name in entry.split(", ")} == {*_COMMANDS} - {"completion"}
    assert "tlac bench --backend embedded" in shown.out


def test_help_is_in_sections_of_at_most_16_entries(tlac_command) -> None:
    shown = tlac_command("--help").out
    headings = [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert [heading for heading in headings if heading not in ("Usage", "Options")] == list(_SECTIONS)
    assert sum(map(len, _SECTIONS.values())) <= 16


def test_help_of_bench_is_in_sections(tlac_command) -> None:
    shown = tlac_command("bench", "--help").out
    places = [shown.index(f"\n{heading}:\n") for heading in ("What to run", "Prompts and scoring", "Calls and cost")]
    assert places == sorted(places)
    for option in ("--backend", "--encoder", "--max-cost", "--json"):
        assert f"\n  {option}" in shown


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
        (["bensh"], "unknown command 'bensh': did you mean 'bench'?"),
        (["bench"], "name a dataset with --dataset"),
        (["bench", "--dataset", "cifar10-samples"], "--backend"),
        (["bench", "--backend", "embedded", "--dataset", "cifar10-samples", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_use_exits_with_2(tlac_command, arguments: list[str], complaint: str) -> None:
    shown = tlac_command(*arguments)
    assert shown.code == 2
    assert complaint in shown.err


@pytest.mark.parametrize("asked", [["bench"], ["cache", "prune"], []])
def test_help_of_a_command_is_its_help(tlac_command, asked: list[str]) -> None:
    assert tlac_command("help", *asked).out == tlac_command(*asked, "--help").out


# these two need descriptors and folders of a process of its own: 1 s each
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["methods", "list", "--json"], ["--help"]])
def test_a_full_standard_output_is_one_line(command: list[str]) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tlac", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        "tlac: standard output can't be written: No space left on device\n",
    )


def test_a_deleted_working_directory_is_one_line(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom tlac.cli import main\nos.mkdir(sys.argv[1])\nos.chdir(sys.argv[1])\n"
        "os.rmdir(sys.argv[1])\nmain(['backends', 'list'])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "gone")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "tlac: the working directory does not exist any more: change to another, and run the command again\n",
    )


def test_a_reader_that_goes_away_is_told_nothing() -> None:
    command = f"{sys.executable} -m tlac datasets list | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_command_leaves_signals_log_and_garbage_collection_as_they_were(tlac_command) -> None:
    def settings() -> list[object]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        log = logging.getLogger("tlac")
        return [*map(signal.getsignal, numbers), log.level, *log.handlers, gc.get_threshold(), list(warnings.filters)]

    before = settings()
    for arguments in (["methods", "list"], ["methods", "list", "--debug"], ["bensh", "--debug"]):
        tlac_command(*arguments)
        assert settings() == before


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom tlac.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        "    print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    heavy = {"numpy", "torch", "litellm", "diskcache", "yaml", "msgspec", "rich.console", "PIL"}
    assert heavy & set(loaded) == set()


def test_what_a_thread_still_imports_warns_of_nothing_below_the_last_line() -> None:
    script = """
import sys, threading, warnings

def warn_late():
    threading.main_thread().join()
    warnings.warn("too late", stacklevel=1)

threading.Thread(target=warn_late).start()
sys.argv = ["tlac", *sys.argv[1:]]
from tlac.cli import main
main()
"""
    run = [sys.executable, "-c", script, "--version"]
    assert "too late" not in subprocess.run(run, capture_output=True, text=True, check=True).stderr
    debugged = subprocess.run([*run, "--debug"], capture_output=True, text=True, check=True)
    assert "too late" in debugged.stderr
