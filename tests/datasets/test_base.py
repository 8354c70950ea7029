"""What all loaders share: halves, their labels, the notes and the protocol's name; each expectation is a literal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fakes import make_png
from tlac.config.schemas import DatasetConfig, DatasetSpec, Expected
from tlac.datasets.base import (
    ListedDataset,
    count_note,
    find_images,
    list_files,
    require_printable,
    split_of,
    take_part,
    visible_folders,
)
from tlac.errors import ConfigError, InputError, UnknownNameError

LETTERS = "abcdefg"


def asked(split: str = "all", subset: str = "test", expected: Expected | None = None) -> DatasetConfig:
    spec = DatasetSpec(loader="mine", protocol="official", prompt="pets", expected=expected)
    return DatasetConfig("pets", "pets.yaml", spec, root=Path("/data"), split=split, subset=subset)


def whole(classes: int, per_class: int = 2, **more: object) -> ListedDataset:
    """Images a0, a1, b0 and so on, the classes one after the other."""
    names = tuple(LETTERS[:classes])
    labels = [label for label in range(classes) for _ in range(per_class)]
    return ListedDataset(
        names, labels, lambda row: (f"{names[row // per_class]}{row % per_class}", Path()), **more  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "split", "names"),
    [
        (4, "base", "ab"),
        (4, "novel", "cd"),
        (4, "new", "cd"),
        # of an odd number the one in the middle is base
        (5, "base", "abc"),
        (5, "novel", "de"),
        (7, "base", "abcd"),
        (7, "novel", "efg"),
        (2, "all", "ab"),
    ],
)
def test_the_first_half_of_the_classes_is_base_and_each_half_is_labelled_from_zero(
    classes: int, split: str, names: str
) -> None:
    part = take_part(asked(split), whole(classes))
    assert part.classes == tuple(names)
    assert [(sample.id, sample.label) for sample in part] == [
        (f"{name}{number}", label) for label, name in enumerate(names) for number in range(2)
    ]
    assert len(part) == 2 * len(names)


@pytest.mark.parametrize(
    ("classes", "split", "left"), [(1, "all", 1), (3, "novel", 1), (2, "base", 1), (1, "novel", 0)]
)
def test_fewer_than_two_classes_are_none_to_choose_from(classes: int, split: str, left: int) -> None:
    noun = "class" if left == 1 else "classes"
    with pytest.raises(InputError, match=rf"pets: {left} {noun} in split '{split}': at least two are needed"):
        take_part(asked(split), whole(classes))


def test_a_half_without_an_image_is_an_error_and_a_class_without_one_a_note() -> None:
    some = ListedDataset(tuple("abcd"), [2, 3, 3], lambda row: (str(row), Path()))
    with pytest.raises(InputError, match=r"pets: no image in split 'base' of 'test': choose another"):
        take_part(asked("base"), some)
    assert take_part(asked("novel"), some).notes == ()
    assert take_part(asked(), some).notes == ("2 classes without images: a, b",)
    assert [sample.label for sample in take_part(asked("novel"), some)] == [0, 1, 1]


def test_a_part_has_the_names_of_what_was_asked_for() -> None:
    part = take_part(asked("novel", "val"), whole(4, notes=("a note",), protocol="CoOp", source="list.txt"))
    assert (part.name, part.described_in, part.split, part.prompt) == ("pets", "pets.yaml", "novel/val", "pets")
    assert (part.protocol, part.source, part.notes) == ("CoOp", "list.txt", ("a note",))
    assert take_part(asked("novel"), whole(4)).split == "novel"
    assert take_part(asked(), whole(4)).protocol == "official"


@pytest.mark.parametrize(
    ("expected", "subset", "protocol"),
    [
        (None, "test", "official"),
        (Expected(4, 8), "test", "official"),
        (Expected(5, 8), "test", "official, but 4 classes and not 5"),
        (Expected(4, 9), "test", "official, but 8 images and not 9"),
        (Expected(4, 7), "test", "official, but 8 images and not 7"),
        (Expected(3, 7), "test", "official, but 4 classes and not 3"),
        (Expected(4, 7, val=8), "val", "official"),
        (Expected(4, 8, val=7), "val", "official, but 8 images and not 7"),
        (Expected(4, 8), "val", "official"),
        (Expected(4, 8, train=7), "train", "official, but 8 images and not 7"),
    ],
)
def test_a_protocol_says_where_classes_or_images_are_more_or_fewer_than_its_own(
    expected: Expected | None, subset: str, protocol: str
) -> None:
    assert take_part(asked(subset=subset, expected=expected), whole(4)).protocol == protocol


def test_another_protocol_is_not_counted_against_the_datasets_own() -> None:
    assert take_part(asked(expected=Expected(9, 9)), whole(4, protocol="all images")).protocol == "all images"


def test_names_of_several_classes_are_noted_with_their_numbers() -> None:
    twins = ListedDataset(("crane", "owl", "crane "), [0, 1, 2], lambda row: (str(row), Path()))
    assert take_part(asked(), twins).notes == (
        "1 name of several classes, which no answer can tell apart: 'crane' (classes 0, 2)",
    )


def test_words_for_parts_are_those_that_there_are() -> None:
    assert [split_of(asked(split)) for split in ("all", "base", "novel", "new")] == ["all", "base", "novel", "novel"]
    with pytest.raises(UnknownNameError, match=r"unknown split 'nowel'.*did you mean 'novel'"):
        split_of(asked("nowel"))
    with pytest.raises(UnknownNameError, match=r"unknown subset 'vali'.*did you mean 'val'"):
        split_of(asked(subset="vali"))


@pytest.mark.parametrize(
    ("count", "note"),
    [
        (0, ()),
        (1, ("1 file skipped: 0",)),
        (2, ("2 files skipped: 0, 1",)),
        (5, ("5 files skipped: 0, 1, 2, 3, 4",)),
        (6, ("6 files skipped: 0, 1, 2, 3, 4 and 1 more",)),
        (1234, ("1,234 files skipped: 0, 1, 2, 3, 4 and 1,229 more",)),
    ],
)
def test_a_note_counts_all_and_names_five(count: int, note: tuple[str, ...]) -> None:
    assert count_note([str(number) for number in range(count)], "file", "files", "skipped") == note


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[31m", "\x7f", "\x85", "caf\udce9"])
def test_a_name_that_no_terminal_should_show_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"pets: the class name .* is empty, not UTF-8 or has control characters"):
        require_printable("pets", name)


@pytest.mark.parametrize("name", ["a b", "\u732b", "caf\u00e9", "C++", "\u00a0", "\U0001f415"])
def test_any_other_name_may_be_shown(name: str) -> None:
    require_printable("pets", name)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.png", "a/../../b.png", "C:\\a.png", "C:a.png", "\\a.png", "a\\..\\b.png", "", "a\0b"]
)
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"list\.txt: the path .* leads outside .*: refused, since images"):
        list_files(("a",), [name], [0], tmp_path, "list.txt")


def test_paths_that_only_look_odd_are_taken_and_missing_ones_noted(tmp_path: Path) -> None:
    (tmp_path / "a..b").mkdir()
    (tmp_path / "a..b" / "c.png").write_bytes(make_png(1))
    names = ["a..b/c.png", "./a..b/c.png", "x" * 300 + ".png", "gone/1.png"]
    listed = list_files(("a",), names, [0] * 4, tmp_path, "list.txt")
    assert [sample.id for sample in listed] == names
    assert listed.notes == (f"2 of 4 listed images missing: {'x' * 300}.png, gone/1.png",)


def test_images_come_in_the_order_of_their_paths_without_those_of_our_own_folders(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.png", "B.png", "c/d/e.png", "labels/1.png", "runs/1.png", "half/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(make_png(1))
    (tmp_path / "labels" / ".tlac-labels").write_text("")
    for name in ("runs/run.json", "runs/predictions.jsonl", "half/run.json"):
        (tmp_path / name).write_text("{}")
    skipped: list[str] = []
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path, tmp_path, skipped)]
    assert found == ["B.png", "a.png", "b/10.png", "b/2.png", "c/d/e.png", "half/1.png"]
    assert skipped == ["half/run.json", "labels", "runs"]


def test_folders_of_classes_are_those_that_are_neither_hidden_nor_left_behind(tmp_path: Path) -> None:
    for name in ("owl", "Cat", ".git", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "train"):
        (tmp_path / name).mkdir()
    (tmp_path / "readme.md").write_text("")
    (tmp_path / ".hidden").write_text("")
    assert visible_folders(tmp_path) == ["Cat", "owl", "train"]
    with pytest.raises(InputError, match="gone: can't be read: No such file or directory"):
        visible_folders(tmp_path / "gone")
    with pytest.raises(InputError, match="gone: can't be read: No such file or directory"):
        list(find_images(tmp_path / "gone", tmp_path, []))


def test_a_dataset_file_may_not_lead_out_of_the_data_root(tmp_path: Path) -> None:
    from tlac.datasets.base import RootedOptions, dataset_folder, parent_inside

    config = asked()
    assert dataset_folder(config, RootedOptions(folder="pets")) == Path("/data/pets")
    assert parent_inside(config, Path("/data/pets")) == Path("/data")
    assert parent_inside(config, Path("/data")) == Path("/data")
    for folder in ("../pets", "/pets", "a/../../pets"):
        with pytest.raises(ConfigError, match=r"pets\.yaml: the path .* leads outside the dataset's folder: refused"):
            dataset_folder(config, RootedOptions(folder=folder))
    with pytest.raises(InputError, match="pets: is always used whole: leave the split out"):
        dataset_folder(asked("base"), RootedOptions(folder="pets", is_whole=True))
