from pathlib import Path

import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.errors import InputError

LISTS = {
    "variants.txt": "707-320\nA300B4\nBoeing 717\nYak-42\n",
    "images_variant_test.txt": "0123456 Boeing 717\n1234567 707-320\n",
    "images_variant_train.txt": "2345678 Yak-42\n",
}


def write(folder: Path, lists: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lists.items():
        (folder / name).write_text(content)


@pytest.mark.parametrize("place", ["fgvc_aircraft", "fgvc_aircraft/data", "fgvc-aircraft-2013b/data"])
def test_variants_are_labelled_in_the_order_of_their_list(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, LISTS)
    dataset = open_dataset(load_dataset_config("fgvc_aircraft", tmp_path))
    assert dataset.classes == ("707-320", "A300B4", "Boeing 717", "Yak-42")
    assert [(sample.id, sample.label) for sample in dataset] == [("0123456.jpg", 2), ("1234567.jpg", 0)]
    assert next(iter(dataset)).source == tmp_path / place / "images" / "0123456.jpg"


def test_halves_and_other_subsets(tmp_path: Path) -> None:
    write(tmp_path / "fgvc_aircraft", LISTS)
    novel = open_dataset(load_dataset_config("fgvc_aircraft", tmp_path, "novel"))
    assert (novel.classes, [sample.label for sample in novel]) == (("Boeing 717", "Yak-42"), [0])
    train = open_dataset(load_dataset_config("fgvc_aircraft", tmp_path, subset="train"))
    assert [sample.label for sample in train] == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images_variant_test.txt": "1 Concorde\n"}, r"line 1: unknown variant 'Concorde'"),
        ({"images_variant_test.txt": "../../x 707-320\n"}, "leads outside"),
        ({"variants.txt": b"\xff"}, "can't be read"),
    ],
)
def test_broken_lists_are_named(tmp_path: Path, change: dict, message: str) -> None:
    write(tmp_path / "fgvc_aircraft", LISTS)
    for name, content in change.items():
        (tmp_path / "fgvc_aircraft" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        open_dataset(load_dataset_config("fgvc_aircraft", tmp_path))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"variants.txt is missing"):
        open_dataset(load_dataset_config("fgvc_aircraft", tmp_path))
    write(tmp_path / "fgvc_aircraft", LISTS)
    with pytest.raises(InputError, match=r"images_variant_val.txt is missing"):
        open_dataset(load_dataset_config("fgvc_aircraft", tmp_path, subset="val"))
