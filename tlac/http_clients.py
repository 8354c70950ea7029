"""The HTTP clients that the libraries below us happen to use: they let those clients' errors and log lines through.

Does not know what is asked with them. Which library uses which client changes with its version.
"""

from __future__ import annotations

import sys

HTTP_CLIENTS = ("httpx", "httpx2")
"""Their names, which are those of their loggers too."""


def http_errors() -> tuple[type[Exception], ...]:
    """What those of them raise that have been imported: only these can have been used."""
    modules = [sys.modules[name] for name in HTTP_CLIENTS if name in sys.modules]
    return tuple(getattr(module, name) for module in modules for name in ("HTTPError", "StreamError"))
