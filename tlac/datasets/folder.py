"""Images in folders, and in lists beside them: one sub-folder per class, as people keep their own images; a CSV file of
paths and labels; ImageNet and its variants, whose folders are named by WordNet id, or by number.

A sub-folder's class is named by its own name, by a line "SUB-FOLDER Class name" in classes.txt, or, for ImageNet, in
classnames.txt. The paths of a CSV file are relative to its folder and may not lead out of it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tlac.config.schemas import DatasetConfig, load_dataset_config
from tlac.datasets.base import (
    ListedDataset,
    PathOptions,
    RootedOptions,
    dataset_folder,
    is_image_file,
    list_files,
    list_folders,
    no_subset,
    not_there,
    only_test_subset,
    parent_inside,
    path_inside,
    read_options,
    require_folder,
    take_part,
    visible_folders,
)
from tlac.datasets.text_files import clean_name, parse_csv, read_lines, read_text
from tlac.errors import InputError

CLASSES_FILE = "classes.txt"
CLASSNAMES_FILE = "classnames.txt"
_SPLITS = {
    **dict.fromkeys(("test", "testing", "testset"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("train", "training", "trainset"), "train"),
}
# as in train2017, val-images, test_set
_BESIDE_SPLITS = {"", "set", "data", "dataset", "images", "image", "imgs", "img", "split"}
_LAYOUT = "it must hold one sub-folder of images per class"


class ClassFolderOptions(RootedOptions, frozen=True, kw_only=True):
    """`images` maps a subset to its image folder in the dataset's `folder`.

    `folders` are the class folders in the order of the dataset file's classes; `folders_from` takes them
    and the classes from another dataset file. `is_numbered` folders are named by label.
    """

    images: dict[str, str]
    folders: tuple[str, ...] = ()
    folders_from: str | None = None
    is_numbered: bool = False


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


def open_csv(config: DatasetConfig) -> ListedDataset:
    """Open the images that a CSV file lists, in the order of its lines.

    Classes are those of the dataset file where it lists any, else the labels found, sorted. Raises
    InputError naming file and line for a missing column or cell, an unlisted label, or a path that leads out.
    """
    only_test_subset(config)
    file = Path(read_options(PathOptions, config).path)
    rows = [
        (line, row["path"].strip(), clean_name(row["label"]))
        for line, row in parse_csv(read_text(file), file, ("path", "label"))
    ]
    for line, path, label in rows:
        if not path or not label:
            raise InputError(f"{file}, line {line}: a path or a label is missing")
    if not rows:
        raise InputError(f"{file}: lists no images")
    twice = next((path for path, count in Counter(path for _, path, _ in rows).items() if count > 1), None)
    if twice is not None:
        lines = " and ".join(str(line) for line, path, _ in rows if path == twice)
        raise InputError(f"{file}: {twice!r} stands in lines {lines}: leave one of them")
    classes = config.spec.classes or tuple(sorted({label for _, _, label in rows}))
    positions = {clean_name(name): index for index, name in reversed(list(enumerate(classes)))}
    for line, _, label in rows:
        if label not in positions:
            raise InputError(f"{file}, line {line}: {label!r} is no class of {config.source}: correct the label")
    labels = [positions[label] for _, _, label in rows]
    return take_part(config, list_files(classes, [path for _, path, _ in rows], labels, file.parent, file))


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


def _class_names(root: Path) -> dict[str, str]:
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
