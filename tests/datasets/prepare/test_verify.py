import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.fakes import make_png
from tlac.config.schemas import DatasetConfig, load_dataset_config
from tlac.datasets.prepare.verify import Finding, Verification, verify_dataset

CLASSES = ("cat", "dog", "emu")


def make_set(root: Path, **changes: object) -> DatasetConfig:
    """A dataset in CoOp's layout: three classes with three training and two test images each."""
    images = root / "set" / "images"
    split = {"train": [], "test": []}
    for label, name in enumerate(CLASSES):
        for number in range(5):
            path = images / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(make_png(10 * label + number))
            split["train" if number < 3 else "test"].append([f"{name}/{number}.png", label, name])
    (root / "set" / "split.json").write_text(json.dumps(split))
    file = {
        "loader": "coop",
        "protocol": "CoOp",
        "classes": CLASSES,
        "options": {"folder": "set", "images": "images", "split_file": "split.json"},
        "expected": {"classes": 3, "test": 6, "train": 9, "per_class": 2, **changes},
    }
    (root / "ours.yaml").write_text(json.dumps(file))
    return load_dataset_config(str(root / "ours.yaml"), root)


def change_split(root: Path, change: object) -> None:
    path = root / "set" / "split.json"
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))


def kinds(verification: Verification) -> list[tuple[str, str]]:
    return [(finding.kind, finding.subject) for finding in verification.findings]


