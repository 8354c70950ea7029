"""Datasets that CoOp splits by a file of its own, split_zhou_NAME.json, else by the dataset's official lists.

The file maps "train", "val" and "test" to [path, label, class name] rows.
Source: Zhou et al., Learning to Prompt for Vision-Language Models, arXiv:2109.01134.

Official lists are read by torchvision where it has a reader. Torchvision looks for a folder of a fixed name under a
root: a link of that name in a temporary folder lets it read one of any name. Its readers list images without opening
them. Class names are the official ones, not cleaned up.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from tlac.config.schemas import DatasetConfig, Schema
from tlac.datasets.base import (
    ListedDataset,
    RootedOptions,
    dataset_folder,
    list_files,
    no_subset,
    not_there,
    parent_inside,
    path_inside,
    prepare_command,
    read_options,
    take_part,
    torchvision_datasets,
)
from tlac.datasets.text_files import read_lines
from tlac.errors import InputError, UnknownNameError
from tlac.runtime.safe_files import read_json

_MAX_BYTES = 2**28
_AIRCRAFT_ARCHIVE = "fgvc-aircraft-2013b"
Row: TypeAlias = tuple[str, int, str]
"""A row of a split file: path, label, class name."""
Rows: TypeAlias = list[tuple[str, int]]
"""Paths below the dataset's folder, and labels."""


class Official(Schema, frozen=True):
    """The dataset's own split, for when CoOp's file is absent: `reader` is one of the readers below.

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
    for place in places[1:]:
        if (place / options.split_file).is_file():
            raise InputError(
                f"{config.name}: {place / options.split_file} is in another folder than CoOp's: "
                f"move it to {folder}, with {options.images} beside it"
            )
    found = [place for place in places if place.is_dir()]
    if not found:
        raise not_there(config, folder)
    if official is None:
        raise not_there(config, split_file)
    return take_part(config, _by_official_split(config, official, found[0]))


def open_aircraft(config: DatasetConfig) -> ListedDataset:
    """Open the images of one subset of FGVC-Aircraft by its own text files, which CoOp uses as they are: variants.txt,
    images_variant_{train,val,test}.txt and images/. Labels are the order of the variants.

    Source: Maji et al., arXiv:1306.5151.

    The files may lie in the dataset's folder, in data/ below it, or in the archive's own folder. Raises
    InputError where they are missing or name an unknown variant.
    """
    folder = dataset_folder(config, read_options(RootedOptions, config))
    places = (folder, folder / "data", parent_inside(config, folder) / _AIRCRAFT_ARCHIVE / "data")
    place = next((place for place in places if (place / "variants.txt").is_file()), None)
    if place is None:
        raise not_there(config, folder / "variants.txt")
    classes = tuple(line for _, line in read_lines(place / "variants.txt"))
    positions = {name: label for label, name in enumerate(classes)}
    listing = place / f"images_variant_{config.subset}.txt"
    if not listing.is_file():
        raise not_there(config, listing)
    images, labels = [], []
    for number, line in read_lines(listing):
        image, _, variant = line.partition(" ")
        if variant not in positions:
            raise InputError(f"{listing}, line {number}: unknown variant {variant!r}: fetch the archive again")
        images.append(f"{image}.jpg")
        labels.append(positions[variant])
    return take_part(config, list_files(classes, images, labels, place / "images", listing))


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


@dataclass(frozen=True, slots=True)
class _Reader:
    """A reader of torchvision: the folder name it wants, its subsets, and how it lists paths and labels."""

    name: str
    link: str
    subsets: tuple[str, ...]
    rows: Callable[[Any], Iterable[tuple[Any, int]]]
    classes: str = "classes"


def _files(reader: Any) -> Iterable[tuple[Any, int]]:
    images = reader._images if hasattr(reader, "_images") else reader._image_files
    return zip(images, reader._labels, strict=True)


def _pairs(reader: Any) -> Iterable[tuple[Any, int]]:
    pairs: list[tuple[Any, int]] = getattr(reader, "_samples", None) or reader.samples
    return pairs


def _caltech(reader: Any) -> Iterable[tuple[Any, int]]:
    for number, label in zip(reader.index, reader.y, strict=True):
        folder = Path(reader.root) / "101_ObjectCategories" / reader.categories[label]
        yield folder / f"image_{number:04d}.jpg", label


_TORCHVISION = {
    "caltech101": _Reader("Caltech101", "caltech101", (), _caltech, "categories"),
    "oxford_pets": _Reader("OxfordIIITPet", "oxford-iiit-pet", ("test",), _files),
    "stanford_cars": _Reader("StanfordCars", "stanford_cars", ("test", "train"), _pairs),
    "flowers102": _Reader("Flowers102", "flowers-102", ("test", "val", "train"), _files),
    "food101": _Reader("Food101", "food-101", ("test", "train"), _files),
    "dtd": _Reader("DTD", "dtd/dtd", ("test", "val", "train"), _files),
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
    datasets = torchvision_datasets(f"{config.name}: its official split")
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
            # what torchvision says beside that is of its own making: download=True, list.remove(x)
            missing = str(getattr(error, "filename", None) or "").replace(str(link), str(inner))
            reason = f" ({missing} is missing or can't be read)" if missing else ""
            raise InputError(
                f"{config.name}: {inner} has neither CoOp's split file nor a usable official one{reason}: "
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
