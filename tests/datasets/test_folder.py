import os
from pathlib import Path

import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.datasets.base import ListedDataset
from tlac.errors import InputError


def open_at(root: Path, **asked: str) -> ListedDataset:
    return open_dataset(load_dataset_config(f"folder:{root}", **asked))


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_classes_are_the_sorted_sub_folders(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.jpg", "dog/a.PNG", "cat/c.webp", "emu/1.jpg")
    dataset = open_at(tmp_path)
    assert dataset.classes == ("cat", "dog", "emu")
    assert [(sample.id, sample.label) for sample in dataset] == [
        ("cat/c.webp", 0),
        ("dog/a.PNG", 1),
        ("dog/b.jpg", 1),
        ("emu/1.jpg", 2),
    ]
    assert len(dataset) == 4
    assert dataset.split == "all"


def test_nested_images_count_and_hidden_and_other_files_do_not(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/x/deep.jpg", "a/.hidden.jpg", "a/.git/x.jpg", "a/notes.txt", ".cache/x.jpg", "b/1.jpg", "top.jpg"
    )
    assert [sample.id for sample in open_at(tmp_path)] == ["a/x/deep.jpg", "b/1.jpg"]


def test_a_classes_file_names_and_orders_the_classes(tmp_path: Path) -> None:
    touch(tmp_path, "n01/1.jpg", "n02/2.jpg", "big cat/3.jpg")
    (tmp_path / "classes.txt").write_text("n02 great white shark\n\nn01\ttench\nbig cat lynx\n")
    dataset = open_at(tmp_path)
    assert dataset.classes == ("great white shark", "tench", "lynx")
    assert {sample.id: sample.label for sample in dataset} == {"n02/2.jpg": 0, "n01/1.jpg": 1, "big cat/3.jpg": 2}


def test_the_novel_half_is_relabelled_from_zero(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/1.jpg" for name in "abcde"))
    base, novel = open_at(tmp_path, split="base"), open_at(tmp_path, split="new")
    assert (base.classes, novel.classes) == (("a", "b", "c"), ("d", "e"))
    assert novel.split == "novel"
    assert [(sample.id, sample.label) for sample in novel] == [("d/1.jpg", 0), ("e/1.jpg", 1)]


def test_a_class_without_images_stays_a_candidate(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "b").mkdir()
    assert open_at(tmp_path).classes == ("a", "b")


@pytest.mark.parametrize(
    ("files", "listing", "message"),
    [
        ((), None, "an empty folder"),
        (("1.jpg", "2.jpg"), None, "its images lie in no class sub-folder"),
        (("a/1.jpg",), None, "only one class, 'a'"),
        (("a/1.txt", "b/2.txt"), None, "no images in its sub-folders"),
        (("a/1.jpg", "b/2.jpg"), "a cat\nb cat\n", "line 2: 'cat' stands twice"),
        (("a/1.jpg", "b/2.jpg"), "a cat\na dog\n", "line 2: 'a' stands twice"),
        (("a/1.jpg", "b/2.jpg"), "a cat\nc dog\n", "line 2: no sub-folder 'c'"),
        (("a/1.jpg", "b/2.jpg"), "a cat\nb\n", "line 2: 'b' has no class name"),
        (("a/1.jpg", "b/2.jpg"), "a cat\n", "the sub-folder 'b' has no line"),
        (("a/1.jpg", "b/2.jpg"), b"a caf\xe9\nb x\n", "can't be read as UTF-8"),
    ],
)
def test_a_folder_that_is_not_divided_into_classes_is_refused(
    tmp_path: Path, files: tuple[str, ...], listing: str | bytes | None, message: str
) -> None:
    touch(tmp_path, *files)
    if listing is not None:
        (tmp_path / "classes.txt").write_bytes(listing if isinstance(listing, bytes) else listing.encode())
    with pytest.raises(InputError) as caught:
        open_at(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder: it must hold one sub-folder of images per class"):
        open_at(tmp_path / "nowhere")
    touch(tmp_path, "file.jpg")
    with pytest.raises(InputError, match="not a folder"):
        open_at(tmp_path / "file.jpg")


@pytest.mark.parametrize("folder", ["", "a"])
def test_an_unreadable_folder_is_named(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    locked, list_folder, may_access = tmp_path / folder, os.scandir, os.access

    # chmod would not stop a test that runs as root
    def scandir(path: Path | str) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and may_access(path, mode))
    with pytest.raises(InputError, match="can't be read") as caught:
        open_at(tmp_path)
    assert str(locked) in str(caught.value)


@pytest.mark.parametrize("link", ["a/secret.jpg", "a/elsewhere", "c"])
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, link: str) -> None:
    root = tmp_path / "set"
    touch(root, "a/1.jpg", "b/2.jpg")
    touch(tmp_path, "private/x.jpg")
    target = tmp_path / "private"
    (root / link).symlink_to(target / "x.jpg" if link.endswith(".jpg") else target)
    with pytest.raises(InputError, match=r"leads outside .* images are uploaded"):
        open_at(root)


def test_a_link_to_nothing_is_named_and_one_inside_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "same.jpg").symlink_to(tmp_path / "b" / "2.jpg")
    assert [sample.id for sample in open_at(tmp_path)] == ["a/1.jpg", "a/same.jpg", "b/2.jpg"]
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    with pytest.raises(InputError, match=r"gone.jpg: a link that leads nowhere"):
        open_at(tmp_path)
