from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.made_runs import made_run, written

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    predicted = {"better": [0, 1, 2, 0, 1, 2, 0, 0], "worse": [1, 1, 0, 1, 0, 2, 0, None]}
    return [
        written(made_run(list(zip(LABELS, choices, strict=True)), run=name), tmp_path / "runs")
        for name, choices in predicted.items()
    ]


def test_the_paired_test_is_printed(tlac_command, two: list[Path]) -> None:
    shown = tlac_command("compare", *two)
    assert shown.code == 0
    assert "A - B" in shown.out
    assert "+50.0" in shown.out
    assert "0.1250" in shown.out
    assert "n samples that both share" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_a_folder_of_runs_stands_for_each_of_them_once(tlac_command, two: list[Path]) -> None:
    document = json.loads(tlac_command("compare", two[0].parent, two[0], "--json").out)
    assert [run["run"] for run in document["runs"]] == [str(folder) for folder in sorted(two)]


def test_the_document_lists_who_is_right_where_the_other_is_wrong(tlac_command, two: list[Path]) -> None:
    document = json.loads(tlac_command("compare", *two, "--json").out)
    (pair,) = document["pairs"]
    assert (pair["first"], pair["second"]) == tuple(map(str, two))
    assert pair["only_first"] == ["0.png", "2.png", "3.png", "4.png"]
    assert pair["only_second"] == []
    assert (pair["difference"], pair["p"]) == (0.5, 0.125)
    assert (pair["n"], pair["left_out"], pair["failed"]) == (8, 0, 0)
    assert document["runs"][0]["cost_per_correct_usd"] == pytest.approx(1 / 7)


def test_an_incomplete_run_is_marked(tlac_command, two: list[Path], tmp_path: Path) -> None:
    half = written(made_run([(0, 0), (1, 0)], run="half", is_complete=False), tmp_path / "runs")
    shown = tlac_command("compare", two[0], half)
    assert "half (incomplete)" in shown.out
    assert "A - B: 6 samples are in one run only" in shown.out


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "Missing argument"),
        (("better",), "at least two"),
        (("better",) * 3, "better alone was found: name two run folders, or a folder of several"),
        (("better", "gone"), "gone"),
    ],
)
def test_wrong_use_is_said(tlac_command, two: list[Path], names: tuple[str, ...], complaint: str) -> None:
    shown = tlac_command("compare", *(two[0].parent / name for name in names))
    assert shown.code == 2
    assert complaint in shown.err
