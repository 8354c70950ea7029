"""Images listed in a CSV file with the columns path and label, where a label is a class name.

Paths are relative to the file's folder and may not lead out of it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import ListedDataset, PathOptions, list_files, only_test_subset, read_options, take_part
from tlac.datasets.text_files import clean_name, parse_csv, read_text
from tlac.errors import InputError


def open_csv(config: DatasetConfig) -> ListedDataset:
    """Open the images that a CSV file lists, in the order of its lines.

    Classes are those of the dataset file where it lists any, else the labels found, sorted. Raises
    InputError naming file and line for a missing column or cell, an unlisted label, or a path that leads out.
    """
    only_test_subset(config)
    file = Path(read_options(PathOptions, config).path)
    rows = [(line, row["path"].strip(), clean_name(row["label"])) for line, row in _parse(file)]
    for line, path, label in rows:
        if not path or not label:
            raise InputError(f"{file}, line {line}: a path or a label is missing")
    if not rows:
        raise InputError(f"{file}: lists no images")
    twice = next((path for path, count in Counter(path for _, path, _ in rows).items() if count > 1), None)
    if twice is not None:
        lines = " and ".join(str(line) for line, path, _ in rows if path == twice)
        raise InputError(f"{file}: {twice!r} stands in lines {lines}: leave one of them")
    classes = config.spec.classes or tuple(sorted({label for _, _, label in rows}))
    positions = {clean_name(name): index for index, name in reversed(list(enumerate(classes)))}
    for line, _, label in rows:
        if label not in positions:
            raise InputError(f"{file}, line {line}: {label!r} is no class of {config.source}: correct the label")
    labels = [positions[label] for _, _, label in rows]
    return take_part(config, list_files(classes, [path for _, path, _ in rows], labels, file.parent, file))


def _parse(file: Path) -> list[tuple[int, dict[str, str]]]:
    return parse_csv(read_text(file), file, ("path", "label"))
