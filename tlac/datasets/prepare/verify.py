"""Verifies a dataset on disk: its lists, its images, and both against what is expected of it.

Each subset is opened as a run would, whatever its loader.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from tlac.config.registry import open_dataset
from tlac.config.schemas import DatasetConfig, Expected
from tlac.datasets.base import is_junk_folder
from tlac.errors import InputError
from tlac.hashing import dataset_digest
from tlac.images import IMAGE_SUFFIXES, open_image
from tlac.interfaces import Dataset, details_of, notes_of

Kind: TypeAlias = Literal[
    "unusable",
    "split file",
    "classes",
    "count",
    "wrong label",
    "listed twice",
    "missing image",
    "broken image",
    "surplus class",
    "surplus image",
]
Row: TypeAlias = tuple[str, int | None, Path | None]
"""A sample's id and label, and its file where it is one."""
_LEAST_AGREEMENT = 0.9


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be: what kind of thing, which one, and what is wrong with it."""

    kind: Kind
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found. `n` and `classes` count test images and classes, `images` the image files looked into.

    `digest` is the test subset's (see tlac.hashing), "" where it could not be opened. `is_compared` says whether
    counts were expected and compared. `notes` say what was skipped, and why nothing was compared; `details` what was
    chosen, such as the columns of a table.
    """

    name: str
    protocol: str
    source: str
    n: int
    classes: int
    images: int
    digest: str
    findings: tuple[Finding, ...]
    is_compared: bool = False
    notes: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.findings


def verify_dataset(
    config: DatasetConfig, on_image: Callable[[int, int], None] | None = None, looks_into_images: bool = True
) -> Verification:
    """Open all subsets of a dataset whole, and check lists, counts and files.

    Every listed image is decoded unless `looks_into_images` is false, which only looks whether it is there.
    `on_image` is called with the images done and their total. A dataset that can't be opened is one finding.
    """
    expected = config.spec.expected
    try:
        subsets = _open_subsets(config, expected)
    except InputError as error:
        finding = Finding("unusable", config.name, str(error).removeprefix(f"{config.name}: "))
        return Verification(config.name, config.spec.protocol, "", 0, 0, 0, "", (finding,))
    test = subsets["test"]
    source, notes = str(getattr(test, "source", "")), list(notes_of(test))
    rows, broken = _look_at_images(subsets, on_image, looks_into_images)
    findings = list(_wrong_labels(rows, test.classes)) + list(_repeats(rows))
    is_compared = expected is not None and test.protocol.startswith(config.spec.protocol)
    if expected is None:
        notes.append("its file expects no counts: none were compared")
    elif is_compared:
        findings += _against(expected, config.spec.classes, subsets, Path(source))
        findings += _class_counts(expected, test.classes, rows["test"])
    else:
        notes.append(f"counts are those of {config.spec.protocol}, this is {test.protocol}: they were not compared")
    findings += _surplus_files(rows, expected)
    return Verification(
        name=config.name,
        protocol=test.protocol,
        source=source,
        n=len(test),
        classes=len(test.classes),
        images=sum(map(len, rows.values())),
        digest=dataset_digest(test),
        findings=tuple(findings + broken),
        is_compared=is_compared,
        notes=tuple(notes),
        details=details_of(test),
    )


def _open_subsets(config: DatasetConfig, expected: Expected | None) -> dict[str, Dataset]:
    opened: dict[str, Dataset] = {"test": open_dataset(replace(config, split="all", subset="test"))}
    if expected is not None and opened["test"].protocol.startswith(config.spec.protocol):
        for subset, count in expected.counts.items():
            if count is not None and subset not in opened:
                opened[subset] = open_dataset(replace(config, split="all", subset=subset))
    return opened


def _against(
    expected: Expected, classes: tuple[str, ...], subsets: Mapping[str, Dataset], source: Path
) -> Iterator[Finding]:
    test = subsets["test"]
    if expected.split_file_sha256 and source.is_file():
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if digest != expected.split_file_sha256:
            yield Finding("split file", str(source), "is not the published one: its sha256 is another")
    if len(test.classes) != expected.classes:
        yield Finding("classes", "in all", f"{len(test.classes)}, expected {expected.classes}")
    for name in sorted(set(classes) - set(test.classes)):
        yield Finding("classes", name, "is missing")
    for name in sorted(set(test.classes) - set(classes)) if classes else ():
        yield Finding("classes", name, "is not among the expected names")
    for subset, count in expected.counts.items():
        if count is not None and subset in subsets and len(subsets[subset]) != count:
            yield Finding("count", f"{subset} images", f"{len(subsets[subset])}, expected {count}")


