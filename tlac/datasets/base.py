"""A dataset as a list of image files, and its base and novel halves.

Does not know where a list comes from, and opens no image.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

import msgspec

from tlac.config.files import Resource, list_names
from tlac.config.schemas import DatasetConfig, parse
from tlac.errors import InputError, UnknownNameError, UsageError
from tlac.images import IMAGE_SUFFIXES
from tlac.types import Sample

SPLITS = ("all", "base", "novel")
SUBSETS = ("test", "val", "train")

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the loaders' options: immutable, and no key that is not listed."""


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A dataset whose samples are known by path before any image is opened.

    `source` is the list file or folder that the samples were read from.
    """

    name: str
    split: str
    protocol: str
    prompt: str
    classes: tuple[str, ...] = field(repr=False)
    samples: tuple[Sample, ...] = field(repr=False)
    source: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole dataset before a part is taken: `samples` of one subset, labelled by index into `classes`.

    `source` is the list file or folder they were read from. `protocol` stands in for the dataset file's own
    where it is not empty.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: str
    protocol: str = ""


def read_options(schema: type[OptionsT], config: DatasetConfig) -> OptionsT:
    """The loader's own options of a dataset file. Raises ConfigError naming file and key."""
    return parse(schema, Resource(config.name, f"{config.source} (options)", config.spec.options))


def is_in_half(label: int, class_count: int, split: str) -> bool:
    """Whether a class belongs to the split: the first ceil(n/2) labels are base, the rest novel."""
    base_count = (class_count + 1) // 2
    return split == "all" or (label < base_count) == (split == "base")


def split_of(config: DatasetConfig) -> str:
    """The split asked for, with CoOp's word "new" for "novel". Raises UnknownNameError for any other word."""
    split = "novel" if config.split == "new" else config.split
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if config.subset not in SUBSETS:
        raise UnknownNameError("subset", config.subset, SUBSETS)
    return split


def take_part(config: DatasetConfig, listing: Listing) -> ListedDataset:
    """The part of a whole dataset that `config` asks for, each half relabelled from 0 (CoOp's rule).

    Raises InputError where fewer than two classes or no image would be left.
    """
    split = split_of(config)
    kept = [label for label in range(len(listing.classes)) if is_in_half(label, len(listing.classes), split)]
    if len(kept) < 2:
        raise InputError(
            f"{config.name}: {_count(len(kept), 'class')} in split {split!r}: at least two are needed to choose from"
        )
    samples = listing.samples
    if split != "all":
        samples = tuple(
            Sample(sample.id, sample.source, sample.label - kept[0])
            for sample in samples
            if sample.label is not None and is_in_half(sample.label, len(listing.classes), split)
        )
    if not samples:
        raise InputError(f"{config.name}: no image in split {split!r} of {config.subset!r}: choose another")
    return ListedDataset(
        name=config.name,
        split=split_label(config),
        protocol=_protocol(config, listing),
        prompt=config.spec.prompt,
        classes=tuple(listing.classes[label] for label in kept),
        samples=samples,
        source=listing.source,
    )


def _protocol(config: DatasetConfig, listing: Listing) -> str:
    """The protocol, which is not quite the one of the dataset file where classes are missing or more."""
    protocol, expected = listing.protocol or config.spec.protocol, config.spec.expected
    if expected is None or len(listing.classes) == expected.classes or not protocol.startswith(config.spec.protocol):
        return protocol
    return f"{protocol}, but {len(listing.classes)} classes and not {expected.classes}"


def split_label(config: DatasetConfig) -> str:
    """How results name the part: "novel" for its test images, "novel/val" for others."""
    split = split_of(config)
    return split if config.subset == "test" else f"{split}/{config.subset}"


def only_test_subset(config: DatasetConfig) -> None:
    """Refuses "val" and "train" for a dataset that is not divided. Raises InputError."""
    split_of(config)
    if config.subset != "test":
        raise InputError(f"{config.name}: has no subset {config.subset!r}: leave the subset out to use all its images")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}es"


