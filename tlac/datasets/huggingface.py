"""Datasets in the Hugging Face format, from the hub, or from parquet files and webdataset shards here or in an object
store that fsspec reaches.

Images keep their original bytes: nothing is decoded here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import ListedDataset, PathOptions, read_options, take_part
from tlac.errors import ConfigError, InputError
from tlac.runtime.hub import check_hub, offline_hub

CLASSNAMES_FILE = "classnames.txt"
FORMATS = {".parquet": "parquet", ".tar": "webdataset"}
SPLITS = {"test": ("test",), "val": ("validation", "val", "valid"), "train": ("train",)}
"""The words for a subset in the names of files and splits."""
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
_LABEL_COLUMNS = ("label", "labels", "cls", "class", "fine_label", "txt")


class HubOptions(PathOptions, frozen=True, kw_only=True):
    """`path` is REPO[@revision][:split], or a local folder or file, or the URL of one (s3://BUCKET/FOLDER), in
    place of REPO; columns are found by name where they are not given."""

    image_column: str | None = None
    label_column: str | None = None


def open_hub(config: DatasetConfig) -> ListedDataset:
    """Open one split of a table, with the class names of its label column, of classnames.txt or of the dataset file.

    Without a split in the path, the subset asked for is taken, or the only one there is. Rows are read while
    iterating. Raises ConfigError without the package, InputError where the dataset can't be had or its columns
    or labels don't fit.
    """
    options = read_options(HubOptions, config)
    location, revision, _ = address = split_address(options.path)
    table, split = _load(config, *address)
    image_column = _column(config, table, "image", options.image_column)
    label_column = _column(config, table, "label", options.label_column)
    classes, labels = _labels(config, table, label_column, partial(_classnames, config, location, revision))
    table = table.cast_column(image_column, _datasets().Image(decode=False))
    root = _root(location)

    def read(number: int) -> tuple[str, bytes]:
        row = table[number]
        content = _image_bytes(row[image_column], root, f"{config.name}, row {number}")
        return str(row.get("__key__", f"{number:06d}")), content

    protocol = f"{config.spec.protocol}, split {split}" + (f" at {revision}" if revision else "")
    return take_part(config, ListedDataset(classes, labels, read, options.path, protocol))


def split_address(text: str) -> tuple[str, str | None, str | None]:
    """REPO[@revision][:split] in its parts; a path that exists is taken whole before either is split off."""
    location, revision, split = text, None, None
    head, colon, tail = location.rpartition(":")
    if colon and head and "/" not in tail and not Path(location).exists():
        location, split = head, tail
    head, at, tail = location.rpartition("@")
    if at and head and not is_url(location) and not Path(location).exists():
        location, revision = head, tail
    return location, revision, split or None


def is_url(location: str) -> bool:
    """Whether a location is a file or folder in an object store, such as s3://BUCKET/FOLDER."""
    return "://" in location


def read_beside(url: str, name: str) -> str:
    """The text of a file in the folder that a URL names, or beside the file that it names.

    Raises OSError, ValueError where it can't be read.
    """
    import fsspec

    folder = url.rpartition("/")[0] if url.endswith(tuple(FORMATS)) else url.rstrip("/")
    with fsspec.open(f"{folder}/{name}", mode="r", encoding="utf-8") as file:
        return str(file.read())


def local_files(place: Path, default_split: str) -> dict[str, Any]:
    """The format and the files by split of a table file, or of a folder of them; nothing for any other folder.

    Left to itself, the library would take a folder's classnames.txt for the data. A file's split is the one
    that its path below the folder names, else `default_split`.
    """
    if place.is_file():
        if place.suffix not in FORMATS:
            raise InputError(f"{place}: not a {' or '.join(FORMATS)} file")
        return {"path": FORMATS[place.suffix], "data_files": {default_split: str(place)}}
    return _table_files({path.relative_to(place).as_posix(): str(path) for path in place.rglob("*")}, default_split)


def remote_files(url: str, default_split: str) -> dict[str, Any]:
    """As local_files, for a URL. Raises InputError for a place that can't be listed or has no such files."""
    import fsspec

    try:
        system, place = fsspec.url_to_fs(url)
        found = {path[len(place) :]: str(system.unstrip_protocol(path)) for path in system.find(place)}
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{url}: can't be listed: {error}") from error
    if url.endswith(tuple(FORMATS)):
        # its own name says nothing about its split, as for a local file
        found = {url[url.rindex(".") :]: address for address in found.values()}
    files = _table_files(found, default_split)
    if not files:
        raise InputError(f"{url}: no {' or '.join(FORMATS)} files there")
    return files


def _table_files(addresses: Mapping[str, str], default_split: str) -> dict[str, Any]:
    """The format, and the addresses by split, of the table files among files with these names; nothing without any."""
    for suffix, kind in FORMATS.items():
        files: dict[str, list[str]] = {}
        for name in sorted(addresses):
            if name.endswith(suffix):
                words = re.split(r"[^a-z]+", name.lower())
                named = [split for splits in SPLITS.values() for split in splits if split in words]
                files.setdefault(named[0] if named else default_split, []).append(addresses[name])
        if files:
            return {"path": kind, "data_files": files}
    return {}


def kept_splits(cache: Path, repo: str, revision: str | None) -> Mapping[str, Sequence[Path]]:
    """The Arrow files of each split that is kept, those fetched last where there are several.

    A revision other than main has to be the commit itself: what else it meant is known to the hub alone.
    """
    kept: dict[str, Sequence[Path]] = {}
    # CONFIGURATION/VERSION/COMMIT/dataset_info.json
    folders = [path.parent for path in (cache / repo.replace("/", "___")).glob("*/*/*/dataset_info.json")]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):
        if revision in (None, "main", folder.name):
            kept.update(_splits_in(folder))
    return kept


