"""CIFAR-10 and CIFAR-100 as torchvision downloads them.

The archives hold arrays and no image files: each sample is written as a PNG without compression, whose bytes
(and so the keys of answers) do not depend on any library's version.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    RootedOptions,
    dataset_folder,
    no_subset,
    not_there,
    parent_inside,
    path_inside,
    prepare_command,
    read_options,
    take_part,
    torchvision_datasets,
)
from tlac.errors import ConfigError, InputError


class CifarOptions(RootedOptions, frozen=True, kw_only=True):
    """`reader` is torchvision's class, CIFAR10 or CIFAR100."""

    reader: str


def open_cifar(config: DatasetConfig) -> ListedDataset:
    """Open a CIFAR dataset; an image's id is its number in the archive.

    The archives are pickles: torchvision reads them only when their checksums are right. Raises InputError
    where they are missing or are not the published ones.
    """
    options = read_options(CifarOptions, config)
    folder = dataset_folder(config, options)
    if config.subset == "val":
        raise no_subset(config, "the official split")
    place = parent_inside(config, folder)
    reader = _read(config, options.reader, [place, path_inside(config, place, config.name)])

    def read(row: int) -> tuple[str, bytes]:
        return f"{row:05d}.png", png_bytes(reader.data[row])

    return take_part(config, ListedDataset(config.spec.classes, reader.targets, read, str(reader.root)))


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """An image (height, width, 3) uint8 as a PNG of one stored block; at most 65,535 bytes of pixels and row marks."""
    height, width, _ = pixels.shape
    # each row starts with its filter type, 0 for none
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1).tobytes()
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = stored + struct.pack(">I", zlib.adler32(rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _read(config: DatasetConfig, reader: str, places: list[Path]) -> Any:
    datasets = torchvision_datasets(f"{config.name}:")
    if reader not in ("CIFAR10", "CIFAR100"):
        raise ConfigError(f"{config.source}: options.reader must be CIFAR10 or CIFAR100, not {reader!r}")
    opener = getattr(datasets, reader)
    place = next((place for place in places if (place / opener.base_folder).is_dir()), None)
    if place is None:
        raise not_there(config, places[0] / opener.base_folder)
    try:
        return opener(place, train=config.subset == "train")
    except RuntimeError as error:
        raise InputError(
            f"{config.name}: {place / opener.base_folder} does not hold the published files: remove it and run "
            f"{prepare_command(config)}"
        ) from error
