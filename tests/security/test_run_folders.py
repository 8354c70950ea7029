"""Run folders that a stranger made: they are refused by name, or read as what they are; nothing of ours leaks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.made_runs import made_run, written
from tests.support.reported_runs import some_run, write_reported_run
from tlac.errors import InputError
from tlac.report.run_page import find_originals, write_report
from tlac.results.folder import find_runs, find_thumbnails, inherited_files, load_run
from tlac.scoring.metrics import measure

FILES = ("run.json", "predictions.jsonl", "calls.jsonl")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_reported_run(tmp_path / "runs", some_run())


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "mine"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"{name}: is a link"):
        load_run(folder).calls()


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_does_not_hang(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match="a pipe"):
        load_run(folder).calls()


@pytest.mark.parametrize("name", FILES)
def test_fifty_gigabytes_of_nothing_are_refused(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(InputError, match=r"holds more than|longer than"):
        load_run(folder).calls()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("nested", ["[" * 100_000, '{"unknown":' + "[" * 100_000])
def test_deep_nesting_is_one_line(folder: Path, name: str, nested: str) -> None:
    (folder / name).write_text(nested + "\n")
    with pytest.raises(InputError) as raised:
        load_run(folder).calls()
    assert name in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "1e308", "-1"])
def test_numbers_that_no_run_has_are_refused(folder: Path, number: str) -> None:
    document = (folder / "run.json").read_text()
    (folder / "run.json").write_text(document.replace('"answers_cost_usd": 0.25', f'"answers_cost_usd": {number}'))
    with pytest.raises(InputError, match=r"run\.json"):
        load_run(folder)
    (folder / "run.json").write_text(document)
    lines = (folder / "predictions.jsonl").read_text()
    if number != "-1":
        (folder / "predictions.jsonl").write_text(lines.replace('"score":0.9,', f'"score":{number},'))
        with pytest.raises(InputError, match=r"predictions\.jsonl: line 1"):
            load_run(folder)
        (folder / "predictions.jsonl").write_text(lines)
    calls = (folder / "calls.jsonl").read_text()
    (folder / "calls.jsonl").write_text(calls.replace('"cost_usd":0.001,', f'"cost_usd":{number},'))
    with pytest.raises(InputError, match=r"calls\.jsonl: line 1"):
        load_run(folder).calls()


def test_a_thumbnail_that_is_a_link_or_no_picture_reaches_no_page_and_no_other_run(
    folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "id_rsa"
    secret.write_bytes(b"PRIVATE KEY")
    shown = sorted((folder / "thumbnails").glob("*.webp"))
    shown[0].unlink()
    shown[0].symlink_to(secret)
    shown[1].write_bytes(b"PRIVATE KEY")
    shown[2].unlink()
    os.mkfifo(shown[2])
    assert shown[0].stem not in find_thumbnails(folder)
    page = write_report(load_run(folder)).read_text()
    # base64 of it
    assert "UFJJVkFURSBLRV" not in page
    taken = {name: content for name, content in inherited_files(folder).items() if isinstance(content, bytes)}
    assert b"PRIVATE KEY" not in taken.values()
    assert len(taken) == len(shown) - 2


def test_a_folder_of_thumbnails_that_is_a_link_is_none(folder: Path, tmp_path: Path) -> None:
    (folder / "thumbnails").rename(tmp_path / "elsewhere")
    (folder / "thumbnails").symlink_to(tmp_path / "elsewhere")
    assert find_thumbnails(folder) == {}
    assert not [name for name in inherited_files(folder) if name.endswith(".webp")]


@pytest.mark.parametrize(
    "path", ["../../id_rsa", "javascript:alert(1)", "/etc/passwd", "a\u0000b.png", "x" * 5000 + ".png"]
)
def test_a_path_that_is_no_image_is_no_link(folder: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    sha256 = next(iter(find_thumbnails(folder)))
    (folder / "thumbnails" / "originals.json").write_text(json.dumps({sha256: path}))
    assert find_originals(folder) == {}


def test_folders_in_each_other_and_in_circles_are_gone_through(tmp_path: Path) -> None:
    run = written(made_run([(0, 0)], run="one"), tmp_path / "runs")
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs")
    deep = tmp_path / "runs"
    for _ in range(300):
        deep /= "d"
    deep.mkdir(parents=True)
    assert find_runs(tmp_path / "runs") == [run]


ODD = "a\x1b[31m\x1b]0;title\x07\x9b31m\u202egnp\u2066\nb"


def test_names_reach_the_terminal_without_control_codes_or_direction_marks(tlac_command, tmp_path: Path) -> None:
    run = some_run()
    for number in range(2):
        record = replace(
            run.record, run=f"run{number}", backend=ODD, dataset=ODD, method=ODD, matching=ODD, protocol=ODD,
            encoder=f"{ODD}{number}", template=ODD, prompts=ODD, model=ODD, classes=(ODD, *run.record.classes[1:]),
        )  # fmt: skip
        written(replace(run, record=record, metrics=measure(run.predictions)), tmp_path / "runs")
    folders = sorted((tmp_path / "runs").iterdir())
    for command in (
        ("leaderboard", tmp_path / "runs"),
        ("leaderboard", tmp_path / "runs", "--format", "json"),
        ("leaderboard", tmp_path / "runs", "--format", "csv"),
        ("leaderboard", tmp_path / "runs", "--format", "markdown"),
        ("frontier", tmp_path / "runs"),
        ("frontier", tmp_path / "runs", "--json"),
        ("compare", *folders),
        ("compare", *folders, "--json"),
        ("report", *folders),
        ("report", *folders, "--figures", tmp_path / "figures"),
    ):
        shown = tlac_command(*command)
        assert shown.code == 0, (command, shown.err)
        for character in (shown.out + shown.err).replace("\n", ""):
            assert character.isprintable(), (command, character)
    exact = json.loads(tlac_command("leaderboard", tmp_path / "runs", "--format", "json").out)
    assert exact["entries"][0]["backend"] == ODD
