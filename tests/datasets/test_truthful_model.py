"""An LMM that always says the true class name scores 100 %, whatever the loader, the names, the method or the rule.

Every point below that would be our doing: a name collapsed, an image dropped, a label shifted.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from tests.support.fakes import FakeLMM, make_png
from tlac.types import Encoding, LMMRequest

SCRIPTS = (
    *("tiger", "crème brûlée", "naïve", "señor", "senor", "don't"),
    *("кошка", "собака", "йод", "иод"),
    *("γάτα", "σκύλος", "γατα"),
    *("قطة", "كلب"),
    *("חתול", "כלב"),
    *("कमल", "कुमुद"),
    *("เสือ", "แมว"),
    *("猫", "狗"),
    *("かき", "がき", "ガキ"),
    *("고양이", "개"),
    *("பூனை", "நாய்"),
    *("R&D", "AT&T", "50 %", "A320", "320", "10", "who", "apple"),
)
TWINS = (
    *("कमल", "कमला"),
    *("เสือ", "เสื้อ", "เสื่อ"),
    *("C", "C#", "C++", "F#", "T-shirt", "t shirt"),
    *("A", "a", "Polish", "polish", "US", "us"),
    *("A-10", "10", "A 10", "the who", "who", "an apple", "apple"),
)
# the paper's rule deletes full stops from answers
STOPS = ("No. 1", "No 1", "2.5", "25 mm")


class ByteEncoder:
    """Tells all texts apart, as CLIP's byte-level tokens do: counts of bytes and of pairs of them. No window."""

    fingerprint = "bytes"

    def encode(self, texts: Sequence[str]) -> Encoding:
        vectors = np.zeros((len(texts), 512), np.float32)
        for row, text in enumerate(texts):
            content = text.encode()
            for start in range(len(content)):
                for size in (1, 2, 3):
                    place = hashlib.sha256(content[start : start + size]).digest()
                    vectors[row, int.from_bytes(place[:2], "big") % 512] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoding(vectors, np.zeros(len(texts), np.bool_))


def truthful(names: Sequence[str]) -> FakeLMM:
    """Knows the image of each class by its bytes, and says the class's name, in both stages."""
    by_digest = {hashlib.sha256(make_png(label)).hexdigest(): name for label, name in enumerate(names)}

    def answer(request: LMMRequest) -> str:
        if request.choice is not None:
            return request.choice.answer
        (image,) = request.images
        return by_digest[image.sha256]

    return FakeLMM(answer)


def write_folder(root: Path, names: Sequence[str]) -> str:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(make_png(label))
    return f"folder:{root}"


def write_named_folder(root: Path, names: Sequence[str]) -> str:
    for label in range(len(names)):
        (root / f"c{label:03d}").mkdir(parents=True)
        (root / f"c{label:03d}" / "1.png").write_bytes(make_png(label))
    lines = "".join(f"c{label:03d} {name}\n" for label, name in enumerate(names))
    (root / "classes.txt").write_text(lines, encoding="utf-8")
    return f"folder:{root}"


def write_csv(root: Path, names: Sequence[str]) -> str:
    root.mkdir()
    with (root / "list.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for label, name in enumerate(names):
            (root / f"{label}.png").write_bytes(make_png(label))
            rows.writerow([f"{label}.png", name])
    return f"csv:{root / 'list.csv'}"


def write_parquet(root: Path, names: Sequence[str], is_text: bool) -> str:
    from datasets import ClassLabel, Dataset, Features, Image, Value

    images = [{"bytes": make_png(label), "path": None} for label in range(len(names))]
    labels = list(names) if is_text else list(range(len(names)))
    feature = Value("string") if is_text else ClassLabel(names=list(names))
    table = Dataset.from_dict({"image": images, "label": labels}, features=Features(image=Image(), label=feature))
    root.mkdir()
    table.to_parquet(root / "test.parquet")
    return f"hf:{root / 'test.parquet'}"


def write_parquet_of_names(root: Path, names: Sequence[str]) -> str:
    return write_parquet(root, names, is_text=True)


def write_parquet_of_numbers(root: Path, names: Sequence[str]) -> str:
    return write_parquet(root, names, is_text=False)


def write_webdataset(root: Path, names: Sequence[str]) -> str:
    root.mkdir()
    with tarfile.open(root / "test-0.tar", "w") as shard:
        for label in range(len(names)):
            for suffix, content in (("png", make_png(label)), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"s{label:03d}.{suffix}")
                entry.size = len(content)
                shard.addfile(entry, BytesIO(content))
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return f"hf:{root}"


def write_loose_images(root: Path, names: Sequence[str]) -> str:
    for label, name in enumerate(names):
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "1.png").write_bytes(make_png(label))
    return f"hf:{root}"


