"""FGVC-Aircraft by its own text files: variants.txt, images_variant_{train,val,test}.txt and images/.

CoOp uses them as they are. Source: Maji et al., arXiv:1306.5151.
"""

from __future__ import annotations

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    RootedOptions,
    dataset_folder,
    list_files,
    not_there,
    parent_inside,
    read_options,
    take_part,
)
from tlac.datasets.text_files import read_lines
from tlac.errors import InputError

_ARCHIVE = "fgvc-aircraft-2013b"


def open_aircraft(config: DatasetConfig) -> ListedDataset:
    """Open the images of one subset, labelled by the order of the variants.

    The files may lie in the dataset's folder, in data/ below it, or in the archive's own folder. Raises
    InputError where they are missing or name an unknown variant.
    """
    folder = dataset_folder(config, read_options(RootedOptions, config))
    places = (folder, folder / "data", parent_inside(config, folder) / _ARCHIVE / "data")
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
