from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.datasets.folder import read_classnames
from tlac.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def open_at(name: str, root: Path, **asked: str):
    return open_dataset(load_dataset_config(name, root, **asked))


def listed(dataset) -> list[tuple[str, str]]:
    return [(sample.id, dataset.classes[sample.label]) for sample in dataset]


def test_validation_images_are_named_by_the_classnames_file(tmp_path: Path) -> None:
    touch(tmp_path / "imagenet" / "images" / "val", "n02/b.JPEG", "n01/a.JPEG", "n03/c.JPEG")
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01 tench\nn02 great white shark\nn03 hen\nn04 cock\n")
    dataset = open_at("imagenet", tmp_path)
    assert dataset.classes == ("tench", "great white shark", "hen")
    assert listed(dataset) == [("n01/a.JPEG", "tench"), ("n02/b.JPEG", "great white shark"), ("n03/c.JPEG", "hen")]
    assert dataset.protocol == "CoOp, but 3 classes and not 1000"
    assert open_at("imagenet", tmp_path, split="base").classes == ("tench", "great white shark")


def test_without_the_classnames_file_wordnet_ids_are_known_and_the_protocol_says_so(tmp_path: Path) -> None:
    touch(tmp_path / "imagenet" / "images" / "val", "n01443537/a.JPEG", "n15075141/b.JPEG")
    dataset = open_at("imagenet", tmp_path)
    assert dataset.classes == ("goldfish", "toilet paper")
    assert dataset.protocol == "CoOp, open_clip's class names, but 2 classes and not 1000"


@pytest.mark.parametrize(("has_names", "protocol"), [(True, "CoOp"), (False, "CoOp, open_clip's class names")])
def test_with_every_class_and_image_the_protocol_is_the_datasets_own(
    tmp_path: Path, has_names: bool, protocol: str
) -> None:
    config = load_dataset_config("imagenet", tmp_path)
    spec = config.spec
    touch(tmp_path / "imagenet" / "images" / "val", *(f"{folder}/a.JPEG" for folder in spec.options["folders"]))
    if has_names:
        lines = zip(spec.options["folders"], spec.classes, strict=True)
        (tmp_path / "imagenet" / "classnames.txt").write_text("".join(f"{' '.join(line)}\n" for line in lines))
    dataset = open_at("imagenet", tmp_path)
    assert (dataset.protocol, dataset.classes) == (f"{protocol}, but 1000 images and not 50000", spec.classes)
    whole = msgspec.structs.replace(spec, expected=msgspec.structs.replace(spec.expected, test=1000))
    assert open_dataset(replace(config, spec=whole)).protocol == protocol
    assert dataset.notes == (
        "2 names of several classes, which no answer can tell apart: 'missile' (classes 657, 744), "
        "'sunglasses' (classes 836, 837)",
    )


@pytest.mark.parametrize(("name", "folder"), [("a", "imagenet-adversarial"), ("r", "imagenet-rendition")])
def test_variants_with_200_classes_skip_the_readme(tmp_path: Path, name: str, folder: str) -> None:
    touch(tmp_path / folder / f"imagenet-{name}", "n01498041/x.jpg", "n01770393/y.jpg", "README.txt", "n01498041/z.txt")
    (tmp_path / folder / "classnames.txt").write_text("n01498041 stingray\nn01770393 scorpion\n")
    dataset = open_at(f"imagenet-{name}", tmp_path)
    assert listed(dataset) == [("n01498041/x.jpg", "stingray"), ("n01770393/y.jpg", "scorpion")]


def test_the_200_classes_are_known_by_their_ids(tmp_path: Path) -> None:
    known = load_dataset_config("imagenet").spec
    names = dict(zip(known.options["folders"], known.classes, strict=True))
    for variant in ("imagenet-a", "imagenet-r"):
        spec = load_dataset_config(variant).spec
        assert len(spec.options["folders"]) == len(spec.classes) == 200
        assert tuple(names[folder] for folder in spec.options["folders"]) == spec.classes


def test_a_variant_finds_the_names_beside_imagenet(tmp_path: Path) -> None:
    touch(tmp_path / "imagenet-sketch" / "images", "n1/x.JPEG", "n2/y.JPEG")
    touch(tmp_path, "imagenet/classnames.txt")
    (tmp_path / "imagenet" / "classnames.txt").write_text("n1 one\nn2 two\n")
    assert open_at("imagenet-sketch", tmp_path).classes == ("one", "two")


def test_numbered_folders_follow_the_order_of_the_classnames_file(tmp_path: Path) -> None:
    images = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    touch(images, "0/a.jpeg", "2/b.jpeg", "10/c.jpeg")
    (tmp_path / "imagenetv2" / "classnames.txt").write_text("".join(f"n{n:02d} class {n}\n" for n in range(11)))
    dataset = open_at("imagenetv2", tmp_path)
    assert len(dataset.classes) == 11
    assert listed(dataset) == [("0/a.jpeg", "class 0"), ("2/b.jpeg", "class 2"), ("10/c.jpeg", "class 10")]


def test_numbered_folders_without_the_file_take_clips_names(tmp_path: Path) -> None:
    touch(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val", "0/a.jpeg", "999/b.jpeg")
    assert listed(open_at("imagenetv2", tmp_path)) == [("0/a.jpeg", "tench"), ("999/b.jpeg", "toilet paper")]


@pytest.mark.parametrize("name", ["imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r"])
def test_variants_are_always_used_whole(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="always used whole"):
        open_at(name, tmp_path, split="novel")


def test_a_class_folder_without_a_name_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "imagenet" / "images" / "val", "n01443537/a.JPEG", "holiday/b.JPEG")
    with pytest.raises(InputError, match=r"holiday: not a known class folder"):
        open_at("imagenet", tmp_path)
    touch(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val", "0/a.jpeg", "1000/b.jpeg")
    with pytest.raises(InputError, match=r"1000: not a known class folder"):
        open_at("imagenetv2", tmp_path)


def test_missing_files_and_subsets_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"val is missing: run `tlac datasets prepare imagenet --data "):
        open_at("imagenet", tmp_path)
    with pytest.raises(InputError, match="no subset 'val'"):
        open_at("imagenet", tmp_path, subset="val")


def test_a_broken_line_of_names_is_numbered(tmp_path: Path) -> None:
    path = tmp_path / "classnames.txt"
    path.write_text("n1 one\n\nn2 two\n")
    with pytest.raises(InputError, match=r"classnames.txt, line 2: is blank"):
        read_classnames(path)
    path.write_text("n1 one\nn1 two\n")
    with pytest.raises(InputError, match=r"classnames.txt, line 2: the folder 'n1' stands twice"):
        read_classnames(path)
    path.write_text("\ufeffn1 one\nn2\n")
    with pytest.raises(InputError, match=r"classnames.txt, line 2: expected a folder and its class name"):
        read_classnames(path)
