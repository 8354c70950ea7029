from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fakes import make_png
from tests.support.made_runs import write_run
from tests.support.reported_runs import prediction, some_run, write_reported_run
from tlac.report import samples as columns
from tlac.report.run_page import write_report
from tlac.results.predictions import encode_predictions
from tlac.scoring.predictions import Predictions
from tlac.types import Sample


def test_a_run_gets_its_page_in_its_folder(tlac_command, tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, some_run())
    (folder / "report.html").unlink()
    shown = tlac_command("report", folder)
    assert (shown.code, shown.out.strip()) == (0, str(folder / "report.html"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "fake, tlac" in page
    assert page.rstrip().endswith("</html>")


def test_the_page_of_a_bench_is_the_page_that_is_made_later(tlac_command, tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, some_run())
    written = (folder / "report.html").read_bytes()
    tlac_command("report", folder)
    again = (folder / "report.html").read_bytes()
    assert again.partition(b'id="content"')[2] == written.partition(b'id="content"')[2]


def test_the_page_links_the_images_that_are_still_on_this_disk(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    run, samples = some_run(), []
    for place, one in enumerate(run.predictions):
        path = tmp_path / "photos" / f"a photo {place}.png"
        path.write_bytes(make_png(place))
        samples.append(Sample(one.sample, path, one.label))
    folder = write_run(tmp_path / "runs", run.record, run.predictions, run.metrics, {})
    write_report(replace(run, folder=folder), samples)
    assert "../../photos/a photo 3.png" in (folder / "report.html").read_text()
    samples[3].source.unlink()
    tlac_command("report", folder)
    page = (folder / "report.html").read_text()
    assert "../../photos/a photo 4.png" in page
    assert "../../photos/a photo 3.png" not in page


def test_several_runs_become_a_comparison(tlac_command, tmp_path: Path) -> None:
    write_reported_run(tmp_path / "runs", some_run())
    write_reported_run(tmp_path / "runs", some_run(run="two", backend="other"))
    shown = tlac_command("report", tmp_path / "runs", "-o", tmp_path / "both" / "page.html")
    assert shown.code == 0, shown.err
    page = (tmp_path / "both" / "page.html").read_text(encoding="utf-8")
    assert "2 configurations on 1 dataset<" in page
    assert tlac_command("report", tmp_path / "runs").out == "comparison.html\n"
    assert (tmp_path / "here" / "comparison.html").is_file()


def test_thumbnails_beyond_the_limit_lie_beside_the_page(
    tlac_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_INLINE_BYTES", 1)
    folder = write_reported_run(tmp_path / "runs", some_run())
    tlac_command("report", folder, "-o", tmp_path / "sent" / "page.html")
    beside = sorted(path.name for path in (tmp_path / "sent" / "page-images").iterdir())
    kept = sorted(path.name for path in (folder / "thumbnails").iterdir())
    assert len(beside) == 11
    assert set(beside) < set(kept)
    # in the run's own folder they lie already
    tlac_command("report", folder)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["thumbnails"]


def test_figures_and_tables_are_written_and_no_page(tlac_command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need tlac[figures]")
    folder = write_reported_run(tmp_path, some_run())
    shown = tlac_command("report", folder, "--figures", tmp_path / "figures")
    assert shown.code == 0, shown.err
    suffixes = {Path(line).suffix for line in shown.out.splitlines()}
    assert suffixes == {".pdf", ".png", ".svg", ".tex", ".md"}
    assert all(Path(line).is_file() for line in shown.out.splitlines())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"top5": ((99, 0.5),)}, "000.png: a class outside the 4 that run.json lists"),
        ({"words": (-1,)}, "line 1: Expected `int` >= 0 - at `$.words[0]`"),
        ({"label": 4}, "000.png: a class outside the 4 that run.json lists"),
    ],
)
def test_a_run_that_names_a_class_there_is_not_is_refused(tlac_command, tmp_path, change, complaint) -> None:
    folder = write_reported_run(tmp_path, some_run())
    lines = folder / "predictions.jsonl"
    lines.write_bytes(b"".join(encode_predictions(Predictions.of([replace(prediction(0, 0, 0), **change)]))))
    shown = tlac_command("report", folder)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert complaint in shown.err


@pytest.mark.parametrize(
    ("command", "name"),
    [("report", "run.json"), ("export", "predictions.jsonl"), ("calibrate", "metrics.json"), ("export", "calls.jsonl")],
)
def test_a_runs_own_files_are_not_written_over(tlac_command, tmp_path: Path, command: str, name: str) -> None:
    folder = write_reported_run(tmp_path, some_run())
    before = (folder / name).read_bytes()
    shown = tlac_command(command, folder, "-o", folder / name)
    assert (shown.code, (folder / name).read_bytes()) == (2, before)
    assert f"{name}: belongs to the run in that folder: choose another -o" in shown.err


def test_what_is_no_run_is_named(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, complaint in (("empty", "holds no run"), ("nowhere", "no such folder")):
        shown = tlac_command("report", tmp_path / place)
        assert (shown.code, shown.err.count("\n")) == (2, 1)
        assert complaint in shown.err


def test_a_place_that_can_not_be_written_is_named(tlac_command, tmp_path: Path) -> None:
    folder = write_reported_run(tmp_path, some_run())
    (tmp_path / "file").write_text("")
    shown = tlac_command("report", folder, "-o", tmp_path / "file" / "page.html")
    assert shown.code == 1
    assert "choose another -o" in shown.err


@pytest.mark.slow
def test_fifty_thousand_samples_make_one_page(tmp_path: Path) -> None:
    from tlac.report.run_page import render_run
    from tlac.scoring.metrics import measure

    one = some_run().predictions
    many = Predictions.of(replace(one[number % 12], sample=f"{number:05}.png") for number in range(50_000))
    page, _ = render_run(replace(some_run(), predictions=many, metrics=measure(many)), "images")
    assert len(page) < 20_000_000
    assert "50,000 samples" in page
