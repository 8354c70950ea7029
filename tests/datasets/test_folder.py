import os
from pathlib import Path

import pytest

from tests.support.fakes import make_png
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
    (tmp_path / "classes.txt").write_text("\ufeffn02 great white shark\nn01\ttench\nbig cat lynx\n")
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


def test_what_is_skipped_and_classes_without_images_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/x.pdf", "a/@eaDir/1.jpg", "b/.hidden.jpg", "b/._1.jpg", "b/Thumbs.db", "top.jpg")
    touch(tmp_path, "__MACOSX/a/1.jpg", "lost+found/2.jpg", ".ipynb_checkpoints/3.jpg", "README.md", "c/.DS_Store")
    dataset = open_at(tmp_path)
    assert dataset.classes == ("a", "b", "c")
    assert [sample.id for sample in dataset] == ["a/1.jpg"]
    skipped = (".ipynb_checkpoints", "__MACOSX", "lost+found", "top.jpg", "a/@eaDir and 2 more")
    assert dataset.notes == (
        f"7 files or folders skipped, which are no images of a class: {', '.join(skipped)}",
        "2 classes without images: b, c",
    )


def test_images_are_found_by_what_they_hold(tmp_path: Path) -> None:
    picture = make_png(1)
    for name in ("photo", "photo.jfif", "photo.dat", "photo.heic"):
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_bytes(picture)
    (tmp_path / "cat" / "phone").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00")
    (tmp_path / "cat" / "notes.txt").write_text("PNG it is not")
    touch(tmp_path, "dog/1.jpg")
    dataset = open_at(tmp_path)
    found = [f"cat/{name}" for name in ("phone", "photo", "photo.dat", "photo.heic", "photo.jfif")]
    assert [sample.id for sample in dataset] == [*found, "dog/1.jpg"]
    assert dataset.notes == ("1 file or folder skipped, which are no images of a class: cat/notes.txt",)


def test_a_pipe_is_skipped_and_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    os.mkfifo(tmp_path / "a" / "2.jpg")
    os.mkfifo(tmp_path / "a" / "3")
    dataset = open_at(tmp_path)
    assert [sample.id for sample in dataset] == ["a/1.jpg", "b/1.jpg"]
    assert dataset.notes[0].endswith(": a/2.jpg, a/3")


@pytest.mark.parametrize(
    "names",
    [
        ("train", "test"),
        ("Training", "Validation", "Test"),
        ("train2017", "val2017"),
        ("test_images", "train_images"),
        ("train", "val", "other"),
    ],
)
def test_a_root_that_is_divided_into_splits_is_refused_with_the_way_to_say_which(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    touch(tmp_path, *(f"{split}/{name}/1.jpg" for split in names for name in ("cat", "dog")))
    with pytest.raises(
        InputError, match=rf"are splits and no classes: say which one, such as folder:{tmp_path}/"
    ) as no:
        open_at(tmp_path)
    named = str(no.value).partition("such as folder:")[2].partition(";")[0]
    assert open_at(Path(named)).classes == ("cat", "dog")


def test_train_among_other_things_is_a_class_and_so_is_what_a_classes_file_says(tmp_path: Path) -> None:
    touch(tmp_path / "a", "train/1.jpg", "car/1.jpg", "plane/1.jpg")
    assert open_at(tmp_path / "a").classes == ("car", "plane", "train")
    touch(tmp_path / "b", "train/1.jpg", "test/1.jpg")
    (tmp_path / "b" / "classes.txt").write_text("train a locomotive\ntest an exam\n")
    assert open_at(tmp_path / "b").classes == ("a locomotive", "an exam")


def test_names_are_composed_and_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "cafe\u0301/1.jpg", "tea/1.jpg")
    assert open_at(tmp_path).classes == ("caf\u00e9", "tea")
    touch(tmp_path, "caf\u00e9/2.jpg")
    with pytest.raises(InputError, match=r"differ in spaces or Unicode forms alone: merge them"):
        open_at(tmp_path)


@pytest.mark.parametrize("name", ["caf\udce9/1.jpg", "a/caf\udce9.jpg"])
def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_asked(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", name)
    with pytest.raises(InputError, match=r"caf\\udce9.*not UTF-8.*: rename it") as caught:
        open_at(tmp_path)
    str(caught.value).encode()