def write_coop(root: Path, names: Sequence[str]) -> str:
    images = root / "set" / "images"
    images.mkdir(parents=True)
    for label in range(len(names)):
        (images / f"{label}.png").write_bytes(make_png(label))
    split = {"test": [[f"{label}.png", label, name] for label, name in enumerate(names)]}
    (root / "set" / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return write_file(root, "coop", {"folder": "set", "images": "images", "split_file": "split.json"})


def write_imagenet(root: Path, names: Sequence[str]) -> str:
    for label in range(len(names)):
        folder = root / "set" / "images" / "val" / f"n{label:08d}"
        folder.mkdir(parents=True)
        (folder / "1.JPEG").write_bytes(make_png(label))
    lines = "".join(f"n{label:08d} {name}\n" for label, name in enumerate(names))
    (root / "set" / "classnames.txt").write_text(lines, encoding="utf-8")
    return write_file(root, "class_folders", {"folder": "set", "images": {"test": "images/val"}})


def write_file(root: Path, loader: str, options: dict[str, object]) -> str:
    content = {"loader": loader, "protocol": "ours", "options": options}
    (root / "ours.yaml").write_text(json.dumps(content))
    return str(root / "ours.yaml")


WRITERS = (
    write_folder,
    write_named_folder,
    write_csv,
    write_parquet_of_names,
    write_parquet_of_numbers,
    write_webdataset,
    write_loose_images,
    write_coop,
    write_imagenet,
)


@pytest.fixture
def accuracies(tlac_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Runs slac and tlac on a dataset with a truthful model, and gives what they scored."""
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: ByteEncoder())

    def measured(names: Sequence[str], *arguments: object) -> list[float]:
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: truthful(names))
        methods = ("--method", "slac", "--method", "tlac", "--out", "runs", "--json")
        shown = tlac_command("bench", "--backend", "embedded", "--encoder", "minilm", *methods, *arguments)
        assert shown.code == 0, shown.err
        return [run["accuracy"] for run in json.loads(shown.out)["runs"]]

    return measured


@pytest.mark.parametrize("rule", ["ladder", "paper"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_the_truth_scores_100(accuracies, tmp_path: Path, write: Callable[..., str], rule: str) -> None:
    for names in (SCRIPTS, (*TWINS, *STOPS)):
        made = tmp_path / f"made-{len(names)}"
        asked = ("--dataset", write(made, names), "--data", made, "--matching", rule, "--store", f"store-{len(names)}")
        assert accuracies(names, *asked) == [1.0, 1.0]


SPLITS = {
    "caltech101": ("Caltech101", "caltech-101/101_ObjectCategories"),
    "oxford_pets": ("OxfordPets", "oxford_pets/images"),
    "stanford_cars": ("StanfordCars", "stanford_cars"),
    "flowers102": ("OxfordFlowers", "oxford_flowers/jpg"),
    "dtd": ("DescribableTextures", "dtd/images"),
    "eurosat": ("EuroSAT", "eurosat/2750"),
    "ucf101": ("UCF101", "ucf101/UCF-101-midframes"),
}


# thousands of links each: one in every run, the others where there is time
@pytest.mark.parametrize(
    "name", ["dtd", *(pytest.param(name, marks=pytest.mark.slow) for name in SPLITS if name != "dtd")]
)
def test_the_truth_scores_100_on_the_published_splits(accuracies, shared: Path, tmp_path: Path, name: str) -> None:
    split, images = SPLITS[name]
    source = shared / "coop-splits" / f"split_zhou_{split}.json"
    root = tmp_path / "data" / images
    root.mkdir(parents=True)
    shutil.copy(source, tmp_path / "data" / images.partition("/")[0])
    rows = json.loads(source.read_text())["test"]
    names = {label: class_name for _, label, class_name in rows}
    by_label = {label: index for index, label in enumerate(sorted(names))}
    for label, index in by_label.items():
        (tmp_path / f"{label}.png").write_bytes(make_png(index))
    for path, label, _ in rows:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / f"{label}.png", root / path)
    truth = [names[label] for label in sorted(names)]
    for rule in ("ladder", "paper"):
        asked = ("--dataset", name, "--data", tmp_path / "data", "--limit", 300, "--matching", rule, "--store", "store")
        assert accuracies(truth, *asked) == [1.0, 1.0]
