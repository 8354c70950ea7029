from pathlib import Path

import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.errors import InputError


def open_text(folder: Path, text: str | bytes, **asked: str):
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_dataset(load_dataset_config(f"csv:{path}", **asked))


def test_lines_are_samples_and_labels_sorted_are_classes(tmp_path: Path) -> None:
    dataset = open_text(tmp_path, 'path,label,note\nb/2.jpg,dog,x\na/1.jpg," red, cat ",\nb/3.jpg,dog,\n')
    assert dataset.classes == ("dog", "red, cat")
    assert [(sample.id, sample.label) for sample in dataset] == [("b/2.jpg", 0), ("a/1.jpg", 1), ("b/3.jpg", 0)]
    assert next(iter(dataset)).source == tmp_path / "b" / "2.jpg"


def test_spreadsheets_byte_order_mark_and_column_order_do_not_matter(tmp_path: Path) -> None:
    dataset = open_text(tmp_path, "\ufefflabel,path\r\ncat,1.jpg\r\ndog,2.jpg\r\n")
    assert [sample.id for sample in dataset] == ["1.jpg", "2.jpg"]


def test_a_dataset_file_may_list_the_classes(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\n1.jpg,emu\n")
    (tmp_path / "set.yaml").write_text(
        f"loader: csv\nprotocol: ours\nclasses: [dog, emu, cat, emu]\noptions: {{path: {tmp_path / 'list.csv'}}}\n"
    )
    dataset = open_dataset(load_dataset_config(str(tmp_path / "set.yaml")))
    assert (dataset.classes, [sample.label for sample in dataset]) == (("dog", "emu", "cat", "emu"), [1])
    (tmp_path / "list.csv").write_text("path,label\n1.jpg,eagle\n")
    with pytest.raises(InputError, match=r"list.csv, line 2: 'eagle' is no class of .*set.yaml"):
        open_dataset(load_dataset_config(str(tmp_path / "set.yaml")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no columns path and label"),
        ("file,class\n1.jpg,cat\n", "no columns path and label"),
        ("path,label\n", "lists no images"),
        ("path,label\n1.jpg,cat\n2.jpg\n", "line 3: 1 cells where the first line has 2"),
        ("path,label\n1.jpg,cat\n,dog\n", "line 3: a path or a label is missing"),
        ("path,label\n1.jpg,cat\n2.jpg,cat\n", "1 class in split 'all'"),
        ("path,label\n1.jpg,cat\n../2.jpg,dog\n", "leads outside"),
        ("path,label\n1.jpg,cat\n/2.jpg,dog\n", "leads outside"),
        (b"path,label\n1.jpg,caf\xe9\n", "save it as UTF-8 (CSV UTF-8)"),
    ],
)
def test_a_broken_list_is_named_with_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        open_text(tmp_path, text)
    assert message in str(caught.value)
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_subset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        open_dataset(load_dataset_config(f"csv:{tmp_path / 'none.csv'}"))
    with pytest.raises(InputError, match="no subset 'train'"):
        open_text(tmp_path, "path,label\n1.jpg,cat\n2.jpg,dog\n", subset="train")


def test_two_unicode_forms_of_a_label_are_one_class(tmp_path: Path) -> None:
    dataset = open_text(tmp_path, "path,label\n1.jpg,caf\u00e9\n2.jpg,cafe\u0301\n3.jpg,tea\n")
    assert (dataset.classes, [sample.label for sample in dataset]) == (("caf\u00e9", "tea"), [0, 0, 1])


def test_listed_images_that_are_missing_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    dataset = open_text(tmp_path, "path,label\n1.jpg,cat\n2.jpg,dog\n")
    assert dataset.notes == ("1 of 2 listed images missing: 2.jpg",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n1.jpg,cat\n2.jpg,dog\n1.jpg,dog\n", "'1.jpg' stands in lines 2 and 4: leave one of them"),
        ("path,label\n1.jpg,cat\n2.jpg,a\x1b[31m\n", "the class name 'a\\x1b[31m' is empty, not UTF-8 or has control"),
        ("path,label\n1.jpg,cat\n2.jpg,a\x01b\n", "control characters: rename it"),
    ],
)
def test_an_image_that_stands_twice_and_a_name_that_cannot_be_printed_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        open_text(tmp_path, text)
    assert message in str(caught.value)
