from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.support.made_runs import made_run, written


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    out = tmp_path / "runs"
    for name, right, changes in (
        ("a", 3, {"backend": "bad|*name*"}),
        ("b", 4, {}),
        ("c", 5, {"is_complete": False, "backend": "=half"}),
    ):
        written(made_run([(0, 0)] * right + [(0, 1)] * (5 - right), run=name, **changes), out)
    return out


def test_runs_are_ranked_in_a_table(tlac_command, runs: Path) -> None:
    shown = tlac_command("leaderboard", runs)
    assert shown.code == 0
    ranked = [line.split()[:3] for line in shown.out.splitlines()[1:4]]
    assert ranked == [["1", "cars", "fake"], ["2", "cars", "bad|*name*"], ["-", "cars", "=half"]]
    assert "(incomplete)" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_markdown_escapes_what_names_may_hold(tlac_command, runs: Path) -> None:
    lines = tlac_command("leaderboard", runs, "--format", "markdown").out.splitlines()
    assert lines[0].startswith("| rank | dataset | protocol | backend |")
    assert lines[3].startswith("| 2 | cars | ours | bad\\|\\*name\\* | tlac | ladder | letters | 5 | 60.0 |")
    assert lines[4].startswith("| - | cars | ours | =half (incomplete) |")


def test_what_tells_the_runs_of_a_dataset_apart_has_a_column(tlac_command, runs: Path) -> None:
    assert tlac_command("leaderboard", runs).out.splitlines()[0].split()[:4] == ["rank", "dataset", "backend", "method"]
    # another dataset has a protocol of its own anyway
    written(made_run([(0, 0)], run="d", dataset="pets", protocol="theirs"), runs)
    assert "protocol" not in tlac_command("leaderboard", runs).out
    written(made_run([(0, 0)], run="e", protocol="official", encoder="minilm"), runs)
    shown = tlac_command("leaderboard", runs).out
    assert shown.splitlines()[0].split()[:6] == ["rank", "dataset", "protocol", "backend", "method", "encoder"]
    assert "official" in shown


@pytest.mark.parametrize(
    ("setting", "value"),
    [("prompts", "default:hints=30"), ("template", "bare"), ("stage2_backend", "other"), ("shuffle_classes", 7)],
)
def test_runs_that_were_asked_otherwise_do_not_look_alike(
    tlac_command, runs: Path, setting: str, value: object
) -> None:
    assert setting not in tlac_command("leaderboard", runs, "--format", "markdown").out
    written(made_run([(0, 0)], run="d", **{setting: value}), runs)
    for form in ("markdown", "csv"):
        shown = tlac_command("leaderboard", runs, "--format", form).out
        assert (setting in shown, str(value) in shown) == (True, True)


def test_csv_and_json_hold_every_column(tlac_command, runs: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(tlac_command("leaderboard", runs, "--format", "csv").out)))
    assert [(row["rank"], row["accuracy"]) for row in rows] == [("1", "0.8"), ("2", "0.6"), ("", "1.0")]
    # a spreadsheet must not take a name for a formula
    assert rows[2]["backend"] == "'=half"
    entries = json.loads(tlac_command("leaderboard", runs, "--format", "json").out)["entries"]
    assert [(entry["rank"], entry["is_complete"]) for entry in entries] == [(1, True), (2, True), (None, False)]


def test_a_broken_run_is_named_and_passed_over(tlac_command, runs: Path) -> None:
    (runs / "b" / "predictions.jsonl").write_text("{}\n")
    shown = tlac_command("leaderboard", runs)
    assert shown.code == 0
    assert "tlac: passed over:" in shown.err
    assert "predictions.jsonl: line 1" in shown.err
    assert [line.split()[0] for line in shown.out.splitlines()[1:3]] == ["1", "-"]


def test_a_class_that_is_not_listed_makes_a_run_unreadable(tlac_command, tmp_path: Path) -> None:
    written(made_run([(0, 7)], run="a"), tmp_path / "runs")
    shown = tlac_command("leaderboard", tmp_path / "runs")
    assert shown.code == 2
    assert "0.png: a class outside the 3 that run.json lists" in shown.err


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_folder_without_runs_is_said(tlac_command, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    shown = tlac_command("leaderboard", tmp_path / name)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert name in shown.err


def test_off_a_terminal_no_name_is_broken_in_two(tlac_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    name = "a-backend-with-a-name-that-is-longer-than-any-column-of-eighty-could-hold-beside-others"
    written(made_run([(0, 0)], run="a", backend=name), tmp_path / "runs")
    assert name in tlac_command("leaderboard", tmp_path / "runs").out


def test_what_was_a_command_of_its_own_still_works_and_says_its_new_name(tlac_command, runs: Path) -> None:
    for old, new in (
        (("frontier", runs), ("leaderboard", runs, "--frontier")),
        (("frontier", runs, "--json"), ("leaderboard", "--frontier", runs, "--json")),
        (
            ("recommend", runs, "--budget", "10", "--images", "50"),
            ("leaderboard", "--recommend", runs, "--budget", "10", "--images", "50"),
        ),
    ):
        before, now = tlac_command(*old), tlac_command(*new)
        assert (before.code, before.out) == (now.code, now.out)
        assert now.code == 0, now.err
        assert (
            before.err == f"tlac: `tlac {old[0]}` is now `tlac leaderboard --{old[0]}`; the old name is about to go\n"
        )


def test_a_recommendation_needs_a_budget_and_takes_it_for_a_thousand_images(tlac_command, runs: Path) -> None:
    shown = tlac_command("leaderboard", runs, "--recommend")
    assert (shown.code, shown.err.count("--recommend needs --budget USD")) == (2, 1)
    told = tlac_command("leaderboard", runs, "--recommend", "--budget", "1000")
    assert told.out == tlac_command("leaderboard", runs, "--recommend", "--budget", "1000", "--images", "1000").out
    assert " for 1,000 images: the most accurate of " in told.out
    assert "It ran with prompts default, encoder letters, matching ladder, template '{}'." in told.out
    assert tlac_command("leaderboard", runs, "--frontier", "--format", "csv").code == 2


def test_runs_that_differ_in_their_matching_alone_can_be_told_apart_on_the_frontier(
    tlac_command, tmp_path: Path
) -> None:
    for name, matching in (("a", "ladder"), ("b", "paper")):
        written(made_run([(0, 0), (0, 1)], run=name, matching=matching), tmp_path / "runs")
    shown = tlac_command("leaderboard", tmp_path / "runs", "--frontier").out
    assert shown.splitlines()[1].split()[:4] == ["backend", "method", "matching", "top-1"]
    assert [line.split()[2] for line in shown.splitlines()[2:]] == ["ladder", "paper"]
    advice = tlac_command("leaderboard", tmp_path / "runs", "--recommend", "--budget", "1000", "--images", "10").out
    assert "fake tlac (matching ladder): 50.0 %" in advice
    # nobody else was asked stage 2, unless the column says so
    written(made_run([(0, 0), (0, 1)], run="c", stage2_backend="other"), tmp_path / "runs")
    shown = tlac_command("leaderboard", tmp_path / "runs", "--frontier").out
    assert shown.splitlines()[1].split()[2:4] == ["matching", "stage2_backend"]
