from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.support.fakes import make_png
from tests.support.table_files import write_parquet


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat", "cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name / f"{number}.png").write_bytes(make_png(number))
    return tmp_path / "pets"


def test_show_says_what_was_read(tlac_command, pets: Path) -> None:
    facts = json.loads(tlac_command("datasets", "show", f"folder:{pets}", "--json").out)
    assert (facts["n"], facts["classes"], facts["split"]) == (3, ["cat", "dog"], "all")
    assert facts["source"] == str(pets)
    assert len(facts["digest"]) == 64


def test_show_takes_a_split_and_a_subset(tlac_command, shared: Path, tmp_path: Path) -> None:
    split_file = "split_zhou_DescribableTextures.json"
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    (tmp_path / "dtd" / split_file).write_bytes((shared / "coop-splits" / split_file).read_bytes())
    arguments = ("datasets", "show", "dtd", "--data", tmp_path, "--json")
    facts = json.loads(tlac_command(*arguments, "--split", "novel").out)
    assert (facts["n"], len(facts["classes"]), facts["split"]) == (828, 23, "novel")
    facts = json.loads(tlac_command(*arguments, "--subset", "val").out)
    assert (facts["n"], facts["split"]) == (1128, "all/val")
    assert facts["source"] == str(tmp_path / "dtd" / split_file)


def test_verify_of_a_good_dataset_ends_well(tlac_command, pets: Path) -> None:
    shown = tlac_command("datasets", "verify", f"folder:{pets}")
    assert shown.code == 0
    assert "note: its file expects no counts: none were compared" in shown.out
    assert "nothing wrong found: 3 test images, 2 classes, 3 looked at" in shown.out
    shown = tlac_command("datasets", "verify", "imagenet-samples")
    assert shown.code == 0
    assert "imagenet-samples: as expected: 20 test images, 1000 classes, 20 looked at" in shown.out


def test_verify_names_what_is_wrong_and_exits_1(tlac_command, pets: Path) -> None:
    (pets / "dog" / "2.png").write_bytes(make_png(2)[:60])
    shown = tlac_command("datasets", "verify", f"folder:{pets}")
    assert shown.code == 1
    assert "broken image: dog/2.png: the image is broken or cut short" in shown.out
    assert shown.err.rstrip().endswith("1 finding: not as expected, see above")
    assert tlac_command("datasets", "verify", f"folder:{pets}", "--quick").code == 0
    document = json.loads(tlac_command("datasets", "verify", f"folder:{pets}", "--json").out)
    assert (document["good"], document["findings"][0]["kind"]) == (False, "broken image")


def test_prepare_lists_steps_by_hand_and_exits_1_until_they_are_done(tlac_command, tmp_path: Path) -> None:
    shown = tlac_command("datasets", "prepare", "ucf101", "--data", tmp_path)
    assert shown.code == 1
    assert f"  1. extract UCF-101-midframes.zip into {tmp_path / 'ucf101'}" in shown.out
    # not what was just run
    assert f"unusable: ucf101: {tmp_path / 'ucf101'} is missing\n" in shown.out
    assert shown.err == "tlac: ucf101: not ready yet: do the steps above, and run the command again\n"
    document = json.loads(tlac_command("datasets", "prepare", "ucf101", "--data", tmp_path, "--json").out)
    assert document["prepared"]["folder"] == str(tmp_path / "ucf101")
    assert len(document["prepared"]["steps"]) == 2


def test_what_a_missing_dataset_is_told_to_run_runs(tlac_command, tmp_path: Path) -> None:
    own = tmp_path / "my planes.yaml"
    own.write_text("loader: aircraft\nprotocol: ours\noptions: {folder: planes}\ndownload: {steps: [fly]}\n")
    for name in ("ucf101", str(own)):
        err = tlac_command("datasets", "show", name, "--data", tmp_path / "my data").err
        command = shlex.split(err.split("`")[1])
        assert command[0] == "tlac"
        assert "by hand, where it is not done yet:" in tlac_command(*command[1:]).out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("prepare", "ucf101"), "--data ROOT"),
        (("prepare", "imagenet-samples"), "needs no preparing"),
        (("verify", "ucf102"), "did you mean 'ucf101'"),
        (("show", "dtd"), "--data ROOT"),
    ],
)
def test_wrong_use_is_one_clear_line(tlac_command, arguments: tuple[str, ...], complaint: str) -> None:
    shown = tlac_command("datasets", *arguments)
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert complaint in shown.err


def test_what_was_skipped_stands_in_show_bench_verify_and_run_json(
    tlac_command, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cat" / "notes.txt").write_text("x")
    (pets / "emu").mkdir()
    notes = [
        "1 file or folder skipped, which are no images of a class: cat/notes.txt",
        "1 class without images: emu",
    ]
    assert json.loads(tlac_command("datasets", "show", f"folder:{pets}", "--json").out)["notes"] == notes
    for command in ("show", "verify"):
        shown = tlac_command("datasets", command, f"folder:{pets}").out
        assert [f"note: {note}" for note in notes] == [line for line in shown.splitlines() if "note:" in line][:2]
    monkeypatch.chdir(pets.parent)
    bench = ("bench", "--backend", "embedded", "--encoder", "minilm", "--method", "slac")
    shown = tlac_command(*bench, "--dataset", f"folder:{pets}", "--out", "runs", "--store", "store", "--json")
    assert shown.code == 0, shown.err
    for note in notes:
        assert f"tlac: folder:{pets}: {note}" in shown.err
    (run,) = json.loads(shown.out)["runs"]
    record = json.loads((Path(run["run"]) / "run.json").read_text())
    assert (record["dataset_notes"], record["dataset_details"]) == (notes, {})
    assert "; ".join(notes) in (Path(run["run"]) / "report.html").read_text(encoding="utf-8")


def test_names_that_no_answer_can_tell_apart_are_said(tlac_command) -> None:
    shown = tlac_command("datasets", "show", "imagenet-samples").out
    assert "note: 2 names of several classes, which no answer can tell apart: 'missile' (classes 657, 744)" in shown


def test_the_chosen_columns_are_shown(tlac_command, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "set")
    facts = json.loads(tlac_command("datasets", "show", f"hf:{path},label_column=label", "--json").out)
    assert facts["details"] == {"image column": "image", "label column": "label", "table split": "test"}
    assert "label column  label" in tlac_command("datasets", "show", f"hf:{path}").out
    assert json.loads(tlac_command("datasets", "verify", f"hf:{path}", "--json").out)["details"] == facts["details"]


def test_a_dataset_is_exported_without_its_labels(tlac_command) -> None:
    shown = tlac_command("datasets", "export", "cifar10-samples", "photos")
    assert (shown.code, shown.out) == (0, "photos: 20 images and classes.txt\n")
    names = sorted(path.name for path in Path("photos").iterdir())
    assert names == [*(f"{number:06d}.png" for number in range(1, 21)), "classes.txt"]
    assert Path("photos/classes.txt").read_text().split()[:2] == ["airplane", "automobile"]
    again = tlac_command("datasets", "export", "cifar10-samples", "photos")
    assert (again.code, again.err) == (2, "tlac: photos: is not empty: name a folder that is not there yet\n")
