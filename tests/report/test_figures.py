from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import PIL.Image
import pytest

from tests.support.reported_runs import HOSTILE, hostile_run, prediction, some_run
from tlac.errors import UsageError
from tlac.report.paper import comparison_tables, draw_comparison, draw_run, run_tables, to_latex, to_markdown

pytest.importorskip("matplotlib", reason="figures need tlac[figures]")


@pytest.mark.slow
def test_each_chart_of_a_run_is_a_pdf_an_svg_and_a_png_of_one_column_and_of_two(tmp_path: Path) -> None:
    written = draw_run(some_run(), tmp_path / "figures")
    names = {path.name for path in written}
    assert {"classes.png", "confusions.svg", "accuracy-by-score.pdf", "risk-coverage-wide.svg"} <= names
    assert {"stage-1-latency-of-a-call.png", "stage-1-cost-of-a-call.svg"} <= names
    for path in written:
        if path.suffix == ".png":
            with PIL.Image.open(path) as picture:
                assert picture.width > (1800 if path.stem.endswith("-wide") else 700)
        elif path.suffix == ".svg":
            # text is text, not outlines
            assert "<text" in path.read_text()
        else:
            assert b"/FontFile2" in path.read_bytes()


def test_equal_runs_draw_equal_files(tmp_path: Path) -> None:
    first, second = (draw_comparison([some_run()], tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.slow
def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    for path in draw_run(hostile_run(), tmp_path):
        if path.suffix == ".svg":
            # the style element is matplotlib's own; of scripts there is none
            assert not re.search(r"<script|<img|onload=", re.sub(r"(?s)<!--.*?-->", "", path.read_text()))


def test_several_runs_are_drawn_beside_each_other(tmp_path: Path) -> None:
    written = draw_comparison([some_run(), some_run(backend="other", answers_cost_usd=0.5)], tmp_path)
    stems = {"accuracy", "accuracy-wide", "cost-cars", "cost-cars-wide"}
    assert {path.name for path in written} == {f"{stem}.{form}" for stem in stems for form in ("pdf", "svg", "png")}


def test_the_legend_lies_outside_and_names_every_configuration_once(tmp_path: Path) -> None:
    runs = [some_run(backend=f"backend {place}", answers_cost_usd=0.5) for place in range(4)]
    draw_comparison(runs, tmp_path)
    for name in ("accuracy", "cost-cars"):
        drawn = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        texts = [text for one in drawn.iter() if one.tag.endswith("text") and (text := one.text)]
        assert [text for text in texts if text.startswith("backend")] == [
            f"backend {place}, tlac" for place in range(4)
        ]
        groups = {one.get("id"): one for one in drawn.iter() if one.get("id")}
        assert "legend_1" in groups
        assert not [one for one in groups["axes_1"].iter() if one.get("id") == "legend_1"]


def test_a_configuration_of_unknown_cost_is_named_in_the_cost_figure(tmp_path: Path) -> None:
    draw_comparison([some_run(), some_run(backend="other", stage2_backend="other", answers_cost_usd=None)], tmp_path)
    assert "other, tlac: cost unknown" in (tmp_path / "cost-cars.svg").read_text()


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


def test_a_latex_table_without_rows_has_no_empty_line_which_would_begin_a_row() -> None:
    right = some_run([prediction(number, number, number) for number in range(4)])
    (confusions,) = (table for table in run_tables(right) if table.name == "confusions")
    assert to_latex(confusions).splitlines()[-3:] == [r"\midrule", r"\bottomrule", r"\end{tabular}"]


def test_latex_and_markdown_escape_what_they_would_read() -> None:
    (_, _, confusions) = run_tables(hostile_run())
    latex, markdown = to_latex(confusions), to_markdown(confusions)
    assert latex.count("\n") == len(confusions.rows) + 6
    assert confusions.notes == ()
    assert r"\{\{ 7 * 7 \}\}\{\% raw \%\}\$\{window.ran = 6\}" in latex
    assert r"\<script\>window.ran = 1\</script\>" in markdown
    assert not re.search(r"(?<!\\)[<>]", markdown)
    assert all(len(line) < 400 for line in markdown.splitlines())
    assert len(HOSTILE[-1]) == 100_000


def test_what_is_marked_is_explained_below_the_table() -> None:
    right = tuple(prediction(number, 0, 0) for number in range(40))
    wrong = tuple(prediction(number, 0, 1) for number in range(40))
    matrix, differences = comparison_tables([some_run(right), some_run(wrong, backend="bad", is_complete=False)])
    assert [row[1] for row in matrix.rows] == ["100.0 *", "0.0 †"]
    for text in (to_latex(matrix), to_markdown(matrix)):
        assert "Significantly better than every other configuration" in text
        assert "† The run is incomplete" in text
    assert "p of McNemar's exact test after Holm's correction" in to_markdown(differences)
    (alone, _) = comparison_tables([some_run(right)])
    assert not [note for note in alone.notes if note.startswith(("*", "†"))]
