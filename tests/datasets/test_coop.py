import json
import shutil
from pathlib import Path

import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.errors import ConfigError, InputError, UsageError
from tlac.hashing import dataset_digest

# name: split file, folder, image folder, classes, base/novel classes, test, base/novel test (CoOp's protocol)
REAL = {
    "caltech101": ("Caltech101", "caltech-101", "101_ObjectCategories", 100, 50, 50, 2465, 1549, 916),
    "oxford_pets": ("OxfordPets", "oxford_pets", "images", 37, 19, 18, 3669, 1881, 1788),
    "stanford_cars": ("StanfordCars", "stanford_cars", ".", 196, 98, 98, 8041, 4002, 4039),
    "flowers102": ("OxfordFlowers", "oxford_flowers", "jpg", 102, 51, 51, 2463, 1053, 1410),
    "dtd": ("DescribableTextures", "dtd", "images", 47, 24, 23, 1692, 864, 828),
    "eurosat": ("EuroSAT", "eurosat", "2750", 10, 5, 5, 8100, 4200, 3900),
    "ucf101": ("UCF101", "ucf101", "UCF-101-midframes", 101, 51, 50, 3783, 1934, 1849),
}
SPLIT = {
    "train": [["cat/1.jpg", 0, "house_cat"], ["dog/1.jpg", 1, "dog"], ["emu/1.jpg", 2, "emu"]],
    "val": [["cat/2.jpg", 0, "house_cat"]],
    "test": [["cat/3.jpg", 0, "house_cat"], ["emu/2.jpg", 2, "emu"], ["dog/2.jpg", 1, "dog"]],
}


def write_split(root: Path, split: object) -> Path:
    folder = root / "food-101"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    path = folder / "split_zhou_Food101.json"
    path.write_text(split if isinstance(split, str) else json.dumps(split))
    return path


def open_food(root: Path, **asked: str):
    return open_dataset(load_dataset_config("food101", root, **asked))


@pytest.mark.parametrize("name", REAL)
def test_the_published_split_files_give_the_published_counts(name: str, shared: Path, tmp_path: Path) -> None:
    split, folder, images, classes, base_classes, novel_classes, test, base, novel = REAL[name]
    (tmp_path / folder / images).mkdir(parents=True)
    shutil.copy(shared / "coop-splits" / f"split_zhou_{split}.json", tmp_path / folder)
    config = load_dataset_config(name, tmp_path)
    whole = open_dataset(config)
    assert (len(whole.classes), len(whole)) == (classes, test)
    assert whole.classes == config.spec.classes
    assert whole.protocol == "CoOp"
    halves = [open_dataset(load_dataset_config(name, tmp_path, half)) for half in ("base", "novel")]
    assert [len(half.classes) for half in halves] == [base_classes, novel_classes]
    assert [len(half) for half in halves] == [base, novel]
    assert halves[0].classes + halves[1].classes == whole.classes
    for half in halves:
        assert {sample.label for sample in half} == set(range(len(half.classes)))
    expected = config.spec.expected
    for subset, count in (("val", expected.val), ("train", expected.train)):
        assert len(open_dataset(load_dataset_config(name, tmp_path, subset=subset))) == count


def test_samples_are_named_and_labelled_by_the_split_file(tmp_path: Path) -> None:
    write_split(tmp_path, SPLIT)
    dataset = open_food(tmp_path)
    assert dataset.classes == ("house_cat", "dog", "emu")
    assert [(sample.id, sample.label) for sample in dataset] == [("cat/3.jpg", 0), ("emu/2.jpg", 2), ("dog/2.jpg", 1)]
    assert next(iter(dataset)).source == tmp_path / "food-101" / "images" / "cat" / "3.jpg"
    assert dataset.source == str(tmp_path / "food-101" / "split_zhou_Food101.json")


def test_novel_classes_are_the_second_half_relabelled_and_new_is_another_word_for_it(tmp_path: Path) -> None:
    write_split(tmp_path, {"test": [[f"{n}.jpg", label, n] for n, label in zip("abcde", (0, 3, 5, 7, 9), strict=True)]})
    novel, new = open_food(tmp_path, split="novel"), open_food(tmp_path, split="new")
    assert novel.classes == ("d", "e")
    assert [(sample.id, sample.label) for sample in novel] == [("d.jpg", 0), ("e.jpg", 1)]
    assert dataset_digest(novel) == dataset_digest(new)
    assert dataset_digest(novel) != dataset_digest(open_food(tmp_path, split="base"))


def test_results_on_another_subset_name_it(tmp_path: Path) -> None:
    write_split(tmp_path, SPLIT)
    train = open_food(tmp_path, subset="train")
    assert (train.split, len(train)) == ("all/train", 3)


