"""A folder with one sub-folder of images per class, as people keep their own images.

An optional classes.txt in it gives the class names, a line "SUB-FOLDER Class name" each, in label order.
Opens no image.
"""

from __future__ import annotations

from pathlib import Path

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    Listing,
    Options,
    image_paths,
    is_image_name,
    only_test_subset,
    read_options,
    require_folder,
    take_part,
    visible_folders,
)
from tlac.errors import InputError
from tlac.types import Sample

CLASSES_FILE = "classes.txt"
_LAYOUT = "it must hold one sub-folder of images per class"


class FolderOptions(Options, frozen=True):
    """`path` is the folder, relative to the working directory."""

    path: str


def open_folder(config: DatasetConfig) -> ListedDataset:
    """The images below a folder, labelled by the sub-folder they lie in.

    Class names are those of classes.txt, else of the sub-folders in sorted order; a sample's id is its path
    below the folder. Raises InputError for a folder that is missing, unreadable, empty or not so divided.
    """
    only_test_subset(config)
    root = require_folder(Path(read_options(FolderOptions, config).path), _LAYOUT)
    names = _class_names(root)
    samples = [
        Sample(path.relative_to(root).as_posix(), path, label)
        for label, folder in enumerate(names)
        for path in image_paths(root / folder, root)
    ]
    if not samples:
        raise InputError(f"{root}: no images in its sub-folders: {_LAYOUT}")
    return take_part(config, Listing(tuple(names.values()), tuple(samples), source=str(root)))


def _class_names(root: Path) -> dict[str, str]:
    """Sub-folder to class name, in label order."""
    folders = [folder.name for folder in visible_folders(root)]
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
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: can't be read as UTF-8 text: {error}") from error
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{listing}, line {number}"
        folder, name = _split_line(line.strip(), folders)
        if folder not in folders:
            raise InputError(f"{place}: no sub-folder {folder!r}: correct the line or remove it")
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


def _split_line(line: str, folders: list[str]) -> tuple[str, str]:
    """Folder and class name; a folder's name may itself hold spaces, so the longest that fits is taken."""
    fitting = [folder for folder in folders if line == folder or line.startswith((f"{folder} ", f"{folder}\t"))]
    folder = max(fitting, key=len) if fitting else line.split(maxsplit=1)[0]
    return folder, line[len(folder) :].strip()
