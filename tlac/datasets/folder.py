"""A folder with one sub-folder of images per class, as people keep their own images.

An optional classes.txt in it gives the class names, a line "SUB-FOLDER Class name" each, in label order.
"""

from __future__ import annotations

from pathlib import Path

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    PathOptions,
    is_image_name,
    list_folders,
    only_test_subset,
    read_lines,
    read_options,
    require_folder,
    take_part,
    visible_folders,
)
from tlac.errors import InputError

CLASSES_FILE = "classes.txt"
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
        has_images = any(is_image_name(path.name) for path in root.iterdir())
        found = "its images lie in no class sub-folder" if has_images else "an empty folder"
        raise InputError(f"{root}: {found}: {_LAYOUT}")
    listing = root / CLASSES_FILE
    names = _read_classes(listing, folders) if listing.is_file() else {folder: folder for folder in folders}
    if len(names) < 2:
        raise InputError(f"{listing if listing.is_file() else root}: only one class, {min(names)!r}: {_LAYOUT}")
    return names


def _read_classes(listing: Path, folders: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in read_lines(listing):
        place = f"{listing}, line {number}"
        # a folder's name may itself hold spaces: the longest that fits is taken
        fitting = [folder for folder in folders if line == folder or line.startswith((f"{folder} ", f"{folder}\t"))]
        if not fitting:
            raise InputError(f"{place}: no sub-folder {line.split()[0]!r}: correct the line or remove it")
        folder = max(fitting, key=len)
        name = line[len(folder) :].strip()
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