@pytest.mark.parametrize(
    "path", ["../secret.jpg", "/etc/passwd", "cat/../../secret.jpg", "C:\\secret.jpg", "..\\secret.jpg", "", "a\0.jpg"]
)
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, path: str) -> None:
    write_split(tmp_path, {"test": [["cat/1.jpg", 0, "cat"], [path, 1, "dog"]]})
    with pytest.raises(InputError, match=r"split_zhou_Food101.json: the path .* leads outside") as caught:
        open_food(tmp_path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("link", ["cat", "cat/1.jpg"])
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, link: str) -> None:
    write_split(tmp_path, {"test": [["cat/1.jpg", 0, "cat"], ["dog/1.jpg", 1, "dog"]]})
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "1.jpg").write_bytes(b"secret")
    place = tmp_path / "food-101" / "images" / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(tmp_path / "private" / "1.jpg" if link.endswith("jpg") else tmp_path / "private")
    with pytest.raises(InputError, match="leads outside"):
        open_food(tmp_path)


def test_the_image_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write_split(tmp_path, SPLIT)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "food-101" / "images").rmdir()
    (tmp_path / "food-101" / "images").symlink_to(tmp_path / "elsewhere")
    assert len(open_food(tmp_path)) == 3


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("{", "not a split file"),
        ({"test": [["a.jpg", "0", "cat"]]}, "not a split file"),
        ({"test": [["a.jpg", 0]]}, "not a split file"),
        ({"test": [["a.jpg", 0, "cat"], ["b.jpg", 0, "cat"]]}, "1 class in split 'all'"),
        ({"train": SPLIT["train"]}, "has no subset 'test'"),
        (
            {"test": [["a.jpg", 0, "cat"], ["b.jpg", 0, "cat"], ["c.jpg", 0, "dog"], ["d.jpg", 1, "dog"]]},
            "'c.jpg' has label 0 and the name 'dog', but label 0 is 'cat' elsewhere",
        ),
    ],
)
def test_a_broken_split_file_is_named_with_what_is_wrong(tmp_path: Path, split: object, message: str) -> None:
    write_split(tmp_path, split)
    with pytest.raises(InputError) as caught:
        open_food(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_root_or_the_files_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data ROOT"):
        open_dataset(load_dataset_config("food101"))
    with pytest.raises(InputError, match=r"food-101 is missing: run `tlac datasets prepare food101 --data "):
        open_food(tmp_path)
    write_split(tmp_path, SPLIT)
    (tmp_path / "food-101" / "images").rmdir()
    with pytest.raises(InputError, match=r"images is missing"):
        open_food(tmp_path)


def test_listing_fifty_thousand_images_needs_none_of_them(tmp_path: Path) -> None:
    write_split(tmp_path, {"test": [[f"c{n % 100}/{n}.jpg", n % 100, f"c{n % 100}"] for n in range(50_000)]})
    dataset = open_food(tmp_path)
    assert len(dataset) == len(list(dataset)) == 50_000
    assert not any((tmp_path / "food-101" / "images").iterdir())


def test_the_digest_of_the_split_file_decides_what_the_protocol_is_called(shared: Path, tmp_path: Path) -> None:
    published = shared / "coop-splits" / "split_zhou_DescribableTextures.json"
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    copy = tmp_path / "dtd" / published.name
    shutil.copy(published, copy)
    config = load_dataset_config("dtd", tmp_path)
    true = open_dataset(config)
    assert true.protocol == "CoOp"
    assert true.details == {"split file sha256": config.spec.expected.split_file_sha256}
    assert true.notes[0].startswith("1,692 of 1,692 listed images missing: ")
    split = json.loads(published.read_text())
    split["test"][0], split["train"][0] = split["train"][0], split["test"][0]
    copy.write_text(json.dumps(split))
    other = open_dataset(config)
    assert other.protocol == "CoOp, another split file"
    assert dataset_digest(other) != dataset_digest(true)


@pytest.mark.parametrize(
    "options",
    [
        {"folder": "../elsewhere"},
        {"folder": "/etc"},
        {"images": "../../elsewhere"},
        {"split_file": "../../split.json"},
        {"split_file": "none.json", "official": {"reader": "dtd", "protocol": "official", "folder": "../elsewhere"}},
    ],
)
def test_no_path_of_a_dataset_file_leads_out_of_its_root(tmp_path: Path, options: dict[str, object]) -> None:
    for place in ("elsewhere", "root/set/images"):
        (tmp_path / place).mkdir(parents=True)
    split = json.dumps({"test": [["1.jpg", 0, "a"], ["2.jpg", 1, "b"]]})
    for place in ("split.json", "elsewhere/split.json", "root/set/split.json"):
        (tmp_path / place).write_text(split)
    given = {"folder": "set", "images": "images", "split_file": "split.json", **options}
    (tmp_path / "own.yaml").write_text(json.dumps({"loader": "coop", "protocol": "p", "options": given}))
    with pytest.raises(ConfigError, match=r"own\.yaml: the path '.*' leads outside the dataset's folder: refused"):
        open_dataset(load_dataset_config(str(tmp_path / "own.yaml"), tmp_path / "root"))
