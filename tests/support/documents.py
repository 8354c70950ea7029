"""Documents, the commands in them, and how they are run as a user would."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks_of(document: str, language: str) -> list[str]:
    """The fenced blocks of a language in a Markdown document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, flags=re.MULTILINE | re.DOTALL)


def run(command: list[str], place: Path, environment: dict[str, str]) -> str:
    """What a command prints in a working directory with a store and settings of its own; it has to succeed."""
    own = {**environment, "TLAC_CACHE_DIR": str(place / "store"), "TLAC_CONFIG_DIR": str(place / "config")}
    done = subprocess.run(command, cwd=place, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
