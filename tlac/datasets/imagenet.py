"""ImageNet and its variants: folders named by WordNet id, or by number, with the names in a classnames.txt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tlac.config.schemas import DatasetConfig, load_dataset_config
from tlac.datasets.base import (
    ListedDataset,
    RootedOptions,
    dataset_folder,
    list_folders,
    no_subset,
    not_there,
    parent_inside,
    path_inside,
    read_options,
    take_part,
    visible_folders,
)
from tlac.datasets.text_files import read_lines
from tlac.errors import InputError

CLASSNAMES_FILE = "classnames.txt"


class ClassFolderOptions(RootedOptions, frozen=True, kw_only=True):
    """`images` maps a subset to its image folder in the dataset's `folder`.

    `folders` are the class folders in the order of the dataset file's classes; `folders_from` takes them
    and the classes from another dataset file. `is_numbered` folders are named by label.
    """

    images: dict[str, str]
    folders: tuple[str, ...] = ()
    folders_from: str | None = None
    is_numbered: bool = False


def open_class_folders(config: DatasetConfig) -> ListedDataset:
    """Open the images of each class folder, labelled in the sorted order of the folders (CoOp's rule).

    Class names are those of classnames.txt ("n01440764 tench" a line) in the dataset's folder or beside
    ImageNet, else of the dataset file. Raises InputError for a missing folder, or one without a name.
    """
    options = read_options(ClassFolderOptions, config)
    folder = dataset_folder(config, options)
    if config.subset not in options.images:
        raise no_subset(config, folder)
    images = path_inside(config, folder, options.images[config.subset])
    if not images.is_dir():
        raise not_there(config, images)
    names, protocol = _names_by_folder(config, options, folder)
    if options.is_numbered:
        names = {str(label): name for label, name in enumerate(names.values())}
    folders = sorted(visible_folders(images), key=_number if options.is_numbered else None)
    for name in folders:
        if name not in names:
            raise InputError(
                f"{images / name}: not a known class folder: move it away, or name it in {CLASSNAMES_FILE} beside "
                "the image folder"
            )
    # a folder's number is its label; other folders are the classes that there are
    by_folder = names if options.is_numbered else {name: names[name] for name in folders}
    return take_part(config, replace(list_folders(images, folders, by_folder), protocol=protocol))


def read_classnames(path: Path) -> dict[str, str]:
    """Class name by folder, in the order of the file. Raises InputError naming a broken line."""
    names = {}
    for number, line in read_lines(path):
        folder, *rest = line.split(maxsplit=1)
        if not rest:
            raise InputError(f"{path}, line {number}: expected a folder and its class name, as 'n01440764 tench'")
        if folder in names:
            raise InputError(f"{path}, line {number}: the folder {folder!r} stands twice: remove a line")
        names[folder] = rest[0]
    return names


def class_folder_names(config: DatasetConfig, options: ClassFolderOptions) -> dict[str, str]:
    """Class name by folder as the dataset files have it; empty where they list no folders."""
    if options.folders_from:
        lender = load_dataset_config(options.folders_from)
        return dict(zip(read_options(ClassFolderOptions, lender).folders, lender.spec.classes, strict=False))
    return dict(zip(options.folders, config.spec.classes, strict=False))


def _names_by_folder(config: DatasetConfig, options: ClassFolderOptions, folder: Path) -> tuple[dict[str, str], str]:
    """Names, and the protocol: CoOp's file and the dataset file spell some classes differently."""
    for listing in (folder / CLASSNAMES_FILE, parent_inside(config, folder) / "imagenet" / CLASSNAMES_FILE):
        if listing.is_file():
            return read_classnames(listing), config.spec.protocol
    return class_folder_names(config, options), f"{config.spec.protocol}, open_clip's class names"


def _number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (-1, name)
