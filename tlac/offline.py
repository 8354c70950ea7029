"""Keeps the libraries below us from looking for weights on a hub."""

from __future__ import annotations

import os
import sys


def forbid_downloads() -> None:
    """Tell the hub client, for the rest of this process, to use what is on this machine alone."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # the variable is read when the client is imported, which may have happened
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
