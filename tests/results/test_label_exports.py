"""Files as Label Studio, FiftyOne, Datumaro and Ultralytics document them."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes import make_png
from tlac.errors import UsageError
from tlac.results.labels import FORMATS, Label, default_path, export_labels
from tlac.types import Outcome

CLASSES = ("C", "C++", "c", "../up", "CON", "a/b", ".hidden", "trailing. ")


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Label]:
    """Three images, two of one name; the last has no label."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("in/a b.png", "in/more/a b.png", "in/broken.png")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(make_png(number) if number < 2 else b"no image")
    return [
        Label("in/a b.png", "C", 0.75),
        Label("in/more/a b.png", "C", 0.5),
        Label("in/broken.png", outcome=Outcome.FAILED, reason="not an image"),
    ]


def read(path: str) -> object:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_label_studio_gets_tasks_with_predictions_for_its_own_template(labels: list[Label], tmp_path: Path) -> None:
    export_labels(labels, Path("tasks.json"), "label-studio", CLASSES)
    first, _, last = read("tasks.json")
    assert first == {
        "data": {"image": f"/data/local-files/?d={str(tmp_path)[1:]}/in/a%20b.png"},
        "predictions": [
            {
                "model_version": "tlac",
                "score": 0.75,
                "result": [{"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["C"]}}],
            }
        ],
    }
    assert "predictions" not in last
    export_labels([Label("s3://bucket/a.png", "C", 0.5)], Path("tasks.json"), "label-studio", CLASSES)
    assert read("tasks.json")[0]["data"] == {"image": "s3://bucket/a.png"}


def test_fiftyone_gets_classes_and_labels_by_absolute_path(labels: list[Label], tmp_path: Path) -> None:
    export_labels(labels, Path("labels.json"), "fiftyone", CLASSES)
    assert read("labels.json") == {
        "classes": list(CLASSES),
        "labels": {
            f"{tmp_path}/in/a b.png": {"label": 0, "confidence": 0.75},
            f"{tmp_path}/in/more/a b.png": {"label": 0, "confidence": 0.5},
            f"{tmp_path}/in/broken.png": None,
        },
    }


def test_coco_gets_annotations_of_whole_images(labels: list[Label]) -> None:
    export_labels(labels, Path("labels.json"), "coco", CLASSES)
    found = read("labels.json")
    assert found["images"] == [
        {"id": 1, "file_name": "in/a b.png", "width": 8, "height": 8},
        {"id": 2, "file_name": "in/more/a b.png", "width": 8, "height": 8},
        {"id": 3, "file_name": "in/broken.png"},
    ]
    assert found["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "score": 0.75},
        {"id": 2, "image_id": 2, "category_id": 1, "score": 0.5},
    ]
    assert [one["id"] for one in found["categories"]] == list(range(1, len(CLASSES) + 1))
    assert found["categories"][1]["name"] == "C++"


def test_a_folder_gets_a_link_to_each_labelled_image(labels: list[Label]) -> None:
    export_labels(labels, Path("sorted"), "folder", CLASSES)
    links = sorted(path for path in Path("sorted").rglob("*.png"))
    assert [link.parent.name for link in links] == ["C", "C"]
    assert {link.resolve().relative_to(Path.cwd()).as_posix() for link in links} == {"in/a b.png", "in/more/a b.png"}
    assert not os.path.lexists("sorted.part")


def test_folders_of_classes_are_safe_and_told_apart_where_case_is_lost(labels: list[Label]) -> None:
    paths = [f"in/{number}.png" for number in range(len(CLASSES))]
    for path in paths:
        Path(path).write_bytes(make_png())
    made = [Label(path, name, 0.5) for path, name in zip(paths, CLASSES, strict=True)]
    export_labels(made, Path("sorted"), "folder", CLASSES)
    found = {path.name: path.parent.relative_to("sorted").as_posix() for path in Path("sorted").rglob("*.png")}
    assert [found[f"{number}.png"] for number in range(len(CLASSES))] == [
        "C",
        "C++",
        "c (2)",
        "_up",
        "_CON",
        "a_b",
        "hidden",
        "trailing",
    ]


def test_names_that_are_long_or_look_alike_have_folders_of_their_own(labels: list[Label]) -> None:
    """A file system counts bytes, and may tell neither case nor forms of an accent apart."""
    names = ("🐈" * 100, "x" * 300, "x" * 301, "é", "e\u0301", "É", "COM¹")
    long = Path("in") / f"{'y' * 251}.png"
    (Path("in/more") / long.name).write_bytes(make_png(3))
    long.write_bytes(make_png(4))
    rows = [Label("in/a b.png", name, 0.5) for name in names]
    rows += [Label(str(long), "é", 0.5), Label(f"in/more/{long.name}", "é", 0.5)]
    export_labels(rows, Path("sorted"), "folder", names)
    folders = sorted(folder.name for folder in Path("sorted").iterdir() if folder.is_dir())
    assert len(folders) == len(names)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in folders}) == len(names)
    assert "COM¹" not in folders
    assert len(list(Path("sorted").rglob("*.png"))) == len(rows)


