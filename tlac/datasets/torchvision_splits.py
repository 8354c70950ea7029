"""Reads the official splits of datasets, through torchvision's readers where it has one.

Torchvision looks for a folder of a fixed name under a root: a link of that name in a temporary folder lets it read
one of any name. Its readers list images without opening them. Class names are the official ones, not cleaned up.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import no_subset, not_there, prepare_command
from tlac.datasets.text_files import read_lines
from tlac.errors import ConfigError, InputError, UnknownNameError

Rows: TypeAlias = list[tuple[str, int]]
"""Paths below the dataset's folder, and labels."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """A reader of torchvision: the folder name it wants, its subsets, and how it lists paths and labels."""

    name: str
    link: str
    subsets: tuple[str, ...]
    rows: Callable[[Any], Iterable[tuple[Any, int]]]
    classes: str = "classes"


def _files_and_labels(reader: Any) -> Iterable[tuple[Any, int]]:
    return zip(reader._image_files, reader._labels, strict=True)


def _pets(reader: Any) -> Iterable[tuple[Any, int]]:
    return zip(reader._images, reader._labels, strict=True)


def _pairs(reader: Any) -> Iterable[tuple[Any, int]]:
    pairs: list[tuple[Any, int]] = getattr(reader, "_samples", None) or reader.samples
    return pairs


def _caltech(reader: Any) -> Iterable[tuple[Any, int]]:
    for number, label in zip(reader.index, reader.y, strict=True):
        folder = Path(reader.root) / "101_ObjectCategories" / reader.categories[label]
        yield folder / f"image_{number:04d}.jpg", label


_TORCHVISION = {
    "caltech101": _Reader("Caltech101", "caltech101", (), _caltech, "categories"),
    "oxford_pets": _Reader("OxfordIIITPet", "oxford-iiit-pet", ("test",), _pets),
    "stanford_cars": _Reader("StanfordCars", "stanford_cars", ("test", "train"), _pairs),
    "flowers102": _Reader("Flowers102", "flowers-102", ("test", "val", "train"), _files_and_labels),
    "food101": _Reader("Food101", "food-101", ("test", "train"), _files_and_labels),
    "dtd": _Reader("DTD", "dtd/dtd", ("test", "val", "train"), _files_and_labels),
    "eurosat": _Reader("EuroSAT", "eurosat", (), _pairs),
}


def read_official(reader: str, folder: Path, config: DatasetConfig) -> tuple[tuple[str, ...], Rows]:
    """The official class names in label order, and the rows of the subset that `config` asks for.

    A dataset that is not divided officially gives all its images as "test". Raises InputError where the
    lists are missing, broken or lack the subset.
    """
    own = {"sun397": _sun397, "ucf101": _ucf101}
    if reader in own:
        return own[reader](folder, config)
    if reader not in _TORCHVISION:
        raise UnknownNameError("official reader", reader, [*_TORCHVISION, *own])
    return _read_with_torchvision(_TORCHVISION[reader], folder, config)


def _read_with_torchvision(reader: _Reader, folder: Path, config: DatasetConfig) -> tuple[tuple[str, ...], Rows]:
    if config.subset not in (reader.subsets or ("test",)):
        raise no_subset(config, "the official split")
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ConfigError(f"{config.name}: its official split needs torchvision: pip install torchvision") from error
    inner = folder / "dtd" if reader.link == "dtd/dtd" and (folder / "dtd").is_dir() else folder
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary) / reader.link
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(inner.resolve(), target_is_directory=True)
        asked = {"split": config.subset} if reader.subsets else {}
        try:
            opened = getattr(datasets, reader.name)(temporary, **asked)
            rows = [(_below(path, link, inner, folder), int(label)) for path, label in reader.rows(opened)]
        except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
            reason = " ".join(str(error).replace(str(link), str(inner)).split())
            raise InputError(
                f"{config.name}: {inner} has neither CoOp's split file nor a usable official one ({reason}): "
                f"run {prepare_command(config)}"
            ) from error
        return tuple(getattr(opened, reader.classes)), rows


def _below(path: Any, link: Path, inner: Path, folder: Path) -> str:
    return (inner / Path(path).relative_to(link)).relative_to(folder).as_posix()


def _sun397(folder: Path, config: DatasetConfig) -> tuple[tuple[str, ...], Rows]:
    """Partition 1: ClassName.txt has a line "/a/abbey" for each class, the lists "/a/abbey/sun_x.jpg"."""
    folders = _lines(folder / "ClassName.txt", config)
    lists = {"test": "Testing_01.txt", "train": "Training_01.txt"}
    if config.subset not in lists:
        raise no_subset(config, "the official split")
    labels = {name: label for label, name in enumerate(folders)}
    listing = folder / lists[config.subset]
    rows = [(f"SUN397{line}", _label_of(labels, line.rpartition("/")[0], listing)) for line in _lines(listing, config)]
    return tuple(name.strip("/").partition("/")[2] for name in folders), rows


def _ucf101(folder: Path, config: DatasetConfig) -> tuple[tuple[str, ...], Rows]:
    """Split 1 of the action-recognition lists, on the middle frames that CoOp took from the videos."""
    lists = {"test": "testlist01.txt", "train": "trainlist01.txt"}
    if config.subset not in lists:
        raise no_subset(config, "the official split")
    names = [line.split()[-1] for line in _lines(folder / "ucfTrainTestlist" / "classInd.txt", config)]
    labels = {name: label for label, name in enumerate(names)}
    # CoOp's folders hold underscores that the official names lack, and one differs in case
    frames = folder / "UCF-101-midframes"
    folders = {_squeezed(entry.name): entry.name for entry in frames.iterdir()} if frames.is_dir() else {}
    listing = folder / "ucfTrainTestlist" / lists[config.subset]
    rows = []
    for line in _lines(listing, config):
        name, _, video = line.split()[0].partition("/")
        label = _label_of(labels, name, listing)
        rows.append((f"UCF-101-midframes/{folders.get(_squeezed(name), name)}/{Path(video).stem}.jpg", label))
    return tuple(names), rows


def _squeezed(name: str) -> str:
    return name.replace("_", "").casefold()


def _lines(path: Path, config: DatasetConfig) -> list[str]:
    if not path.is_file():
        raise not_there(config, path)
    return [line for _, line in read_lines(path)]


def _label_of(labels: dict[str, int], name: str, listing: Path) -> int:
    if name not in labels:
        raise InputError(f"{listing}: names the class {name!r}, which the class list lacks: fetch the lists again")
    return labels[name]
