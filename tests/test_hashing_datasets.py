from dataclasses import replace
from pathlib import Path

import pytest

from tlac.datasets.base import ListedDataset
from tlac.hashing import dataset_digest


def pets(*ids: str, folder: str = "") -> ListedDataset:
    return ListedDataset(
        ("cat", "dog"), [0] * len(ids), lambda row: (ids[row], Path(folder, ids[row])), protocol="official", name="pets"
    )


DATASET = pets("a.jpg")


def test_the_digest_does_not_depend_on_the_name_the_place_or_the_prompt() -> None:
    moved = replace(pets("a.jpg", folder="/else"), name="copy", prompt="pets")
    assert dataset_digest(moved) == dataset_digest(DATASET)
    assert len(dataset_digest(DATASET)) == 64


@pytest.mark.parametrize(
    "other",
    [
        replace(DATASET, split="base"),
        replace(DATASET, protocol="other"),
        replace(DATASET, classes=("dog", "cat")),
        replace(DATASET, labels=[1]),
        replace(DATASET, labels=[None]),
        pets("b.jpg"),
        pets("a.jpg", "a.jpg"),
    ],
)
def test_the_digest_changes_with_what_is_classified(other: ListedDataset) -> None:
    assert dataset_digest(other) != dataset_digest(DATASET)


def test_no_image_is_opened(tmp_path: Path) -> None:
    assert dataset_digest(pets("a.jpg", folder=str(tmp_path / "missing"))) == dataset_digest(DATASET)
