"""The versions of what a run stands on, for its record. Imports none of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("tlac", "numpy", "litellm", "torch", "open_clip_torch", "sentence-transformers", "diskcache", "pillow")


def installed_versions() -> dict[str, str]:
    """The versions of Python, the platform, tlac and those packages, as far as they are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