def test_a_folder_is_made_anew_and_leaves_no_link_of_an_older_label(labels: list[Label]) -> None:
    export_labels(labels, Path("sorted"), "folder", CLASSES)
    export_labels([Label("in/a b.png", "C++", 0.9)], Path("sorted"), "folder", CLASSES)
    assert [path.relative_to("sorted").as_posix() for path in Path("sorted").rglob("*.png")] == ["C++/a b.png"]
    assert Path("in/a b.png").read_bytes() == make_png(0)


@pytest.mark.parametrize("foreign", ["theirs.txt", "sorted/C/theirs.png"])
def test_a_folder_that_holds_other_files_is_not_touched(labels: list[Label], foreign: str) -> None:
    place = Path("sorted") if foreign.startswith("sorted") else Path("in")
    if place.name == "sorted":
        export_labels(labels, place, "folder", CLASSES)
        Path(foreign).write_bytes(b"theirs")
    before = sorted(place.rglob("*"))
    with pytest.raises(UsageError, match="did not put there"):
        export_labels(labels, place, "folder", CLASSES)
    assert sorted(place.rglob("*")) == before


def test_a_folder_that_is_not_finished_leaves_the_one_before(labels: list[Label]) -> None:
    def interrupted() -> Iterator[Label]:
        yield Label("in/a b.png", "C++", 0.9)
        raise KeyboardInterrupt

    export_labels(labels, Path("sorted"), "folder", CLASSES)
    with pytest.raises(KeyboardInterrupt):
        export_labels(interrupted(), Path("sorted"), "folder", CLASSES)
    assert {path.parent.name for path in Path("sorted").rglob("*.png")} == {"C"}
    assert {path.parent.name for path in Path("sorted.part").rglob("*.png")} == {"C++"}
    export_labels(labels, Path("sorted"), "folder", CLASSES)
    assert not os.path.lexists("sorted.part")


def test_ultralytics_gets_a_fifth_of_the_images_to_validate_on(labels: list[Label]) -> None:
    made = []
    for number in range(200):
        Path(f"in/{number}.png").write_bytes(b"")
        made.append(Label(f"in/{number}.png", ("C", "C++")[number % 2], 0.5))
    export_labels(made, Path("yolo"), "yolo-cls", CLASSES)
    found = [path.relative_to("yolo").parts for path in Path("yolo").rglob("*.png")]
    assert {parts[:2] for parts in found} == {("train", "C"), ("train", "C++"), ("val", "C"), ("val", "C++")}
    assert 20 <= sum(parts[0] == "val" for parts in found) <= 60
    assert len(found) == 200


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_of_nothing_are_a_whole_file_in_every_format(labels: list[Label], kind: str) -> None:
    export_labels([], default_path(kind), kind, CLASSES)
    assert default_path(kind).exists()
