from pathlib import Path

import pytest

from tlac.config import load_dataset_config
from tlac.errors import TlacError, UsageError
from tlac.prepare import STAGING, prepare_dataset
from tlac.resources import list_names


def fetcher(files: tuple[str, ...]):
    """Fills a folder with files, as torchvision would, and remembers what it was asked for."""
    asked: list[str] = []

    def fetch(reader: str, folder: Path) -> None:
        asked.append(reader)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)

    return fetch, asked


def test_a_download_is_put_where_coop_has_it(tmp_path: Path) -> None:
    fetch, asked = fetcher(("oxford-iiit-pet/images/a.jpg", "oxford-iiit-pet/annotations/test.txt"))
    prepared = prepare_dataset(load_dataset_config("oxford_pets", tmp_path), fetch)
    assert asked == ["OxfordIIITPet"]
    assert prepared.is_downloaded
    assert prepared.folder == tmp_path / "oxford_pets"
    assert sorted(path.name for path in prepared.folder.iterdir()) == ["annotations", "images"]
    assert not (tmp_path / STAGING / "oxford_pets").exists()


@pytest.mark.parametrize(
    ("name", "made", "placed"),
    [
        ("dtd", "dtd/dtd/images/x.jpg", "dtd/images/x.jpg"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/variants.txt", "fgvc_aircraft/variants.txt"),
        ("caltech101", "caltech101/101_ObjectCategories/a/1.jpg", "caltech-101/101_ObjectCategories/a/1.jpg"),
        ("flowers102", "flowers-102/jpg/1.jpg", "oxford_flowers/jpg/1.jpg"),
        ("eurosat", "eurosat/2750/Forest/1.jpg", "eurosat/2750/Forest/1.jpg"),
        ("food101", "food-101/images/a/1.jpg", "food-101/images/a/1.jpg"),
        ("cifar10", "cifar-10-batches-py/test_batch", "cifar-10-batches-py/test_batch"),
    ],
)
def test_each_download_lands_in_its_own_layout(tmp_path: Path, name: str, made: str, placed: str) -> None:
    prepare_dataset(load_dataset_config(name, tmp_path), fetcher((made,))[0])
    assert (tmp_path / placed).read_text() == made


def test_what_is_there_already_is_neither_fetched_nor_changed(tmp_path: Path) -> None:
    fetch, asked = fetcher(("dtd/dtd/images/x.jpg",))
    (tmp_path / "dtd").mkdir()
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text("mine")
    config = load_dataset_config("dtd", tmp_path)
    assert prepare_dataset(config, fetch).is_downloaded
    assert not prepare_dataset(config, fetch).is_downloaded
    assert asked == ["DTD"]
    assert (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").read_text() == "mine"


def test_a_broken_download_keeps_what_it_got_and_the_next_call_goes_on(tmp_path: Path) -> None:
    config = load_dataset_config("food101", tmp_path)

    def break_off(reader: str, folder: Path) -> None:
        (folder / "food-101.tar.gz").write_text("half")
        raise OSError("connection\nreset")

    with pytest.raises(TlacError, match=r"food101: the download failed \(connection reset\): run the command again"):
        prepare_dataset(config, break_off)
    assert not (tmp_path / "food-101").exists()
    seen = []

    def resume(reader: str, folder: Path) -> None:
        seen.append((folder / "food-101.tar.gz").read_text())
        (folder / "food-101" / "images").mkdir(parents=True)

    assert prepare_dataset(config, resume).is_downloaded
    assert seen == ["half"]


def test_what_is_fetched_by_hand_is_told_in_steps_that_name_the_folder(tmp_path: Path) -> None:
    prepared = prepare_dataset(load_dataset_config("imagenet", tmp_path))
    assert not prepared.is_downloaded
    assert len(prepared.steps) == 3
    assert str(tmp_path / "imagenet" / "images" / "val") in prepared.steps[1]
    assert "{" not in "".join(prepared.steps)


def test_every_shipped_dataset_under_the_root_can_be_fetched_or_says_how() -> None:
    import torchvision.datasets as reader

    for name in list_names("dataset"):
        spec = load_dataset_config(name).spec
        if "folder" in spec.options:
            assert spec.download.torchvision or spec.download.steps, name
            assert spec.download.torchvision is None or hasattr(reader, spec.download.torchvision), name


def test_packaged_samples_need_no_preparing_and_others_need_a_root(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs no preparing"):
        prepare_dataset(load_dataset_config("cifar10-samples", tmp_path))
    with pytest.raises(UsageError, match="--data ROOT"):
        prepare_dataset(load_dataset_config("dtd"))
