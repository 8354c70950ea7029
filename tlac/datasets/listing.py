"""A dataset as a list of image files, and its base and novel halves.

Does not know where a list comes from, and opens no image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from tlac.config import DatasetConfig, parse
from tlac.errors import InputError, UnknownNameError
from tlac.resources import Resource
from tlac.types import Sample

SPLITS = ("all", "base", "novel")
SUBSETS = ("test", "val", "train")

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the loaders' options: immutable, and no key that is not listed."""


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A dataset whose samples are known by path before any image is opened.

    `source` is the list file or folder that the samples were read from.
    """

    name: str
    split: str
    protocol: str
    prompt: str
    classes: tuple[str, ...] = field(repr=False)
    samples: tuple[Sample, ...] = field(repr=False)
    source: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole dataset before a part is taken: `samples` of one subset, labelled by index into `classes`.

    `source` is the list file or folder they were read from. `protocol` stands in for the dataset file's own
    where it is not empty.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: str
    protocol: str = ""


def read_options(schema: type[OptionsT], config: DatasetConfig) -> OptionsT:
    """The loader's own options of a dataset file. Raises ConfigError naming file and key."""
    return parse(schema, Resource(config.name, f"{config.source} (options)", config.spec.options))


def is_in_half(label: int, class_count: int, split: str) -> bool:
    """Whether a class belongs to the split: the first ceil(n/2) labels are base, the rest novel."""
    base_count = (class_count + 1) // 2
    return split == "all" or (label < base_count) == (split == "base")


def split_of(config: DatasetConfig) -> str:
    """The split asked for, with CoOp's word "new" for "novel". Raises UnknownNameError for any other word."""
    split = "novel" if config.split == "new" else config.split
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if config.subset not in SUBSETS:
        raise UnknownNameError("subset", config.subset, SUBSETS)
    return split


def take_part(config: DatasetConfig, listing: Listing) -> ListedDataset:
    """The part of a whole dataset that `config` asks for, each half relabelled from 0 (CoOp's rule).

    Raises InputError where fewer than two classes or no image would be left.
    """
    split = split_of(config)
    kept = [label for label in range(len(listing.classes)) if is_in_half(label, len(listing.classes), split)]
    if len(kept) < 2:
        raise InputError(
            f"{config.name}: {_count(len(kept), 'class')} in split {split!r}: at least two are needed to choose from"
        )
    samples = listing.samples
    if split != "all":
        samples = tuple(
            Sample(sample.id, sample.source, sample.label - kept[0])
            for sample in samples
            if sample.label is not None and is_in_half(sample.label, len(listing.classes), split)
        )
    if not samples:
        raise InputError(f"{config.name}: no image in split {split!r} of {config.subset!r}: choose another")
    return ListedDataset(
        name=config.name,
        split=split_label(config),
        protocol=_protocol(config, listing),
        prompt=config.spec.prompt,
        classes=tuple(listing.classes[label] for label in kept),
        samples=samples,
        source=listing.source,
    )


def _protocol(config: DatasetConfig, listing: Listing) -> str:
    """The protocol, which is not quite the one of the dataset file where classes are missing or more."""
    protocol, expected = listing.protocol or config.spec.protocol, config.spec.expected
    if expected is None or len(listing.classes) == expected.classes or not protocol.startswith(config.spec.protocol):
        return protocol
    return f"{protocol}, but {len(listing.classes)} classes and not {expected.classes}"


def split_label(config: DatasetConfig) -> str:
    """How results name the part: "novel" for its test images, "novel/val" for others."""
    split = split_of(config)
    return split if config.subset == "test" else f"{split}/{config.subset}"


def only_test_subset(config: DatasetConfig) -> None:
    """Refuses "val" and "train" for a dataset that is not divided. Raises InputError."""
    split_of(config)
    if config.subset != "test":
        raise InputError(f"{config.name}: has no subset {config.subset!r}: leave the subset out to use all its images")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}es"
