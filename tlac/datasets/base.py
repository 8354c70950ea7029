"""What the loaders share: the dataset that they give, base and novel halves, options, and paths that stay inside.

No image is opened here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
_OUTSIDE = "refused, since images are uploaded"

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the loaders' options: immutable, and no key that is not listed."""


class PathOptions(Options, frozen=True):
    """Options of a dataset that lies at `path`, relative to the working directory."""

    path: str


class RootedOptions(Options, frozen=True):
    """Options of a dataset under the data root, in `folder`. `is_whole` ones have no base and novel half."""

    folder: str
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A dataset that was listed before any image is opened: what every loader of ours gives.

    `labels` index into `classes`, one per image; `read` gives the id and the source of the image in a row of the
    list, and `rows` are those rows that belong to the split, None for all. `source` is the list file or folder.
    A loader leaves out name, split and prompt, and the protocol where it is the dataset file's own: `take_part`
    fills them in.
    """

    classes: tuple[str, ...] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    read: Callable[[int], tuple[str, Path | bytes]] = field(repr=False)
    source: str = ""
    protocol: str = ""
    rows: Sequence[int] | None = field(default=None, repr=False)
    name: str = ""
    split: str = "all"
    prompt: str = "default"

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Sample]:
        rows = range(len(self.labels)) if self.rows is None else self.rows
        for row, label in zip(rows, self.labels, strict=True):
            identifier, source = self.read(row)
            yield Sample(identifier, source, label)


def list_files(
    classes: tuple[str, ...], files: Sequence[tuple[str, Path]], labels: Sequence[int], source: Path | str
) -> ListedDataset:
    """A dataset of image files, as id and path each; `labels` has one entry per file."""
    return ListedDataset(classes, labels, files.__getitem__, str(source))


def read_options(schema: type[OptionsT], config: DatasetConfig) -> OptionsT:
    """Read the loader's own options from a dataset file. Raises ConfigError naming file and key."""
    return parse(schema, Resource(config.name, f"{config.source} (options)", config.spec.options))


def split_of(config: DatasetConfig) -> str:
    """The split asked for, with CoOp's word "new" for "novel". Raises UnknownNameError for any other word."""
    split = "novel" if config.split == "new" else config.split
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if config.subset not in SUBSETS:
        raise UnknownNameError("subset", config.subset, SUBSETS)
    return split


def take_part(config: DatasetConfig, whole: ListedDataset) -> ListedDataset:
    """Take the split that `config` asks for, each half relabelled from 0.

    CoOp's rule: the first ceil(n/2) labels are base, the rest novel. Raises InputError where fewer than two
    classes or no image would be left.
    """
    split, count = split_of(config), len(whole.classes)
    middle = (count + 1) // 2
    kept = {"all": range(count), "base": range(middle), "novel": range(middle, count)}[split]
    if len(kept) < 2:
        noun = "class" if len(kept) == 1 else "classes"
        raise InputError(
            f"{config.name}: {len(kept)} {noun} in split {split!r}: at least two are needed to choose from"
        )
    rows, labels = whole.rows, whole.labels
    if split != "all":
        rows = [row for row, label in enumerate(labels) if label in kept]
        labels = [labels[row] - kept[0] for row in rows]
    if not labels:
        raise InputError(f"{config.name}: no image in split {split!r} of {config.subset!r}: choose another")
    return replace(
        whole,
        name=config.name,
        # "novel" for its test images, "novel/val" for others
        split=split if config.subset == "test" else f"{split}/{config.subset}",
        protocol=_protocol(config, whole),
        prompt=config.spec.prompt,
        classes=tuple(whole.classes[label] for label in kept),
        labels=labels,
        rows=rows,
    )


def _protocol(config: DatasetConfig, whole: ListedDataset) -> str:
    """The protocol, which is not quite the one of the dataset file where classes are missing or more."""
    protocol, expected = whole.protocol or config.spec.protocol, config.spec.expected
    if expected is None or len(whole.classes) == expected.classes or not protocol.startswith(config.spec.protocol):
        return protocol
    return f"{protocol}, but {len(whole.classes)} classes and not {expected.classes}"


def only_test_subset(config: DatasetConfig) -> None:
    """Refuse "val" and "train" for a dataset that is not divided. Raises InputError."""
    split_of(config)
    if config.subset != "test":
        raise InputError(f"{config.name}: has no subset {config.subset!r}: leave the subset out to use all its images")


def no_subset(config: DatasetConfig, source: Path | str) -> InputError:
    """The error for a subset that a dataset does not have."""
    return InputError(f"{config.name}: {source} has no subset {config.subset!r}: choose another")


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
    return InputError(f"{config.name}: {path} is missing: run {prepare_command(config)} to get it")


def prepare_command(config: DatasetConfig) -> str:
    """The command that gets the dataset's files, as it can be typed."""
    name = config.name if config.name in list_names("dataset") else config.source
    return f"`{shlex.join(['tlac', 'datasets', 'prepare', name, '--data', str(config.root)])}`"


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as UTF-8 text: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


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


def visible_folders(path: Path) -> list[str]:
    """The names of the sub-folders that are not hidden, sorted. Raises InputError where it can't be read."""
    try:
        return sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())
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


def list_folders(root: Path, folders: Iterable[str], classes: Mapping[str, str]) -> ListedDataset:
    """A dataset of the images below these sub-folders of `root`. `classes` are names by folder, in label order."""
    positions = {folder: label for label, folder in enumerate(classes)}
    files, labels = [], []
    for folder in folders:
        for path in image_paths(root / folder, root):
            files.append((path.relative_to(root).as_posix(), path))
            labels.append(positions[folder])
    return list_files(tuple(classes.values()), files, labels, root)


def join_inside(root: Path, names: Iterable[str], source: Path | str) -> list[tuple[str, Path]]:
    """The relative paths of a list file, each with its path below `root`; no file is opened or looked for.

    Raises InputError for a path that leads outside: absolute, with a drive, with "..", or through a link.
    `source` is the list file, for the error.
    """
    resolved_root = root.resolve()
    checked_folders: dict[Path, bool] = {}
    files = []
    for name in names:
        path = root / name
        folder = path.parent
        is_inside = not _is_lexically_outside(name)
        if is_inside and folder not in checked_folders:
            checked_folders[folder] = folder.resolve().is_relative_to(resolved_root)
        if not is_inside or not checked_folders[folder]:
            raise InputError(f"{source}: the path {name!r} leads outside {root}: {_OUTSIDE}")
        if path.is_symlink():
            _require_inside(path, resolved_root)
        files.append((name, path))
    return files


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
        raise InputError(f"{path}: a link that leads outside {resolved_root}: {_OUTSIDE}")
