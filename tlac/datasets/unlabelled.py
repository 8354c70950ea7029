"""Images without labels, as people have them: folders, files, patterns, lists, URLs, tables of the Hugging Face hub.

The id of a sample is the image's path or URL as it can be opened again.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tlac.config.schemas import load_dataset_config
from tlac.datasets.base import count_note, find_images, list_files, require_folder
from tlac.datasets.huggingface import open_unlabelled
from tlac.datasets.text_files import parse_csv, read_lines, read_text
from tlac.errors import InputError
from tlac.images import IMAGE_SUFFIXES
from tlac.runtime.safe_files import is_url, is_utf8, list_url, read_url
from tlac.types import Sample


def open_images(
    inputs: Sequence[str], is_offline: bool = False, is_anywhere: bool = False
) -> tuple[list[Sample], tuple[str, ...]]:
    """List the images that these inputs name, each once, and notes that say in one line each what was skipped.

    An input is a folder (with all below it), an image, a pattern ("photos/**/*.jpg"), a list of paths (.txt), a CSV
    file with a column `path`, a URL that fsspec reads (s3://BUCKET/FOLDER), or hf:REPO. Paths in a list are relative to
    its folder; those that lead out of it, and URLs, are taken only with `is_anywhere`. Raises InputError for an input
    that names nothing.
    """
    notes: list[str] = []
    found: list[Sample] = []
    for text in inputs:
        if not text.removeprefix("hf:"):
            raise InputError("an input is empty, perhaps an unset variable: give . for this folder")
        if text.startswith("hf:"):
            samples, remarks = open_unlabelled(replace(load_dataset_config(text), is_offline=is_offline))
            found += samples
            notes += [f"{text}: {remark}" for remark in remarks]
        elif is_url(text):
            if is_offline:
                raise InputError(f"{text}: is not on this machine, and this run is offline; leave --offline out")
            found += _list_url(text, notes)
        else:
            found += _list_path(text, notes, is_anywhere)
    times = Counter(sample.id for sample in found)
    distinct = list({sample.id: sample for sample in found}.values())
    twice = [name for name, count in times.items() if count > 1]
    notes += count_note(twice, "image is", "images are", "given more than once, and taken once")
    if not distinct:
        raise InputError(f"{', '.join(inputs)}: no image there")
    return distinct, tuple(notes)


def _list_path(text: str, notes: list[str], is_anywhere: bool) -> list[Sample]:
    path = Path(text)
    if path.is_dir():
        skipped: list[str] = []
        require_folder(path, "name another")
        unusable: dict[str, str] = {}
        found = [_file(image) for image in find_images(path, path, skipped, unusable)]
        found += [Sample(name, partial(_refuse, reason)) for name, reason in unusable.items()]
        hidden = [name for name in skipped if name.rpartition("/")[2].startswith(".")]
        others = [name for name in skipped if name not in set(hidden)]
        notes += count_note(others, f"file in {path} is no image:", f"files in {path} are no images:", "skipped")
        notes += count_note(
            hidden, f"hidden file or folder in {path}", f"hidden files or folders in {path}", "left out"
        )
        return found
    if path.suffix.lower() == ".txt":
        return _list_named([line for _, line in read_lines(path)], path, notes, is_anywhere)
    if path.suffix.lower() == ".csv":
        rows = parse_csv(read_text(path), path, ("path",))
        return _list_named([row["path"].strip() for _, row in rows], path, notes, is_anywhere)
    if path.exists() or (path.suffix.lower() in IMAGE_SUFFIXES and not glob.has_magic(text)):
        # an image that is not there fails by name, as one that is broken does
        return [_file(path)]
    if not glob.has_magic(text):
        raise InputError(f"{text}: no such file or folder")
    files = [Path(name) for name in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - patterns may be absolute
    return [_file(file) for file in files if file.is_file()]


def _list_named(names: Sequence[str], listing: Path, notes: list[str], is_anywhere: bool) -> list[Sample]:
    if is_anywhere:
        return [
            Sample(name, partial(read_url, name)) if is_url(name) else _file(listing.parent / name) for name in names
        ]
    try:
        if url := next(filter(is_url, names), None):
            raise InputError(f"{listing}: {url} leads outside {listing.parent}: it would be fetched, and uploaded")
        listed = list_files((), names, (), listing.parent, listing)
    except InputError as error:
        raise InputError(f"{error}; --anywhere allows it") from error
    notes += [f"{listing}: {note}" for note in listed.notes]
    return [_file(listing.parent / name) for name in names]


def _refuse(reason: str) -> bytes:
    raise InputError(reason)


def _file(path: Path) -> Sample:
    if not is_utf8(str(path)):
        name = os.fsencode(path).decode(errors="backslashreplace")
        return Sample(name, partial(_refuse, "its name is not UTF-8: rename it"))
    return Sample(str(path), path)


def _list_url(url: str, notes: list[str]) -> list[Sample]:
    if url.lower().endswith(IMAGE_SUFFIXES):
        return [Sample(url, partial(read_url, url))]
    names = list(list_url(url).values())
    images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    others = sorted(set(names) - set(images))
    notes += count_note(others, f"file in {url} is no image:", f"files in {url} are no images:", "skipped")
    return [Sample(name, partial(read_url, name)) for name in images]
