"""Gets a dataset's files: downloads what may be downloaded, and says in plain steps what is fetched by hand.

Does not verify what it got (see tlac.verify), and knows no dataset: the dataset files say how.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlac.config import DatasetConfig
from tlac.errors import ConfigError, TlacError, UsageError

STAGING = ".tlac-download"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was done: the dataset's folder, whether files were downloaded into it, and the steps left to a person."""

    name: str
    folder: Path
    is_downloaded: bool
    steps: tuple[str, ...]


def prepare_dataset(config: DatasetConfig, fetch: Callable[[str, Path], None] | None = None) -> Prepared:
    """Download a dataset through torchvision where that can be done, and put it into its folder.

    Files that are there already stay as they are, and a dataset whose folder holds more than lists is not downloaded.
    A broken download is taken up again by the next call: archives with the right checksum are kept. `fetch`
    stands in for torchvision: called with the name of its class and the folder to fill. Raises UsageError
    without a data root or for a dataset that has no folder there, TlacError where a download fails.
    """
    folder = _folder(config)
    download = config.spec.download
    steps = tuple(step.replace("{folder}", str(folder)) for step in download.steps)
    if download.torchvision is None or _has_files(folder):
        return Prepared(config.name, folder, is_downloaded=False, steps=steps)
    staging = folder.parent / STAGING / config.name
    try:
        staging.mkdir(parents=True, exist_ok=True)
        (fetch or _fetch_with_torchvision)(download.torchvision, staging)
        _move_into(staging / download.makes, folder)
        shutil.rmtree(staging)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TlacError(
            f"{config.name}: the download failed ({reason}): run the command again, which keeps what is complete in "
            f"{staging}"
        ) from error
    return Prepared(config.name, folder, is_downloaded=True, steps=steps)


def _folder(config: DatasetConfig) -> Path:
    name = config.spec.options.get("folder")
    if not isinstance(name, str):
        raise UsageError(f"{config.name}: needs no preparing: its loader {config.spec.loader!r} has no data folder")
    if config.root is None:
        raise UsageError(f"{config.name}: say with --data ROOT under which folder to put its files")
    return config.root / name


def _has_files(folder: Path) -> bool:
    # split files and lists of names are put there by hand, before or after
    return folder.is_dir() and any(path.suffix not in (".json", ".txt") for path in folder.iterdir())


def _move_into(made: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir()):
        # the split file may have been put there first
        if not (folder / path.name).exists():
            shutil.move(str(path), folder / path.name)


def _fetch_with_torchvision(reader: str, folder: Path) -> None:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ConfigError("downloading needs torchvision: pip install torchvision") from error
    opener: Any = getattr(datasets, reader)
    opener(folder, download=True)
