from dataclasses import replace
from pathlib import Path

import pytest

from tlac.datasets.base import ListedDataset
from tlac.hashing import dataset_digest
from tlac.types import Sample

DATASET = ListedDataset("pets", "all", "official", "default", ("cat", "dog"), (Sample("a.jpg", Path("a.jpg"), 0),))


def test_the_digest_does_not_depend_on_the_name_the_place_or_the_prompt() -> None:
    moved = replace(DATASET, name="copy", prompt="pets", samples=(Sample("a.jpg", Path("/else/a.jpg"), 0),))
    assert dataset_digest(moved) == dataset_digest(DATASET)
    assert len(dataset_digest(DATASET)) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"split": "base"},
        {"protocol": "other"},
        {"classes": ("dog", "cat")},
        {"samples": (Sample("b.jpg", Path("a.jpg"), 0),)},
        {"samples": (Sample("a.jpg", Path("a.jpg"), 1),)},
        {"samples": (Sample("a.jpg", Path("a.jpg"), None),)},
        {"samples": DATASET.samples * 2},
    ],
)
def test_the_digest_changes_with_what_is_classified(change: dict) -> None:
    assert dataset_digest(replace(DATASET, **change)) != dataset_digest(DATASET)


def test_no_image_is_opened(tmp_path: Path) -> None:
    missing = replace(DATASET, samples=(Sample("a.jpg", tmp_path / "missing.jpg", 0),))
    assert dataset_digest(missing) == dataset_digest(DATASET)
