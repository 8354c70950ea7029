"""Whose configuration a file is.

What ships with tlac and what lies in the user's config folder is the user's own. A `tlac.yaml` in the working directory
and a file given by its path may have come with a cloned folder: they are strangers until `tlac trust` has remembered
them, by path and content.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs

from tlac.errors import ConfigError, InputError
from tlac.runtime.safe_files import read_json, replacing

_MAX_BYTES = 2**22


class UntrustedFileError(ConfigError):
    """A file that somebody else may have written wants what only the user's own may have; `tlac trust` allows it."""

    def __init__(self, complaint: str, path: Path, sha256: str) -> None:
        super().__init__(f"{complaint}: look at it, and run `tlac trust {path}` if it is yours")
        self.path = path
        self.sha256 = sha256


def user_config_folder() -> Path:
    """The user's own configuration: TLAC_CONFIG_DIR, else the platform's place."""
    override = os.environ.get("TLAC_CONFIG_DIR")
    return Path(override) if override else Path(platformdirs.user_config_dir("tlac"))


def is_trusted(path: Path, sha256: str) -> bool:
    """Whether a file with this content was trusted at this place."""
    return _read_trusted().get(str(path.resolve())) == sha256


def trust(path: Path, sha256: str) -> None:
    """Remember a file with this content as the user's own. Raises ConfigError where that can't be written."""
    trusted = {**_read_trusted(), str(path.resolve()): sha256}
    target = _trusted_file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(json.dumps(trusted, indent=2).encode())
    except OSError as error:
        raise ConfigError(f"{target}: can't be written: {error.strerror}") from error


def _trusted_file() -> Path:
    return user_config_folder() / "trusted.json"


def _read_trusted() -> dict[str, str]:
    path = _trusted_file()
    if not path.exists():
        return {}
    try:
        found: dict[str, str] = read_json(path, dict[str, str], _MAX_BYTES)
    except InputError as error:
        raise ConfigError(f"{error}; remove it, and trust your files anew") from error
    return found
