"""What the Hugging Face hub's client may do for us, and whether it can.

Left alone it tries each file six times over 23 s on a machine without network, and tells of each try; one short probe
before it says the same. Does not know what is wanted of the hub.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

HTTP_CLIENTS = ("httpx", "httpx2")
"""Their names, which are those of their loggers too."""


def http_errors() -> tuple[type[Exception], ...]:
    """What those of them raise that have been imported: only these can have been used."""
    modules = [sys.modules[name] for name in HTTP_CLIENTS if name in sys.modules]
    return tuple(getattr(module, name) for module in modules for name in ("HTTPError", "StreamError"))


_PROBE_TIMEOUT_S = 5.0
# both read the environment when they are imported
_SWITCHES = ("huggingface_hub.constants", "datasets.config")


def forbid_downloads() -> None:
    """Have the hub's client use what is on this machine alone, for the rest of this process."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in _SWITCHES:
        if module := sys.modules.get(name):
            module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


@contextmanager
def offline_hub() -> Iterator[None]:
    """Have the hub's client use what is on this machine alone, while it lasts."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_obstacle() -> str:
    """Why the hub can't be asked, in words; empty where it can. Takes 5 s at most."""
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
