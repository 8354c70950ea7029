"""Parquet files and webdataset shards: which there are in a folder here or in an object store, and of which split.

Does not know what they hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlac.errors import InputError

FORMATS = {".parquet": "parquet", ".tar": "webdataset"}
SPLITS = {"test": ("test",), "val": ("validation", "val", "valid"), "train": ("train",)}
"""The words for a subset in the names of files and splits."""


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