class RootedOptions(Options, frozen=True):
    """Options of a dataset under the data root, in `folder`. `is_whole` ones have no base and novel half."""

    folder: str
    is_whole: bool = False


def dataset_folder(config: DatasetConfig, options: RootedOptions) -> Path:
    """The dataset's folder under the data root, which need not exist.

    Raises UsageError without a root, InputError for half of a dataset that is always used whole.
    """
    if config.root is None:
        raise UsageError(f"{config.name}: its images lie under a data root: say where with --data ROOT")
    if options.is_whole and split_of(config) != "all":
        raise InputError(f"{config.name}: is always used whole: leave the split out")
    return config.root / options.folder


def not_there(config: DatasetConfig, path: Path) -> InputError:
    """The error for files that have not been put in place."""
    return InputError(f"{config.name}: {path} is missing: run {preparing(config)} to get it")


def preparing(config: DatasetConfig) -> str:
    """The command that gets the dataset's files, as it can be typed."""
    name = config.name if config.name in list_names("dataset") else config.source
    return f"`{shlex.join(['tlac', 'datasets', 'prepare', name, '--data', str(config.root)])}`"


def no_subset(config: DatasetConfig, source: Path | str) -> InputError:
    """The error for a subset that a dataset does not have."""
    return InputError(f"{config.name}: {source} has no subset {config.subset!r}: choose another")


def require_folder(path: Path, remedy: str) -> Path:
    """The folder itself, where it is one and can be read. Raises InputError with the remedy."""
    if not path.exists():
        raise InputError(f"{path}: no such folder: {remedy}")
    if not path.is_dir():
        raise InputError(f"{path}: not a folder: {remedy}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path}: can't be read: check its permissions")
    return path


def is_image_name(name: str) -> bool:
    """Whether a file of that name is taken for an image; hidden files are not."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def visible_folders(path: Path) -> list[Path]:
    """The sub-folders of a folder that are not hidden, by name. Raises InputError where it can't be read."""
    try:
        return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


def image_paths(folder: Path, root: Path) -> Iterator[Path]:
    """The images in a folder and below it, in the order of their paths; hidden files and folders are skipped.

    Raises InputError for a folder that can't be read, and for a link that leads outside `root`.
    """
    resolved_root = root.resolve()
    if folder.is_symlink():
        _require_inside(folder, resolved_root)
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: can't be read: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            _require_inside(Path(entry.path), resolved_root)
        if entry.is_dir():
            # a link to a folder inside could lead round in a circle, and its images are listed anyway
            if not entry.is_symlink():
                yield from image_paths(Path(entry.path), root)
        elif is_image_name(entry.name):
            yield Path(entry.path)


def join_inside(root: Path, names: Iterable[str], source: str) -> list[Path]:
    """Relative paths of a list file as paths below `root`; no file is opened or looked for.

    Raises InputError for a path that leads outside: absolute, with a drive, with "..", or through a link.
    `source` is the list file, for the error.
    """
    resolved_root = root.resolve()
    checked_folders: dict[Path, bool] = {}
    paths = []
    for name in names:
        if _is_lexically_outside(name):
            raise InputError(f"{source}: the path {name!r} leads outside {root}: refused, since images are uploaded")
        path = root / name
        folder = path.parent
        if folder not in checked_folders:
            checked_folders[folder] = folder.resolve().is_relative_to(resolved_root)
        if not checked_folders[folder]:
            raise InputError(f"{source}: the path {name!r} leads outside {root}: refused, since images are uploaded")
        if path.is_symlink():
            _require_inside(path, resolved_root)
        paths.append(path)
    return paths


def _is_lexically_outside(name: str) -> bool:
    windows = PureWindowsPath(name)
    return (
        not name
        or "\0" in name
        or bool(windows.drive or windows.root)
        or ".." in windows.parts
        or PurePosixPath(name).is_absolute()
    )


def _require_inside(path: Path, resolved_root: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: a link that leads nowhere: remove it or restore its target") from error
    if not target.is_relative_to(resolved_root):
        raise InputError(f"{path}: a link that leads outside {resolved_root}: refused, since images are uploaded")