def _splits_in(folder: Path) -> Mapping[str, Sequence[Path]]:
    try:
        splits = dict(msgspec.json.decode((folder / "dataset_info.json").read_bytes())["splits"])
    except (OSError, msgspec.MsgspecError, LookupError, TypeError, ValueError):
        # half written, or of another version of the library
        return {}
    endings = {split: (f"*-{split}.arrow", f"*-{split}-?????-of-?????.arrow") for split in splits}
    found = {split: sorted(path for ending in of for path in folder.glob(ending)) for split, of in endings.items()}
    return {split: paths for split, paths in found.items() if paths}


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("hf: needs the package datasets: pip install 'tlac[hf]'") from error
    return datasets


def _load(config: DatasetConfig, location: str, revision: str | None, split: str | None) -> tuple[Any, str]:
    """One split as a table, and its name."""
    datasets = _datasets()
    arguments: dict[str, Any] = {"path": location}
    if is_url(location):
        if config.is_offline:
            raise InputError(f"{config.name}: is not on this machine, and this run is offline; leave --offline out")
        arguments.update(remote_files(location, split or config.subset))
    elif Path(location).exists():
        arguments.update(local_files(Path(location), split or config.subset))
    else:
        arguments["revision"] = revision
        if obstacle := check_hub(config.is_offline):
            kept = kept_splits(Path(datasets.config.HF_DATASETS_CACHE), location, revision)
            if not kept:
                raise InputError(f"{config.name}: is not on this machine, and {obstacle}; connect once to fetch it")
            name = _choose_split(config, split, list(kept))
            return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in kept[name]]), name
    try:
        with _bars_on_terminals_alone(datasets), offline_hub() if config.is_offline else nullcontext():
            name = _choose_split(config, split, datasets.get_dataset_split_names(**arguments))
            arguments.update(_files_of(datasets.load_dataset_builder(**arguments), name))
            return datasets.load_dataset(**arguments, split=name), name
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{config.name}: can't be loaded: {reason}") from error


