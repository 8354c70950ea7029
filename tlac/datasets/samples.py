"""The labelled sample images that the PyPI package foolbox carries: 20 each of ImageNet, CIFAR-10, CIFAR-100.

A file is named SET_NUMBER_LABEL. The package is not imported, since that would need torch and eagerpy.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tlac.config.schemas import DatasetConfig, Schema
from tlac.datasets.base import ListedDataset, list_files, only_test_subset, read_options, take_part
from tlac.errors import ConfigError

PACKAGE = "foolbox"


class SampleOptions(Schema, frozen=True):
    """`prefix` is the part of the file names before the first underscore, such as "imagenet"."""

    prefix: str


def open_samples(config: DatasetConfig) -> ListedDataset:
    """Open the sample images of one set, in the order of their numbers, with all of the set's classes.

    Raises ConfigError where the package, its images or their class names are missing.
    """
    only_test_subset(config)
    options = read_options(SampleOptions, config)
    folder = _image_folder(config.name)
    paths = sorted(folder.glob(f"{options.prefix}_*_*.*"))
    if not paths:
        raise ConfigError(f"{config.source}: {PACKAGE} has no images named {options.prefix}_*: check options.prefix")
    labels = [int(path.stem.rpartition("_")[2]) for path in paths]
    if max(labels) >= len(config.spec.classes):
        raise ConfigError(
            f"{config.source}: {len(config.spec.classes)} classes, but {PACKAGE} has an image with label "
            f"{max(labels)}: check classes or classes_from"
        )
    names = [path.name for path in paths]
    dataset = take_part(config, list_files(config.spec.classes, names, labels, folder, f"package {PACKAGE}"))
    # twenty images leave most of a thousand classes empty: that is the set, and no fault of it
    return replace(dataset, notes=tuple(note for note in dataset.notes if "without images" not in note))


def _image_folder(name: str) -> Path:
    found = find_spec(PACKAGE)
    for location in (found.submodule_search_locations or ()) if found else ():
        folder = Path(location) / "data"
        if folder.is_dir():
            return folder
    raise ConfigError(f"{name}: its images are in the package {PACKAGE}: pip install 'tlac[embedded]'")
