"""What the loaders share: the dataset that they give, base and novel halves, options, and paths that stay inside.

No image is opened here.
"""

from __future__ import annotations

import os
import shlex
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeVar

import msgspec

from tlac.config.files import list_names
from tlac.config.schemas import DatasetConfig, Schema, parse
from tlac.datasets.text_files import clean_name
from tlac.errors import ConfigError, InputError, UnknownNameError, UsageError
from tlac.images import IMAGE_SUFFIXES, begins_like_image
from tlac.runtime.safe_files import OWN_FOLDER_MARK, is_utf8
from tlac.types import Sample

SPLITS = ("all", "base", "novel")
SUBSETS = ("test", "val", "train")
_OUTSIDE = "refused, since images are uploaded"
_MOST_NAMED = 5
# what archivers, file servers, notebooks and file systems leave behind; hidden ones are skipped anyway
_JUNK_FOLDERS = {
    *("__macosx", "@eadir", "@tmp", "#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information"),
    "__pycache__",
}
_JUNK_FILES = {"thumbs.db", "desktop.ini"}
# what stands in a folder that tlac writes: one of labels, or one of a run
_OWN_FOLDERS = ((OWN_FOLDER_MARK,), ("run.json", "predictions.jsonl"), ("run.json", "predictions"))

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class PathOptions(Schema, frozen=True):
    """Options of a dataset that lies at `path`, relative to the working directory."""

    path: str


class RootedOptions(Schema, frozen=True):
    """Options of a dataset under the data root, in `folder`. `is_whole` ones have no base and novel half."""

    folder: str
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A dataset that was listed before any image is opened: what every loader of ours gives.

    `labels` index into `classes`, one per image; `read` gives the id and the source of the image with that label, by
    its place. `source` is the list file or folder.
    `notes` say in one line each what was skipped, is missing or can't be told apart; `details` name what was chosen,
    such as the columns of a table; `described_in` is the dataset file. A loader leaves out name, split, prompt and
    dataset file, and the protocol where it is the dataset file's own: `take_part` fills them in.
    """

    classes: tuple[str, ...] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    read: Callable[[int], tuple[str, Path | bytes]] = field(repr=False)
    source: str = ""
    protocol: str = ""
    notes: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    described_in: str = ""
    split: str = "all"
    prompt: str = "default"

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Sample]:
        for row, label in enumerate(self.labels):
            yield Sample(*self.read(row), label)


def read_options(schema: type[OptionsT], config: DatasetConfig) -> OptionsT:
    """Read the loader's own options from a dataset file. Raises ConfigError naming file and key."""
    return parse(schema, config.spec.options, f"{config.source} (options)")


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
    labels, read = whole.labels, whole.read
    if split != "all":
        rows = [row for row, label in enumerate(whole.labels) if label in kept]
        labels, read = [whole.labels[row] - kept[0] for row in rows], lambda row: whole.read(rows[row])
    if not labels:
        raise InputError(f"{config.name}: no image in split {split!r} of {config.subset!r}: choose another")
    classes = tuple(clean_name(whole.classes[label]) for label in kept)
    for name in classes:
        require_printable(config.name, name)
    used = set(labels)
    empty = [name for label, name in enumerate(classes) if label not in used]
    notes = (*whole.notes, *count_note(empty, "class", "classes", "without images"), *_twin_notes(classes))
    return replace(
        whole,
        name=config.name,
        described_in=config.source,
        # "novel" for its test images, "novel/val" for others
        split=split if config.subset == "test" else f"{split}/{config.subset}",
        protocol=_protocol(config, whole),
        prompt=config.spec.prompt,
        classes=classes,
        notes=notes,
        labels=labels,
        read=read,
    )


def require_printable(dataset: str, name: str) -> None:
    """Raise InputError for a class name with a control character, or that is no Unicode text.

    No LMM answers with such a name; and a line break or an escape would end up on terminals and in files.
    """
    if not name or not is_utf8(name) or any(unicodedata.category(character) == "Cc" for character in name):
        raise InputError(f"{dataset}: the class name {name!a} is empty, not UTF-8 or has control characters: rename it")


