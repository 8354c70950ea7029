"""Access to the Hugging Face hub: whether it can be reached, and loading without it.

Left alone, the hub's client tries each file six times over 23 s on a machine without network, and logs each try; one
short probe beforehand says the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tlac.runtime.process_settings import library_settings

HTTP_CLIENTS = ("httpx", "httpx2")
"""HTTP libraries that the hub's client may use; their loggers have the same names."""

_PROBE_TIMEOUT_S = 5.0
# both read the environment once, when they are imported
_OFFLINE_SWITCHES = ("huggingface_hub.constants", "datasets.config")


def http_errors() -> tuple[type[Exception], ...]:
    """The errors of those HTTP libraries that are imported: only these can have been used."""
    modules = [sys.modules[name] for name in HTTP_CLIENTS if name in sys.modules]
    return tuple(getattr(module, name) for module in modules for name in ("HTTPError", "StreamError"))


@contextmanager
def offline_hub() -> Iterator[None]:
    """Keep the hub's libraries to the files on this machine while the context lasts.

    For calls that take no `local_files_only`. Other threads see the setting too, so keep it short.
    """
    from huggingface_hub import constants  # noqa: F401 - is among the modules below

    with library_settings:
        modules = [module for name in _OFFLINE_SWITCHES if (module := sys.modules.get(name))]
        before = [module.HF_HUB_OFFLINE for module in modules]
        try:
            for module in modules:
                module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
            yield
        finally:
            for module, value in zip(modules, before, strict=True):
                module.HF_HUB_OFFLINE = value  # type: ignore[attr-defined]


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
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{constants.ENDPOINT} can't be reached ({reason})"
    return ""
