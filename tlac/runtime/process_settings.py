"""Settings that belong to the whole process, and how libraries that change them are made to put them back."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

library_settings = threading.RLock()
"""Held while a library's global settings are changed: two threads that restore them in turn would restore wrongly."""


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