def _files_of(builder: Any, split: str) -> dict[str, Any]:
    """The arguments that leave the other splits where they are: left to itself, the library fetches them all."""
    files = builder.config.data_files or {}
    if split not in files:
        return {}
    # what the repository says of sizes is said of all splits together
    return {
        "data_files": {split: list(files[split])},
        "features": builder.info.features,
        "verification_mode": "no_checks",
    }


@contextmanager
def _bars_on_terminals_alone(datasets: Any) -> Iterator[None]:
    hides = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if hides:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hides:
            datasets.enable_progress_bars()


def _choose_split(config: DatasetConfig, given: str | None, names: list[str]) -> str:
    wanted = (given,) if given else SPLITS[config.subset]
    for name in wanted:
        if name in names:
            return name
    if not given and config.subset == "test" and len(names) == 1:
        return names[0]
    raise InputError(f"{config.name}: no split {wanted[0]!r}: add one of :{', :'.join(names)} to the name")


def _column(config: DatasetConfig, table: Any, noun: str, given: str | None) -> str:
    """The column that holds images, or labels: the one given, the only one of that type, or one of a known name."""
    datasets = _datasets()
    kind, known = (datasets.Image, _IMAGE_COLUMNS) if noun == "image" else (datasets.ClassLabel, _LABEL_COLUMNS)
    if given is not None and given in table.column_names:
        return given
    typed = [name for name, feature in table.features.items() if isinstance(feature, kind)]
    named = [name for name in known if name in table.column_names]
    for candidates in (typed if len(typed) == 1 else [], named[:1]):
        if candidates and given is None:
            return str(candidates[0])
    raise InputError(
        f"{config.name}: no {noun} column {given or ''} among {', '.join(table.column_names)}: name it as "
        f"options.{noun}_column in a dataset file"
    )


def _labels(
    config: DatasetConfig, table: Any, column: str, read_classnames: Callable[[], tuple[str, ...]]
) -> tuple[tuple[str, ...], list[int]]:
    """All class names in label order, and the label of each row."""
    feature, values = table.features[column], list(table[column])
    names = tuple(getattr(feature, "names", ()))
    if values and all(isinstance(value, str) for value in values):
        classes = config.spec.classes or tuple(sorted(set(values)))
        positions = {name: index for index, name in reversed(list(enumerate(classes)))}
        values = [positions.get(value, value) for value in values]
    else:
        classes = config.spec.classes or names or read_classnames()
    for row, value in enumerate(values):
        if not isinstance(value, int) or not 0 <= value < len(classes):
            raise InputError(
                f"{config.name}, row {row}: the label {value!r} is none of the {len(classes)} classes: correct the "
                "row, or list the classes in a dataset file"
            )
    return classes, values


def _classnames(config: DatasetConfig, location: str, revision: str | None) -> tuple[str, ...]:
    """The lines of classnames.txt in the repository, the folder or beside the file."""
    place = Path(location)
    path = (place if place.is_dir() else place.parent) / CLASSNAMES_FILE
    try:
        if is_url(location):
            lines = read_beside(location, CLASSNAMES_FILE).splitlines()
        else:
            if not place.exists():
                from huggingface_hub import hf_hub_download

                path = Path(
                    hf_hub_download(
                        location,
                        CLASSNAMES_FILE,
                        repo_type="dataset",
                        revision=revision,
                        local_files_only=config.is_offline,
                    )
                )
            lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{config.name}: labels are numbers and there is no {CLASSNAMES_FILE}: put one beside the data, a name "
            "a line, or list the classes in a dataset file"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def _root(location: str) -> Path:
    """The folder that holds the dataset's files: on this machine, or in the hub's cache. A file holds its own."""
    if is_url(location) or Path(location).exists():
        return Path(location)
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=location, repo_type="dataset")


def _image_bytes(value: Any, root: Path, place: str) -> bytes:
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(content, bytes):
        return content
    # any path would let a downloaded table name, and upload, every file of this machine
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(root.resolve()):
        raise InputError(f"{place}: holds no image, and names none among the dataset's own files: try folder:PATH")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{place}: {path} can't be read: {error.strerror or error}") from error
