"""The libraries that tlac stands on: their versions, settings that they change for the whole process, and access to the
Hugging Face hub.

Left alone, the hub's client tries each file six times over 23 s on a machine without network, and logs each try; one
short probe beforehand says the same.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from tlac.errors import one_line

HTTP_CLIENTS = ("httpx", "httpx2")
"""HTTP libraries that the hub's client may use; their loggers have the same names."""

library_settings = threading.RLock()
"""Held while a library's global settings are changed: two threads that restore them in turn would restore wrongly."""

_PACKAGES = ("tlac", "numpy", "litellm", "torch", "open_clip_torch", "sentence-transformers", "diskcache", "pillow")
_PROBE_TIMEOUT_S = 5.0


@cache
def installed_versions() -> dict[str, str]:
    """The versions of Python, the platform, tlac and what it stands on, where installed. Imports none of it."""
    # read once: each is a file that is searched for, and a suite writes it into every run
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def restored_environment(names: Iterable[str]) -> Iterator[None]:
    """Put these environment variables back when the context ends.

    Named ones only, since another thread of the user's may set others meanwhile.
    """
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def http_errors() -> tuple[type[Exception], ...]:
    """The errors of those HTTP libraries that are imported: only these can have been used."""
    modules = [sys.modules[name] for name in HTTP_CLIENTS if name in sys.modules]
    return tuple(getattr(module, name) for module in modules for name in ("HTTPError", "StreamError"))


@contextmanager
def changed_setting(names: Iterable[str], setting: str, value: object) -> Iterator[None]:
    """Change a global setting of those modules that are imported, while the context lasts.

    Other threads see it too, so keep it short.
    """
    with library_settings:
        modules = [module for name in names if (module := sys.modules.get(name))]
        before = [getattr(module, setting) for module in modules]
        try:
            for module in modules:
                setattr(module, setting, value)
            yield
        finally:
            for module, was in zip(modules, before, strict=True):
                setattr(module, setting, was)


def offline_hub() -> AbstractContextManager[None]:
    """Keep the hub's libraries to the files on this machine while the context lasts.

    For calls that take no `local_files_only`.
    """
    import_module("huggingface_hub.constants")
    # both read the environment once, when they are imported
    return changed_setting(("huggingface_hub.constants", "datasets.config"), "HF_HUB_OFFLINE", value=True)


def check_hub(is_offline: bool) -> str:
    """The reason why the hub can't be asked; empty where it can. Takes 5 s at most, and asks nobody offline."""
    if is_offline:
        return "this run is offline"
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    session = get_session()
    unreachable: tuple[type[Exception], ...] = (OSError, *http_errors())
    try:
        session.head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
    except unreachable as error:
        return f"{constants.ENDPOINT} can't be reached ({one_line(error)})"
    return ""
