from pathlib import Path

import pytest
import yaml

from tlac.config.files import find, list_names
from tlac.config.registry import list_plugins
from tlac.config.schemas import load_dataset_config

# classes, test images, base/novel test images where the protocol has halves
COUNTS = {
    "caltech101": (100, 2465, 1549, 916),
    "oxford_pets": (37, 3669, 1881, 1788),
    "stanford_cars": (196, 8041, 4002, 4039),
    "flowers102": (102, 2463, 1053, 1410),
    "food101": (101, 30300, 15300, 15000),
    "sun397": (397, 19850, 9950, 9900),
    "dtd": (47, 1692, 864, 828),
    "eurosat": (10, 8100, 4200, 3900),
    "ucf101": (101, 3783, 1934, 1849),
    "imagenet": (1000, 50000, 25000, 25000),
}
TOTALS = {
    "fgvc_aircraft": (100, 3333),
    "imagenetv2": (1000, 10000),
    "imagenet-sketch": (1000, 50889),
    "imagenet-a": (200, 7500),
    "imagenet-r": (200, 30000),
    "cifar10": (10, 10000),
    "cifar100": (100, 10000),
}
PUBLISHED = yaml.safe_load((Path(__file__).parents[2] / "benchmarks" / "published.yaml").read_text())


@pytest.mark.parametrize("name", [*COUNTS, *TOTALS])
def test_expected_counts_are_those_of_the_protocol(name: str) -> None:
    spec = load_dataset_config(name).spec
    classes, test, *halves = COUNTS.get(name) or TOTALS[name]
    assert len(spec.classes) == spec.expected.classes == classes
    assert spec.expected.test == test
    if halves:
        per_class = spec.expected.per_class
        counts = [per_class] * classes if isinstance(per_class, int) else list(per_class)
        base = (classes + 1) // 2
        assert [sum(counts[:base]), sum(counts[base:])] == halves


def test_class_names_are_distinct_but_for_imagenets_two() -> None:
    for name in list_names("dataset"):
        classes = load_dataset_config(name).spec.classes
        doubles = {"missile", "sunglasses"} if len(classes) == 1000 else set()
        assert {one for one in classes if classes.count(one) > 1} == doubles, name
        assert all(one == one.strip() for one in classes)


def test_names_that_hold_underscores_are_as_in_the_split_files() -> None:
    holding = {
        name: sum("_" in one for one in load_dataset_config(name).spec.classes)
        for name in ("oxford_pets", "caltech101", "ucf101")
    }
    assert holding == {"oxford_pets": 19, "caltech101": 18, "ucf101": 77}


def test_every_dataset_file_names_a_loader_that_is_there() -> None:
    for name in list_names("dataset"):
        assert load_dataset_config(name).spec.loader in list_plugins("tlac.datasets"), name


def test_suites_name_datasets_and_methods_that_are_there() -> None:
    assert list_names("suite") == ["base-to-novel", "domain-generalization", "samples", "training-free"]
    for name in list_names("suite"):
        suite = find("suite", name).spec
        assert set(suite) == {"description", "datasets", "split", "methods"}
        assert set(suite["datasets"]) <= set(list_names("dataset"))
        assert len(set(suite["datasets"])) == len(suite["datasets"])
        assert set(suite["methods"]) <= set(list_plugins("tlac.methods"))
        assert suite["split"] in ("all", "base", "novel")
    assert len(find("suite", "base-to-novel").spec["datasets"]) == 11
    assert find("suite", "base-to-novel").spec["split"] == "novel"


def test_published_averages_are_those_of_their_parts() -> None:
    for figure in PUBLISHED["figures"]:
        parts = figure.get("by_dataset", {})
        assert figure["source"] in PUBLISHED["sources"]
        assert figure["suite"] in list_names("suite")
        assert set(parts) <= set(find("suite", figure["suite"]).spec["datasets"])
        if parts and "mean" in figure:
            assert sum(parts.values()) / len(parts) == pytest.approx(figure["mean"], abs=0.011)


def test_published_headline_figures() -> None:
    means = {(one["suite"], one["method"]): one["mean"] for one in PUBLISHED["figures"] if "mean" in one}
    assert means["base-to-novel", "TLAC"] == 83.44
    assert means["base-to-novel", "SLAC"] == 78.69
    assert means["training-free", "TLAC"] == 83.6
    assert [one["method"] for one in PUBLISHED["figures"] if one.get("digitised")] == ["TLAC"]
