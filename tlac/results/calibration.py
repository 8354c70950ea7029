"""A calibration as a file: what `tlac calibrate` writes, and `--calibration` reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import msgspec

from tlac.errors import InputError
from tlac.runtime.safe_files import naming_failure, replacing
from tlac.scoring.confidence import Calibration


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as JSON. Raises TlacError where the file can't be written."""
    with naming_failure(path), replacing(path) as file:
        file.write(f"{json.dumps(asdict(calibration), indent=1)}\n".encode())


def read_calibration(path: Path) -> Calibration:
    """A calibration from its file. Raises InputError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; `tlac calibrate RUNS` makes one") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a calibration: {error}") from error
    if found.temperature is not None and not found.temperature > 0:
        raise InputError(f"{path}: not a calibration: temperature {found.temperature} is not above 0")
    return found
