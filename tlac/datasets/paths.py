"""Paths of a dataset: found, or refused where they lead outside its folder.

A file outside would be uploaded to a provider, so that a split file or link from elsewhere could leak it.
Does not know what the files hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from tlac.errors import InputError
from tlac.images import IMAGE_SUFFIXES


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
