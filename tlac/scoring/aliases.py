"""Further names of classes, from a YAML file: `class name: [name, ...]`.

Does not know class lists: a class that a dataset does not have is passed over (see tlac.scoring.matching.ClassIndex).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from tlac.errors import InputError
from tlac.resources import read_yaml


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """The names in a file of aliases. Raises InputError naming file and key, ConfigError for what is no YAML."""
    try:
        return msgspec.convert(read_yaml(path), dict[str, tuple[str, ...]], strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: expected `class name: [name, ...]`: {error}") from error