def count_note(names: Sequence[str], singular: str, plural: str, what: str) -> tuple[str, ...]:
    """One line that counts and names, such as "2 classes without images: emu, owl"; nothing without names."""
    if not names:
        return ()
    noun = singular if len(names) == 1 else plural
    rest = f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return (f"{len(names):,} {noun} {what}: {', '.join(names[:_MOST_NAMED])}{rest}",)


def _twin_notes(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that stand for several classes, which no answer can tell apart."""
    positions: dict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(classes):
        positions[name].append(label)
    twins = [f"{name!r} (classes {', '.join(map(str, at))})" for name, at in positions.items() if len(at) > 1]
    return count_note(twins, "name", "names", "of several classes, which no answer can tell apart")


def _protocol(config: DatasetConfig, whole: ListedDataset) -> str:
    """The protocol, which is not quite the one of the dataset file where classes or images are missing, or more."""
    protocol, expected = whole.protocol or config.spec.protocol, config.spec.expected
    if expected is None or not protocol.startswith(config.spec.protocol):
        return protocol
    for found, wanted, noun in (
        (len(whole.classes), expected.classes, "classes"),
        (len(whole.labels), expected.counts[config.subset], "images"),
    ):
        if wanted is not None and found != wanted:
            return f"{protocol}, but {found} {noun} and not {wanted}"
    return protocol


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

    Raises UsageError without a root, ConfigError for a folder outside the root, InputError for half of a dataset
    that is always used whole.
    """
    if config.root is None:
        raise UsageError(f"{config.name}: its images lie under a data root: say where with --data ROOT")
    if options.is_whole and split_of(config) != "all":
        raise InputError(f"{config.name}: is always used whole: leave the split out")
    return path_inside(config, config.root, options.folder)


def path_inside(config: DatasetConfig, folder: Path, name: str) -> Path:
    """The path that a dataset file names below `folder`. Raises ConfigError for one that leads out of it.

    Dataset files come from strangers too. A link in the folder is the user's own, and may lead anywhere.
    """
    if _is_lexically_outside(name):
        raise ConfigError(f"{config.source}: the path {name!r} leads outside the dataset's folder: refused")
    return folder / name


def parent_inside(config: DatasetConfig, folder: Path) -> Path:
    """The folder that holds a dataset's folder, at most the data root itself."""
    return folder if folder == config.root else folder.parent


def not_there(config: DatasetConfig, path: Path) -> InputError:
    """The error for files that have not been put in place."""
    return InputError(f"{config.name}: {path} is missing: run {prepare_command(config)} to get it")


def prepare_command(config: DatasetConfig) -> str:
    """The command that gets the dataset's files, as it can be typed."""
    name = config.name if config.name in list_names("dataset") else config.source
    return f"`{shlex.join(['tlac', 'datasets', 'prepare', name, '--data', str(config.root)])}`"


def require_folder(path: Path, remedy: str) -> Path:
    """The folder itself, where it is one and can be read. Raises InputError with the remedy."""
    if not path.exists():
        raise InputError(f"{path}: no such folder: {remedy}")
    if not path.is_dir():
        raise InputError(f"{path}: not a folder: {remedy}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path}: can't be read: check its permissions")
    return path


def torchvision_datasets(what: str) -> Any:
    """The module torchvision.datasets. Raises ConfigError naming what needs it where it is not installed."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ConfigError(f"{what} needs torchvision: pip install torchvision") from error
    return datasets


def visible_folders(path: Path) -> list[str]:
    """The names of the sub-folders that may hold images, sorted: hidden and left-over ones are not among them.

    Raises InputError where the folder can't be read.
    """
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_junk_folder(entry.name))
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


def is_junk_folder(name: str) -> bool:
    """Whether a folder is hidden, or was left behind by a program."""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def is_image_file(path: Path) -> bool:
    """Whether a file is taken for an image: by its suffix, else by its first bytes. Raises OSError."""
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        return True
    with path.open("rb") as file:
        return begins_like_image(file.read(16))


def find_images(folder: Path, root: Path, skipped: list[str], unusable: dict[str, str] | None = None) -> Iterator[Path]:
    """The images in a folder and below it, in the order of their paths.

    What is there beside them is added to `skipped` as paths below `root`, but for the hidden files of programs.
    Raises InputError for a folder that can't be read, for a name that is not UTF-8, and for a link that leads outside
    `root` or nowhere; with `unusable`, names and links are left out and their complaints put there by path.
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
        path = Path(entry.path)
        try:
            _require_usable(entry, resolved_root)
        except InputError as error:
            if unusable is None:
                raise
            unusable[os.fsencode(path).decode(errors="backslashreplace")] = str(error)
            continue
        kind = _kind_of(entry)
        if kind == "image":
            yield path
        elif kind == "skipped":
            skipped.append(path.relative_to(root).as_posix())
        # a link to a folder inside could lead round in a circle, and its images are listed anyway
        elif kind == "folder" and not entry.is_symlink():
            yield from find_images(path, root, skipped, unusable)


def _require_usable(entry: os.DirEntry[str], resolved_root: Path) -> None:
    if not is_utf8(entry.name):
        raise InputError(f"{entry.path!a}: its name is not UTF-8: rename it")
    if entry.is_symlink() and not entry.name.startswith("."):
        _require_inside(Path(entry.path), resolved_root)


def _kind_of(entry: os.DirEntry[str]) -> Literal["folder", "image", "skipped", "ignored"]:
    name = entry.name.lower()
    if entry.is_dir():
        is_own = any(
            all(os.path.lexists(os.path.join(entry.path, name)) for name in names)  # noqa: PTH118 - for each folder
            for names in _OWN_FOLDERS
        )
        return "skipped" if is_own or is_junk_folder(name) else "folder"
    # ._photo.jpg is what macOS writes beside photo.jpg; other hidden files are programs' own
    if name.startswith("._") or name in _JUNK_FILES or (name.startswith(".") and not name.endswith(IMAGE_SUFFIXES)):
        return "ignored"
    try:
        # reading a pipe or a device could wait for ever
        is_image = not name.startswith(".") and entry.is_file() and is_image_file(Path(entry.path))
    except OSError:
        is_image = False
    return "image" if is_image else "skipped"


def list_folders(root: Path, folders: Iterable[str], classes: Mapping[str, str]) -> ListedDataset:
    """A dataset of the images below these sub-folders of `root`. `classes` are names by folder, in label order."""
    positions = {folder: label for label, folder in enumerate(classes)}
    files: list[tuple[str, Path]] = []
    labels: list[int] = []
    with os.scandir(root) as entries:
        # images beside the folders belong to no class; other files there are lists and read-mes
        stray = sorted((entry for entry in entries if not entry.is_symlink()), key=lambda entry: entry.name)
    skipped = [entry.name for entry in stray if _kind_of(entry) == ("skipped" if entry.is_dir() else "image")]
    for folder in folders:
        for path in find_images(root / folder, root, skipped):
            files.append((path.relative_to(root).as_posix(), path))
            labels.append(positions[folder])
    notes = count_note(skipped, "file or folder", "files or folders", "skipped, which are no images of a class")
    return ListedDataset(tuple(classes.values()), labels, files.__getitem__, str(root), notes=notes)


def list_files(
    classes: tuple[str, ...], names: Iterable[str], labels: Sequence[int], root: Path, source: Path | str
) -> ListedDataset:
    """A dataset of the image files that a list names, one per label, relative to `root`; none is opened.

    Raises InputError for a path that leads outside: absolute, with a drive, with "..", or through a link.
    `source` is the list file. Missing files are noted: their samples will fail by name.
    """
    resolved_root = root.resolve()
    checked_folders: dict[Path, bool] = {}
    files: list[tuple[str, Path]] = []
    missing = []
    for name in names:
        path = root / name
        folder = path.parent
        is_inside = not _is_lexically_outside(name)
        if is_inside and folder not in checked_folders:
            checked_folders[folder] = folder.resolve().is_relative_to(resolved_root)
        if not is_inside or not checked_folders[folder]:
            raise InputError(f"{source}: the path {name!r} leads outside {root}: {_OUTSIDE}")
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                _require_inside(path, resolved_root)
        except (OSError, ValueError):
            # ValueError: a name that no file can have
            missing.append(name)
        files.append((name, path))
    notes = count_note(missing, f"of {len(files):,} listed images", f"of {len(files):,} listed images", "missing")
    return ListedDataset(classes, labels, files.__getitem__, str(source), notes=notes)


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
