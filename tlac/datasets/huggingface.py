"""Datasets in the Hugging Face format, from the hub, or from parquet files and webdataset shards here or in an object
store that fsspec reaches.

Images keep their original bytes: nothing is decoded here.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import ListedDataset, PathOptions, count_note, read_options, take_part
from tlac.datasets.text_files import clean_name, read_names
from tlac.errors import ConfigError, InputError
from tlac.runtime.libraries import changed_setting, check_hub, offline_hub
from tlac.runtime.safe_files import is_url, list_url, read_file, read_url
from tlac.types import Sample

CLASSNAMES_FILE = "classnames.txt"
FORMATS = {".parquet": "parquet", ".tar": "webdataset"}
SPLITS = {"test": ("test",), "val": ("validation", "val", "valid"), "train": ("train",)}
"""The words for a subset in the names of files and splits."""
_COLUMNS = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp"),
    # txt is no label: by convention it holds a caption
    "label": ("label", "labels", "cls", "class", "fine_label"),
}
_GIVEN_COLUMN = re.compile(r"[?&,;:](image|label)_column=([^?&,]+)$")
_MAX_IMAGE_BYTES = 2**28
_PART = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.\w+)")


class HubOptions(PathOptions, frozen=True, kw_only=True):
    """`path` is REPO[@revision][:split], or a local folder or file, or the URL of one (s3://BUCKET/FOLDER), in
    place of REPO; columns are found by name where they are neither given here nor behind the path, as in
    REPO:test,label_column=breed."""

    image_column: str | None = None
    label_column: str | None = None


def open_hub(config: DatasetConfig) -> ListedDataset:
    """Open one split of a table, with the class names of its label column, of classnames.txt or of the dataset file.

    Without a split in the path, the subset asked for is taken, or the only one there is. Rows are read while
    iterating. Raises ConfigError without the package, InputError where the dataset can't be had or its columns
    or labels don't fit.
    """
    options = read_options(HubOptions, config)
    path, given = split_columns(options.path)
    location, revision, _ = address = split_address(path)
    table, split = _load(config, *address)
    image_column = _column(config, table, "image", given.get("image") or options.image_column)
    label_column = _column(config, table, "label", given.get("label") or options.label_column)
    table = _with_images(config, table, image_column)
    notes = _check_rows(config, table, image_column, label_column)
    classes, found = _labels(config, table, label_column, partial(_classnames, config, location, revision))
    rows = [row for row, label in enumerate(found) if label is not None]
    keys, root = _keys(table), _root(location)

    def read(place: int) -> tuple[str, Path | bytes]:
        number = rows[place]
        content = _image(table[number][image_column], root, f"{config.name}, row {number}")
        return keys[number] if keys else f"{number:06d}", content

    at = f" at {revision}" if revision else ""
    whole = ListedDataset(
        classes=classes,
        labels=[label for label in found if label is not None],
        read=read,
        source=path,
        protocol=f"{config.spec.protocol}, split {split}{at}",
        notes=notes,
        details={"image column": image_column, "label column": label_column, "table split": split},
    )
    return take_part(config, whole)


def open_unlabelled(config: DatasetConfig) -> tuple[list[Sample], tuple[str, ...]]:
    """List the images of one split of a table that need not have labels, and notes on it. Raises as open_hub does."""
    options = read_options(HubOptions, config)
    path, given = split_columns(options.path)
    location, _, _ = address = split_address(path)
    table, _ = _load(config, *address)
    column = _column(config, table, "image", given.get("image") or options.image_column)
    table = _with_images(config, table, column)
    notes, keys, root = _check_rows(config, table, column), _keys(table), _root(location)

    def fetch(number: int) -> bytes:
        content = _image(table[number][column], root, f"{config.name}, row {number}")
        return content if isinstance(content, bytes) else read_file(content, _MAX_IMAGE_BYTES)

    names = keys or [f"{number:06d}" for number in range(len(table))]
    return [Sample(f"{config.name}#{name}", partial(fetch, number)) for number, name in enumerate(names)], notes


def _keys(table: Any) -> list[str]:
    """The names of a webdataset's samples; empty where there are none, or two are alike: shards may each count from 0,
    and two samples of one id could not be told apart in a run."""
    keys: list[str] = table["__key__"][:] if "__key__" in table.column_names else []
    return keys if len(set(keys)) == len(keys) else []


def split_columns(text: str) -> tuple[str, dict[str, str]]:
    """An address without the columns that are named behind it, as in PATH,label_column=breed,image_column=photo."""
    given: dict[str, str] = {}
    while (match := _GIVEN_COLUMN.search(text)) and not Path(text).exists():
        given.setdefault(match[1], match[2])
        text = text[: match.start()]
    return text, given


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


def table_files(location: str, default_split: str) -> dict[str, Any]:
    """The format and the files by split of a table file or of a folder of them, here or behind a URL; nothing for any
    other folder here.

    Left to itself, the library would take a folder's classnames.txt for the data. A file's split is the one that its
    path below the folder names, else `default_split`. Raises InputError for a place behind a URL that has no such
    files, and for shards that are cut short or damaged.
    """
    place, is_remote = Path(location), is_url(location)
    if is_remote:
        found = list_url(location)
        if location.endswith(tuple(FORMATS)):
            # its own name says nothing about its split
            found = {location[location.rindex(".") :]: address for address in found.values()}
    elif place.is_file():
        if place.suffix not in FORMATS:
            raise InputError(f"{place}: not a {' or '.join(FORMATS)} file")
        found = {place.suffix: str(place)}
    else:
        found = {path.relative_to(place).as_posix(): str(path) for path in place.rglob("*") if path.is_file()}
    files = _table_files(found, default_split)
    if is_remote and not files:
        raise InputError(f"{location}: no {' or '.join(FORMATS)} files there")
    if files.get("path") == "webdataset":
        shards = [address for addresses in files["data_files"].values() for address in addresses]
        if is_remote:
            _check_ends(shards)
        else:
            _check_shards(map(Path, shards))
    return files


def _check_ends(urls: Sequence[str]) -> None:
    """Look at the ends of shards; the rest is looked through when they have been fetched, and here each has a URL."""
    import fsspec

    for url in urls:
        system, place = fsspec.url_to_fs(url)
        if system.tail(place, 512) != bytes(512):
            raise InputError(f"{url}: is cut short or damaged (it has no end mark): put the shard there again")


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
            _require_all_parts([name for name in addresses if name.endswith(suffix)])
            return {"path": kind, "data_files": files}
    return {}


def _require_all_parts(names: Sequence[str]) -> None:
    """Raises InputError where a file that is one of several, such as test-00000-of-00002.parquet, lacks the others."""
    parts = [match for name in names if (match := _PART.fullmatch(name))]
    for match in parts:
        for number in range(int(match[3])):
            part = f"{match[1]}{number:05d}-of-{match[3]}{match[4]}"
            if part not in names:
                raise InputError(f"{part} is missing beside {match[0]}: fetch all {int(match[3])} parts")


def _check_shards(paths: Iterable[Path]) -> None:
    """Look through webdataset shards for what reading them would pass over in silence.

    Python's tarfile takes an archive that is cut between two members for a whole one. Raises InputError naming the
    shard for one that is cut short, damaged or empty, or has an empty member.
    """
    for path in paths:
        try:
            with tarfile.open(path) as shard:
                empty = [member.name for member in shard if member.isfile() and not member.size]
                # an archive ends in blocks of zeros, after its last member
                archive: Any = shard.fileobj
                archive.seek(shard.offset)
                is_whole = archive.read(512) == bytes(512)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise InputError(f"{path}: is cut short or damaged ({error}): fetch the shard again") from error
        if not is_whole:
            raise InputError(f"{path}: is cut short or damaged (it has no end mark): fetch the shard again")
        if empty:
            raise InputError(f"{path}: its member {empty[0]!r} is empty: fetch or pack the shard again")


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
        arguments.update(table_files(location, split or config.subset))
    elif Path(location).exists():
        arguments.update(table_files(location, split or config.subset))
    else:
        arguments["revision"] = revision
        if obstacle := check_hub(config.is_offline):
            kept = kept_splits(Path(datasets.config.HF_DATASETS_CACHE), location, revision)
            if not kept:
                raise InputError(f"{config.name}: is not on this machine, and {obstacle}; connect once to fetch it")
            name = _choose_split(config, split, list(kept))
            return datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in kept[name]]), name
    try:
        # left to itself, the library tells the hub of each load of a file that is not on it, and waits seconds where
        # nobody answers
        counts = changed_setting(["datasets.config"], "HF_UPDATE_DOWNLOAD_COUNTS", value=False)
        access = counts if "data_files" in arguments else nullcontext()
        with _bars_on_terminals_alone(datasets), access, offline_hub() if config.is_offline else nullcontext():
            name = _choose_split(config, split, datasets.get_dataset_split_names(**arguments))
            arguments.update(_files_of(datasets.load_dataset_builder(**arguments), name))
            table = datasets.load_dataset(**arguments, split=name)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            # what the library says itself is seldom why
            cause = cause.__cause__
        reason = str(error) if cause is error else f"{error} ({cause})"
        raise InputError(f"{config.name}: can't be loaded: {' '.join(reason.split())}") from error
    if "__url__" in table.column_names and not Path(location).exists():
        # the shards as they were fetched; those of this machine were looked through before
        _check_shards(path for url in sorted(set(table["__url__"])) if (path := Path(url)).is_file())
    return table, name


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
    """The column that holds images, or labels: the one given, that of a known name, or the only one of that type.

    Raises InputError where none or several come into question.
    """
    datasets = _datasets()
    columns = ", ".join(table.column_names)
    remedy = f"add ,{noun}_column=NAME to the address, or options.{noun}_column to a dataset file"
    if given is not None:
        if given not in table.column_names:
            raise InputError(f"{config.name}: no {noun} column {given} among {columns}: {remedy}")
        return given
    kind = datasets.Image if noun == "image" else datasets.ClassLabel
    named = [name for name in _COLUMNS[noun] if name in table.column_names]
    typed = [name for name, feature in table.features.items() if isinstance(feature, kind)]
    # a type alone says little: a dataset may have a ClassLabel for the source of its images, too
    candidates = named or typed
    if not candidates:
        raise InputError(f"{config.name}: no {noun} column among {columns}: {remedy}")
    if len(candidates) > 1:
        raise InputError(f"{config.name}: {' and '.join(candidates)} may each be the {noun} column: {remedy}")
    return str(candidates[0])


def _with_images(config: DatasetConfig, table: Any, column: str) -> Any:
    """The table with that column as images that are not decoded. Raises InputError where it holds something else."""
    import pyarrow

    try:
        return table.cast_column(column, _datasets().Image(decode=False))
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"{config.name}: the column {column} holds no images, but {table.features[column]}: name another"
        ) from error


def _check_rows(
    config: DatasetConfig, table: Any, image_column: str, label_column: str | None = None
) -> tuple[str, ...]:
    """Notes on rows without a label, which are left out, and on those without an image, which will fail by name.

    Raises InputError for either in a webdataset, where it means that a shard lacks a member.
    """
    import pyarrow.compute as pc

    images = table.with_format("arrow").data.column(image_column)
    content, path = pc.struct_field(images, "bytes"), pc.struct_field(images, "path")
    sizes, paths = pc.fill_null(pc.binary_length(content), 0).to_pylist(), path.to_pylist()
    is_sharded = "__key__" in table.column_names
    # in a webdataset, the path is the member's name
    no_image = [row for row, size in enumerate(sizes) if not size and (is_sharded or not paths[row])]
    labels = table[label_column] if label_column is not None else ()
    no_label = [row for row, value in enumerate(labels) if _is_blank(value)]
    for rows, noun in ((no_image, "image"), (no_label, "label")):
        if rows and is_sharded:
            row = table.select_columns([name for name in table.column_names if name.startswith("__")])[rows[0]]
            raise InputError(
                f"{config.name}: the shard {Path(row['__url__']).name} has no {noun} for {row['__key__']}"
                f"{f' and {len(rows) - 1} more' if len(rows) > 1 else ''}: fetch or pack it again"
            )
    return (
        *count_note([str(row) for row in no_label], "row", "rows", "left out for want of a label"),
        *count_note([str(row) for row in no_image], "row", "rows", "without an image"),
    )


def _is_blank(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value  # noqa: PLR0124 - what pandas makes of a missing number
    return value is None or is_nan or (isinstance(value, str) and not value.strip())


def _labels(
    config: DatasetConfig, table: Any, column: str, read_classnames: Callable[[], tuple[str, ...]]
) -> tuple[tuple[str, ...], list[int | None]]:
    """All class names in label order, and the label of each row, None where it has none."""
    feature = table.features[column]
    values: list[Any] = [None if _is_blank(value) else value for value in table[column]]
    kinds = {type(value).__name__ for value in values if not isinstance(value, (str, int, float, type(None)))}
    if kinds:
        raise InputError(f"{config.name}: the column {column} holds {kinds.pop()} and no labels: name another")
    if all(value is None for value in values):
        raise InputError(f"{config.name}: no row has a label in the column {column}: name another column")
    names = tuple(getattr(feature, "names", None) or ())
    if any(isinstance(value, str) for value in values):
        values = [clean_name(value) if isinstance(value, str) else value for value in values]
        classes = config.spec.classes or tuple(sorted({value for value in values if isinstance(value, str)}))
        positions: dict[Any, int] = {clean_name(name): label for label, name in reversed(list(enumerate(classes)))}
        values = [positions.get(value, value) for value in values]
    else:
        # pandas writes whole numbers beside a missing one as floats
        values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
        classes = config.spec.classes or names or read_classnames()
    for row, value in enumerate(values):
        if value is not None and (not isinstance(value, int) or not 0 <= value < len(classes)):
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
            folder = location.rpartition("/")[0] if location.endswith(tuple(FORMATS)) else location.rstrip("/")
            text = read_url(f"{folder}/{CLASSNAMES_FILE}").decode()
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
            text = path.read_text(encoding="utf-8")
    except (OSError, ValueError, InputError) as error:
        raise InputError(
            f"{config.name}: labels are numbers and there is no {CLASSNAMES_FILE}: put one beside the data, a name "
            "a line, or list the classes in a dataset file"
        ) from error
    return read_names(text, f"{config.name}: {CLASSNAMES_FILE}")


def _root(location: str) -> Path:
    """The folder that holds the dataset's files: on this machine, or in the hub's cache."""
    if is_url(location) or Path(location).exists():
        place = Path(location)
        return place.parent if place.is_file() else place
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=location, repo_type="dataset")


def _image(value: Any, root: Path, place: str) -> Path | bytes:
    """The image of a row: its bytes, empty where it has none, or the path of a file that can't be read.

    Either fails that sample by name. Raises InputError for a path outside `root`: any path would let a downloaded
    table name, and upload, every file of this machine.
    """
    found = value if isinstance(value, dict) else {}
    content: bytes = found.get("bytes") or b""
    path: str = found.get("path") or ""
    if content or not path:
        return content
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()):
        raise InputError(f"{place}: holds no image, and names none among the dataset's own files: try folder:PATH")
    try:
        return read_file(file, _MAX_IMAGE_BYTES)
    except InputError:
        return file
