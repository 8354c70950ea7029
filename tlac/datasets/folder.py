"""A folder with one sub-folder of images per class, as people keep their own images.

An optional classes.txt in it gives the class names, a line "SUB-FOLDER Class name" each, in label order.
"""

from __future__ import annotations

import re
from pathlib import Path

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    PathOptions,
    is_image_file,
    list_folders,
    only_test_subset,
    read_options,
    require_folder,
    take_part,
    visible_folders,
)
from tlac.datasets.text_files import clean_name, read_lines
from tlac.errors import InputError

CLASSES_FILE = "classes.txt"
_SPLITS = {
    **dict.fromkeys(("test", "testing", "testset"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("train", "training", "trainset"), "train"),
}
# as in train2017, val-images, test_set
_BESIDE_SPLITS = {"", "set", "data", "dataset", "images", "image", "imgs", "img", "split"}
_LAYOUT = "it must hold one sub-folder of images per class"


def open_folder(config: DatasetConfig) -> ListedDataset:
    """Open the images below a folder, labelled by the sub-folder they lie in.

    Class names are those of classes.txt, else of the sub-folders in sorted order; a sample's id is its path
    below the folder. Raises InputError for a folder that is missing, unreadable, empty or not so divided.
    """
    only_test_subset(config)
    root = require_folder(Path(read_options(PathOptions, config).path), _LAYOUT)
    names = _class_names(root)
    whole = list_folders(root, names, names)
    if not whole.labels:
        raise InputError(f"{root}: no images in its sub-folders: {_LAYOUT}")
    return take_part(config, whole)


def _class_names(root: Path) -> dict[str, str]:
    """Sub-folder to class name, in label order."""
    folders = visible_folders(root)
    if not folders:
        has_images = any(path.is_file() and is_image_file(path) for path in root.iterdir())
        found = "its images lie in no class sub-folder" if has_images else "an empty folder"
        raise InputError(f"{root}: {found}: {_LAYOUT}")
    listing = root / CLASSES_FILE
    if listing.is_file():
        names = _read_classes(listing, folders)
    else:
        _require_no_split(root, folders)
        names = {folder: clean_name(folder) for folder in folders}
    if len(names) < 2:
        raise InputError(f"{listing if listing.is_file() else root}: only one class, {min(names)!r}: {_LAYOUT}")
    folder_by_name: dict[str, str] = {}
    for folder, name in names.items():
        if (twin := folder_by_name.setdefault(name, folder)) != folder:
            raise InputError(
                f"{root}: the folders {twin!a} and {folder!a} differ in spaces or Unicode forms alone: merge them"
            )
    return names


def _require_no_split(root: Path, folders: list[str]) -> None:
    """Raises InputError where the sub-folders are splits: "train" may be a class, but hardly beside "test"."""
    splits = {}
    for folder in folders:
        words = set(re.split(r"[^a-z]+", folder.lower())) - _BESIDE_SPLITS
        if len(words) == 1 and (kind := _SPLITS.get(words.pop())):
            splits[folder] = kind
    if len(set(splits.values())) > 1:
        first = next((folder for folder, kind in splits.items() if kind == "test"), next(iter(splits)))
        raise InputError(
            f"{root}: its sub-folders {', '.join(splits)} are splits and no classes: say which one, such as "
            f"folder:{root / first}; if they are classes, list them in {CLASSES_FILE}"
        )


def _read_classes(listing: Path, folders: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in read_lines(listing):
        place = f"{listing}, line {number}"
        # a folder's name may itself hold spaces: the longest that fits is taken
        fitting = [folder for folder in folders if line == folder or line.startswith((f"{folder} ", f"{folder}\t"))]
        if not fitting:
            raise InputError(f"{place}: no sub-folder {line.split()[0]!r}: correct the line or remove it")
        folder = max(fitting, key=len)
        name = clean_name(line[len(folder) :])
        if not name:
            raise InputError(f"{place}: {folder!r} has no class name: write 'SUB-FOLDER Class name'")
        if folder in names or name in names.values():
            twice = folder if folder in names else name
            raise InputError(f"{place}: {twice!r} stands twice: give each class one line and a name of its own")
        names[folder] = name
    unnamed = sorted(set(folders) - set(names))
    if unnamed:
        raise InputError(f"{listing}: the sub-folder {unnamed[0]!r} has no line: add one, or move the folder away")
    return names
