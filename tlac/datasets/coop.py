"""Datasets that CoOp splits by a file of its own, split_zhou_NAME.json, else by the dataset's official lists.

The file maps "train", "val" and "test" to [path, label, class name] rows.
Source: Zhou et al., Learning to Prompt for Vision-Language Models, arXiv:2109.01134.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    Options,
    RootedOptions,
    dataset_folder,
    list_files,
    no_subset,
    not_there,
    parent_inside,
    path_inside,
    read_options,
    take_part,
)
from tlac.datasets.torchvision_splits import read_official
from tlac.errors import InputError
from tlac.runtime.safe_files import read_json

_MAX_BYTES = 2**28
Row: TypeAlias = tuple[str, int, str]


class Official(Options, frozen=True):
    """The dataset's own split, for when CoOp's file is absent: `reader` is a name in tlac.datasets.torchvision_splits.

    `folder` is where torchvision's download puts the images, if not where CoOp does. `classes` are clean
    names in the order of the official labels, where they are not the classes of the dataset file.
    """

    reader: str
    protocol: str
    folder: str = ""
    classes: tuple[str, ...] = ()


class CoopOptions(RootedOptions, frozen=True, kw_only=True):
    """`images` is the image folder in the dataset's `folder`, and `split_file` CoOp's file beside it."""

    images: str
    split_file: str
    official: Official | None = None


def open_coop(config: DatasetConfig) -> ListedDataset:
    """Open a dataset by CoOp's split file where there is one, else by its official split; `protocol` tells which.

    Raises InputError where the files are missing or broken, or a path leads outside the image folder.
    """
    options = read_options(CoopOptions, config)
    folder = dataset_folder(config, options)
    split_file = path_inside(config, folder, options.split_file)
    if split_file.is_file():
        return take_part(config, _by_split_file(config, split_file, path_inside(config, folder, options.images)))
    official = options.official
    places = [folder]
    if official and official.folder:
        places.append(path_inside(config, parent_inside(config, folder), official.folder))
    found = [place for place in places if place.is_dir()]
    if not found:
        raise not_there(config, folder)
    if official is None:
        raise not_there(config, split_file)
    return take_part(config, _by_official_split(config, official, found[0]))


def read_split_file(path: Path) -> dict[str, list[Row]]:
    """The rows of a split file by subset. Raises InputError where it is not such a file."""
    try:
        found: dict[str, list[Row]] = read_json(path, dict[str, list[Row]], _MAX_BYTES)
    except InputError as error:
        raise InputError(f"{error}: not a split file: fetch it again") from error
    return found


def split_classes(path: Path, split: dict[str, list[Row]]) -> dict[int, str]:
    """Class names by label, in the order of the labels.

    Raises InputError naming the path of a row whose label has another name elsewhere in the file.
    """
    names: dict[int, Counter[str]] = {}
    for rows in split.values():
        for _, label, name in rows:
            names.setdefault(label, Counter())[name] += 1
    chosen = {label: names[label].most_common(1)[0][0] for label in sorted(names)}
    for rows in split.values():
        for image, label, name in rows:
            if chosen[label] != name:
                raise InputError(
                    f"{path}: {image!r} has label {label} and the name {name!r}, but label {label} is "
                    f"{chosen[label]!r} elsewhere: fetch the file again"
                )
    return chosen


def _by_split_file(config: DatasetConfig, split_file: Path, images: Path) -> ListedDataset:
    if not images.is_dir():
        raise not_there(config, images)
    split = read_split_file(split_file)
    classes = split_classes(split_file, split)
    if not split.get(config.subset):
        raise no_subset(config, split_file)
    positions = {label: index for index, label in enumerate(classes)}
    labels = [positions[label] for _, label, _ in split[config.subset]]
    names = [path for path, _, _ in split[config.subset]]
    whole = list_files(tuple(classes.values()), names, labels, images, split_file)
    digest = hashlib.sha256(split_file.read_bytes()).hexdigest()
    expected = config.spec.expected
    published = expected.split_file_sha256 if expected else None
    is_another = published is not None and digest != published
    protocol = f"{config.spec.protocol}, another split file" if is_another else ""
    return replace(whole, protocol=protocol, details={"split file sha256": digest})


def _by_official_split(config: DatasetConfig, official: Official, folder: Path) -> ListedDataset:
    names, rows = read_official(official.reader, folder, config)
    clean = official.classes or config.spec.classes
    # labels index the official list, so clean names fit only a list of the same length
    classes = clean if len(clean) == len(names) else names
    whole = list_files(classes, [path for path, _ in rows], [label for _, label in rows], folder, folder)
    return replace(whole, protocol=official.protocol)
