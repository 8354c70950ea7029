"""FGVC-Aircraft by its own text files: variants.txt, images_variant_{train,val,test}.txt and images/.

CoOp uses them as they are. Opens no image. Source: Maji et al., arXiv:1306.5151.
"""

from __future__ import annotations

from pathlib import Path

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    Listing,
    RootedOptions,
    dataset_folder,
    join_inside,
    not_there,
    read_options,
    take_part,
)
from tlac.errors import InputError
from tlac.types import Sample

_ARCHIVE = "fgvc-aircraft-2013b"


def open_aircraft(config: DatasetConfig) -> ListedDataset:
    """The images of one subset, labelled by the order of the variants.

    The files may lie in the dataset's folder, in data/ below it, or in the archive's own folder. Raises
    InputError where they are missing or name an unknown variant.
    """
    folder = dataset_folder(config, read_options(RootedOptions, config))
    places = (folder, folder / "data", folder.parent / _ARCHIVE / "data")
    place = next((place for place in places if (place / "variants.txt").is_file()), None)
    if place is None:
        raise not_there(config, folder / "variants.txt")
    classes = tuple(_lines(place / "variants.txt"))
    labels = {name: label for label, name in enumerate(classes)}
    listing = place / f"images_variant_{config.subset}.txt"
    if not listing.is_file():
        raise not_there(config, listing)
    images, rows = place / "images", []
    for number, line in enumerate(_lines(listing), start=1):
        image, _, variant = line.partition(" ")
        if variant not in labels:
            raise InputError(f"{listing}, entry {number}: unknown variant {variant!r}: fetch the archive again")
        rows.append((f"{image}.jpg", labels[variant]))
    paths = join_inside(images, [image for image, _ in rows], str(listing))
    samples = tuple(Sample(image, path, label) for (image, label), path in zip(rows, paths, strict=True))
    return take_part(config, Listing(classes, samples, str(listing)))


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read: {error}") from error