def _class_counts(expected: Expected, classes: tuple[str, ...], rows: Sequence[Row]) -> Iterator[Finding]:
    wanted = expected.per_class
    if isinstance(wanted, int):
        wanted = (wanted,) * expected.classes
    if wanted is None or len(wanted) != len(classes):
        return
    counts = Counter(label for _, label, _ in rows)
    for label, (name, count) in enumerate(zip(classes, wanted, strict=True)):
        if counts[label] != count:
            yield Finding("count", f"test images of {name!r}", f"{counts[label]}, expected {count}")


def _wrong_labels(rows: Mapping[str, Sequence[Row]], classes: tuple[str, ...]) -> Iterator[Finding]:
    """Labels unlike those of the other images in the same folder, or of the same name but for its number."""
    groups: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for identifier, label, _ in chain(*rows.values()):
        if label is not None:
            groups[_group(identifier)].append((identifier, label))
    usual = {group: Counter(label for _, label in members).most_common(1)[0] for group, members in groups.items()}
    total, agreeing = sum(map(len, groups.values())), sum(count for _, count in usual.values())
    # folders that are dates or cameras say nothing about the class: only where each class has one of its own, and
    # nearly all images lie in theirs, is one that does not a mistake
    one_to_one = len(groups) == len({label for label, _ in usual.values()}) >= len(classes)
    if not one_to_one or agreeing < _LEAST_AGREEMENT * total:
        return
    for group, members in groups.items():
        label_there, count = usual[group]
        for identifier, label in members:
            if label != label_there:
                there = classes[label_there]
                detail = f"labelled {classes[label]!r}, but {count} of {len(members)} in {group} are {there!r}"
                yield Finding("wrong label", identifier, detail)


def _group(identifier: str) -> str:
    path = PurePosixPath(identifier)
    return f"{path.parent}/" if path.parent.name else path.stem.rstrip("0123456789")


def _repeats(rows: Mapping[str, Sequence[Row]]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for subset, listed in rows.items():
        for identifier, _, path in listed:
            # a sample of a table or array has no path: its number starts anew in each subset
            if path is not None:
                if identifier in first:
                    yield Finding("listed twice", identifier, f"in {first[identifier]} and in {subset}")
                first.setdefault(identifier, subset)


def _surplus_files(rows: Mapping[str, Sequence[Row]], expected: Expected | None) -> Iterator[Finding]:
    """Image files that no subset lists; a folder with nothing but such files is a surplus class."""
    listed = {identifier for identifier, _, _ in chain(*rows.values())}
    identifier, _, path = rows["test"][0]
    if path is None:
        return
    root = path.parents[len(PurePosixPath(identifier).parts) - 1]
    folders = {str(PurePosixPath(identifier).parent) for identifier in listed}
    known_surplus = expected.surplus if expected else ()
    ignores_images = expected is not None and (expected.has_unlisted_images or expected.train is None)
    for folder, names in _folders_of_images(root):
        if any(PurePosixPath(folder).is_relative_to(surplus) for surplus in known_surplus):
            continue
        if folder not in folders:
            yield Finding("surplus class", folder, f"belongs to no class of the dataset; its images: {len(names)}")
        elif not ignores_images:
            for name in names:
                identifier = name if folder == "." else f"{folder}/{name}"
                if identifier not in listed:
                    yield Finding("surplus image", identifier, "is in no list")


def _folders_of_images(root: Path) -> Iterator[tuple[str, list[str]]]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_junk_folder(name))
        images = sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."))
        if images:
            yield Path(place).relative_to(root).as_posix(), images


def _look_at_images(
    subsets: Mapping[str, Dataset], on_image: Callable[[int, int], None] | None, looks_into: bool
) -> tuple[dict[str, list[Row]], list[Finding]]:
    """The samples without their bytes, which are read once, and the images that are missing or broken."""
    total, done = sum(len(dataset) for dataset in subsets.values()), 0
    rows: dict[str, list[Row]] = {subset: [] for subset in subsets}
    findings = []
    for subset, dataset in subsets.items():
        for sample in dataset:
            path = sample.source if isinstance(sample.source, Path) else None
            rows[subset].append((sample.id, sample.label, path))
            if path is not None and not path.is_file():
                findings.append(Finding("missing image", sample.id, f"{path} does not exist"))
            elif looks_into:
                try:
                    open_image(sample.source, sample.id)
                except InputError as error:
                    findings.append(Finding("broken image", sample.id, str(error).removeprefix(f"{sample.id}: ")))
            done += 1
            if on_image:
                on_image(done, total)
    return rows, findings
