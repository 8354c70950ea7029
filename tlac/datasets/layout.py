"""Where a dataset lies under the data root, and what its files say is expected of it.

Does not read any list of images.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from tlac.config import DatasetConfig
from tlac.datasets.listing import Options, split_of
from tlac.errors import InputError, UsageError
from tlac.resources import list_names


class RootedOptions(Options, frozen=True):
    """Options of a dataset under the data root, in `folder`. `is_whole` ones have no base and novel half."""

    folder: str
    is_whole: bool = False


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
    return InputError(f"{config.name}: {path} is missing: run {preparing(config)} to get it")


def preparing(config: DatasetConfig) -> str:
    """The command that gets the dataset's files, as it can be typed."""
    name = config.name if config.name in list_names("dataset") else config.source
    return f"`{shlex.join(['tlac', 'datasets', 'prepare', name, '--data', str(config.root)])}`"


def no_subset(config: DatasetConfig, source: Path | str) -> InputError:
    """The error for a subset that a dataset does not have."""
    return InputError(f"{config.name}: {source} has no subset {config.subset!r}: choose another")
