"""Images listed in a CSV file with the columns path and label, where a label is a class name.

Paths are relative to the file's folder and may not lead out of it.
"""

from __future__ import annotations

import csv
from pathlib import Path

from tlac.config.schemas import DatasetConfig
from tlac.datasets.base import (
    ListedDataset,
    PathOptions,
    join_inside,
    list_files,
    only_test_subset,
    read_options,
    take_part,
)
from tlac.errors import InputError

_COLUMNS = "its first line must name the columns: path,label"


def open_csv(config: DatasetConfig) -> ListedDataset:
    """Open the images that a CSV file lists, in the order of its lines.

    Classes are those of the dataset file where it lists any, else the labels found, sorted. Raises
    InputError naming file and line for a missing column or cell, an unlisted label, or a path that leads out.
    """
    only_test_subset(config)
    file = Path(read_options(PathOptions, config).path)
    rows = _rows(file)
    classes = config.spec.classes or tuple(sorted({label for _, _, label in rows}))
    positions = {name: index for index, name in reversed(list(enumerate(classes)))}
    for number, _, label in rows:
        if label not in positions:
            raise InputError(f"{file}, line {number}: {label!r} is no class of {config.source}: correct the label")
    files = join_inside(file.parent, [path for _, path, _ in rows], file)
    return take_part(config, list_files(classes, files, [positions[label] for _, _, label in rows], file))


def _rows(file: Path) -> list[tuple[int, str, str]]:
    """Line number, path and label of each line. Raises InputError."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            columns = reader.fieldnames or ()
            if not {"path", "label"} <= set(columns):
                raise InputError(f"{file}: no columns path and label: {_COLUMNS}")
            rows = [(reader.line_num, row["path"] or "", row["label"] or "") for row in reader]
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file: {_COLUMNS}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: can't be read as a CSV file: {error}") from error
    for number, path, label in rows:
        if not path or not label.strip():
            raise InputError(f"{file}, line {number}: a path or a label is missing")
    if not rows:
        raise InputError(f"{file}: lists no images")
    return [(number, path, label.strip()) for number, path, label in rows]
