import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.datasets.cifar import png_bytes
from tlac.errors import InputError
from tlac.hashing import dataset_digest

LABELS = [3, 8, 0, 5, 9]
PIXELS = np.random.default_rng(7).integers(0, 256, (len(LABELS), 32, 32, 3), np.uint8)


def write_archive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of five images, whose checksums stand in for the published ones."""
    import torchvision.datasets as reader

    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    flat = PIXELS.transpose(0, 3, 1, 2).reshape(len(LABELS), -1)
    sums = {}
    for name, content in (
        ("test_batch", {"data": flat, "labels": LABELS}),
        ("data_batch_1", {"data": flat[:2], "labels": [1, 2]}),
        ("batches.meta", {"label_names": list("abcdefghij")}),
    ):
        raw = pickle.dumps(content)
        (place / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(reader.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(reader.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(reader.CIFAR10, "meta", {**reader.CIFAR10.meta, "md5": sums["batches.meta"]})


@pytest.mark.parametrize("below", [".", "cifar10"])
def test_images_labels_and_names_are_those_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    write_archive(tmp_path / below, monkeypatch)
    dataset = open_dataset(load_dataset_config("cifar10", tmp_path))
    samples = list(dataset)
    assert [sample.label for sample in samples] == LABELS
    assert dataset.classes[samples[0].label] == "cat"
    assert [sample.id for sample in samples[:2]] == ["00000.png", "00001.png"]
    for sample, pixels in zip(samples, PIXELS, strict=True):
        assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(sample.source))), pixels)
    assert len(dataset) == len(samples) == 5


def test_halves_keep_the_numbers_and_relabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path, monkeypatch)
    novel = open_dataset(load_dataset_config("cifar10", tmp_path, "novel"))
    assert novel.classes == ("dog", "frog", "horse", "ship", "truck")
    assert [(sample.id, sample.label) for sample in novel] == [("00001.png", 3), ("00003.png", 0), ("00004.png", 4)]
    whole = open_dataset(load_dataset_config("cifar10", tmp_path))
    assert dataset_digest(whole) != dataset_digest(novel)
    train = open_dataset(load_dataset_config("cifar10", tmp_path, subset="train"))
    assert (train.split, [sample.label for sample in train]) == ("all/train", [1, 2])


def test_a_changed_archive_is_refused_before_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path, monkeypatch)
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (ran,))

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match="does not hold the published files"):
        open_dataset(load_dataset_config("cifar10", tmp_path))
    assert not ran.exists()


def test_missing_archives_and_subsets_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cifar-100-python is missing: run `tlac datasets prepare cifar100 --data "):
        open_dataset(load_dataset_config("cifar100", tmp_path))
    with pytest.raises(InputError, match="no subset 'val'"):
        open_dataset(load_dataset_config("cifar10", tmp_path, subset="val"))


def test_the_same_pixels_always_give_the_same_file() -> None:
    pixels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(4, 5, 3)
    assert hashlib.sha256(png_bytes(pixels)).hexdigest().startswith(PNG_DIGEST)


PNG_DIGEST = "844d555b3d21bca3"