def test_a_whole_dataset_is_good(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    verification = verify_dataset(make_set(tmp_path), on_image=lambda done, total: seen.append((done, total)))
    assert verification.is_good
    assert (verification.n, verification.classes, verification.images) == (6, 3, 15)
    assert verification.source == str(tmp_path / "set" / "split.json")
    assert len(verification.digest) == 64
    assert seen[-1] == (15, 15)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    config = make_set(tmp_path)
    (tmp_path / "set" / "images" / "dog" / "4.png").unlink()
    assert kinds(verify_dataset(config)) == [("missing image", "dog/4.png")]
    assert kinds(verify_dataset(config, looks_into_images=False)) == [("missing image", "dog/4.png")]


@pytest.mark.parametrize("content", [b"", b"hello", make_png(1)[:-30]])
def test_a_truncated_or_broken_image_is_named(tmp_path: Path, content: bytes) -> None:
    config = make_set(tmp_path)
    (tmp_path / "set" / "images" / "emu" / "0.png").write_bytes(content)
    assert kinds(verify_dataset(config)) == [("broken image", "emu/0.png")]


def test_a_surplus_class_on_disk_is_named_and_a_known_one_is_not(tmp_path: Path) -> None:
    config = make_set(tmp_path, surplus=["BACKGROUND"])
    for folder in ("yak", "BACKGROUND"):
        (tmp_path / "set" / "images" / folder).mkdir()
        (tmp_path / "set" / "images" / folder / "1.png").write_bytes(make_png(99))
    assert kinds(verify_dataset(config)) == [("surplus class", "yak")]


def test_a_surplus_class_in_the_split_file_is_named(tmp_path: Path) -> None:
    config = make_set(tmp_path)
    (tmp_path / "set" / "images" / "yak").mkdir()
    (tmp_path / "set" / "images" / "yak" / "1.png").write_bytes(make_png(99))
    change_split(tmp_path, lambda split: split["test"].append(["yak/1.png", 3, "yak"]))
    assert kinds(verify_dataset(config)) == [("classes", "in all"), ("classes", "yak"), ("count", "test images")]


def test_a_surplus_image_is_named_unless_the_archive_has_unlisted_ones(tmp_path: Path) -> None:
    config = make_set(tmp_path)
    (tmp_path / "set" / "images" / "cat" / "copy.png").write_bytes(make_png(99))
    assert kinds(verify_dataset(config)) == [("surplus image", "cat/copy.png")]
    assert verify_dataset(make_set(tmp_path, has_unlisted_images=True)).is_good


def test_a_wrong_label_is_named_with_the_class_of_its_folder(tmp_path: Path) -> None:
    config = make_set(tmp_path)

    def relabel(split: dict) -> None:
        split["test"][0] = ["cat/3.png", 1, "dog"]

    change_split(tmp_path, relabel)
    verification = verify_dataset(config)
    assert verification.findings[0] == Finding(
        "wrong label", "cat/3.png", "labelled 'dog', but 4 of 5 in cat/ are 'cat'"
    )
    assert kinds(verification)[1:] == [("count", "test images of 'cat'"), ("count", "test images of 'dog'")]


def test_a_wrong_label_with_the_right_name_makes_the_file_unusable_and_is_named(tmp_path: Path) -> None:
    config = make_set(tmp_path)

    def relabel(split: dict) -> None:
        split["test"][0] = ["cat/3.png", 1, "cat"]

    change_split(tmp_path, relabel)
    (finding,) = verify_dataset(config).findings
    assert finding.kind == "unusable"
    assert "'cat/3.png' has label 1 and the name 'cat'" in finding.detail


def test_an_image_that_is_listed_twice_is_named(tmp_path: Path) -> None:
    config = make_set(tmp_path)

    def leak(split: dict) -> None:
        split["train"][0] = split["test"][0]

    change_split(tmp_path, leak)
    assert kinds(verify_dataset(config)) == [("listed twice", "cat/3.png"), ("surplus image", "cat/0.png")]


def test_a_changed_split_file_and_wrong_counts_are_named(tmp_path: Path) -> None:
    config = make_set(tmp_path, split_file_sha256="0" * 64, test=7)
    assert kinds(verify_dataset(config)) == [
        ("split file", str(tmp_path / "set" / "split.json")),
        ("count", "test images"),
    ]


def test_a_path_that_leads_outside_makes_the_dataset_unusable(tmp_path: Path) -> None:
    config = make_set(tmp_path)
    change_split(tmp_path, lambda split: split["test"].append(["../../secret.png", 0, "cat"]))
    (finding,) = verify_dataset(config).findings
    assert finding.kind == "unusable"
    assert "'../../secret.png' leads outside" in finding.detail


def test_any_folder_can_be_verified_without_expectations(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "set" / "images" / "cat" / "0.png").write_bytes(b"")
    verification = verify_dataset(load_dataset_config(f"folder:{tmp_path / 'set' / 'images'}"))
    assert kinds(verification) == [("broken image", "cat/0.png")]
    assert verification.notes == ("its file expects no counts: none were compared",)


def test_counts_of_another_protocol_are_not_compared(tmp_path: Path) -> None:
    (tmp_path / "oxford_pets" / "annotations").mkdir(parents=True)
    (tmp_path / "oxford_pets" / "images").mkdir()
    (tmp_path / "oxford_pets" / "annotations" / "test.txt").write_text("Pug_1 1 1 1\nBeagle_1 2 1 1\n")
    for name in ("Pug_1", "Beagle_1"):
        (tmp_path / "oxford_pets" / "images" / f"{name}.jpg").write_bytes(make_png(3))
    verification = verify_dataset(load_dataset_config("oxford_pets", tmp_path))
    assert verification.is_good
    assert "official test split" in verification.notes[0]


def test_the_published_textures_with_every_image_in_place_are_good(shared: Path, tmp_path: Path) -> None:
    source = shared / "coop-splits" / "split_zhou_DescribableTextures.json"
    (tmp_path / "dtd").mkdir()
    shutil.copy(source, tmp_path / "dtd")
    (tmp_path / "image").write_bytes(make_png(5))
    for folder in load_dataset_config("dtd").spec.classes:
        (tmp_path / "dtd" / "images" / folder).mkdir(parents=True)
    for rows in json.loads(source.read_text()).values():
        for path, _, _ in rows:
            os.link(tmp_path / "image", tmp_path / "dtd" / "images" / path)
    config = load_dataset_config("dtd", tmp_path)
    verification = verify_dataset(config, looks_into_images=False)
    assert (verification.findings, verification.n, verification.images) == ((), 1692, 5640)
    (tmp_path / "dtd" / "images" / "woven" / "woven_0001.jpg").unlink()
    assert kinds(verify_dataset(config, looks_into_images=False)) == [("missing image", "woven/woven_0001.jpg")]


def test_folders_that_are_dates_say_nothing_about_labels(tmp_path: Path) -> None:
    lines = ["path,label"]
    for number in range(12):
        path = tmp_path / f"2024-01-{number % 4:02d}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_png(number))
        # most of a day is one class, as in a photographer's archive
        lines.append(f"{path.parent.name}/{path.name},{CLASSES[number % 4 % 3] if number < 9 else CLASSES[number % 3]}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert verify_dataset(load_dataset_config(f"csv:{tmp_path / 'list.csv'}")).is_good


def test_what_was_skipped_is_noted(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "set" / "images" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "set" / "images" / "owl").mkdir()
    verification = verify_dataset(load_dataset_config(f"folder:{tmp_path / 'set' / 'images'}"))
    assert verification.is_good
    assert verification.notes == (
        "1 file or folder skipped, which are no images of a class: cat/notes.txt",
        "1 class without images: owl",
        "its file expects no counts: none were compared",
    )
