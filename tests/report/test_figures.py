from __future__ import annotations

import re
from pathlib import Path

import PIL.Image
import pytest

from tests.support.reported_runs import HOSTILE, hostile_run, some_run
from tlac.errors import UsageError
from tlac.report.paper import comparison_tables, draw_comparison, draw_run, run_tables, to_latex, to_markdown

pytest.importorskip("matplotlib", reason="figures need tlac[figures]")


def test_each_chart_of_a_run_is_a_png_and_an_svg(tmp_path: Path) -> None:
    written = draw_run(some_run(), tmp_path / "figures")
    names = {path.name for path in written}
    assert {"classes.png", "confusions.svg", "accuracy-by-score.png", "risk-coverage.svg"} <= names
    assert {"stage-1-latency-of-a-call.png", "stage-1-cost-of-a-call.svg"} <= names
    for path in written:
        if path.suffix == ".png":
            with PIL.Image.open(path) as picture:
                assert picture.width > 300
        else:
            assert b"</svg>" in path.read_bytes()


def test_equal_runs_draw_equal_files(tmp_path: Path) -> None:
    first, second = (draw_comparison([some_run()], tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    for path in draw_run(hostile_run(), tmp_path):
        if path.suffix == ".svg":
            # the style element is matplotlib's own; of scripts there is none
            assert not re.search(r"<script|<img|onload=", re.sub(r"(?s)<!--.*?-->", "", path.read_text()))


def test_several_runs_are_drawn_beside_each_other(tmp_path: Path) -> None:
    written = draw_comparison([some_run(), some_run(backend="other", answers_cost_usd=0.5)], tmp_path)
    assert {path.name for path in written} == {"accuracy.png", "accuracy.svg", "cost-cars.png", "cost-cars.svg"}


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="choose another folder"):
        draw_run(some_run(), tmp_path / "file")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'tlac\[figures\]'"):
        draw_run(some_run(), tmp_path)


def test_tables_hold_the_numbers_of_the_page() -> None:
    headline, decisions, confusions = run_tables(some_run())
    assert ("top-1 accuracy", "66.7") in headline.rows
    assert [row[:2] for row in decisions.rows] == [("exact", "6"), ("choice", "5")]
    assert confusions.rows[0] == ("lorry", "old car", "2", "50.0")
    matrix, differences = comparison_tables([some_run(), some_run(backend="other", stage2_backend="other")])
    assert matrix.rows == (("fake, tlac", "66.7"), ("other, tlac", "66.7"))
    assert differences.rows[0][3:5] == ("12", "+0.0")


def test_latex_and_markdown_escape_what_they_would_read() -> None:
    (_, _, confusions) = run_tables(hostile_run())
    latex, markdown = to_latex(confusions), to_markdown(confusions)
    assert latex.count("\n") == len(confusions.rows) + 6
    assert r"\{\{ 7 * 7 \}\}\{\% raw \%\}\$\{window.ran = 6\}" in latex
    assert r"\<script\>window.ran = 1\</script\>" in markdown
    assert not re.search(r"(?<!\\)[<>]", markdown)
    assert all(len(line) < 400 for line in markdown.splitlines())
    assert len(HOSTILE[-1]) == 100_000
