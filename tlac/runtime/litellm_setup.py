"""Import litellm quietly and without network, once, for every adapter that needs it.

What is set here was measured: without it the import asks for a price map over the network and reads a .env file, and
calls print advice on stderr.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType

from tlac.runtime.litellm_calls import LITELLM_LOGGERS, OurCallsFilter, litellm_call, watch_http_clients
from tlac.runtime.process_settings import library_settings, restored_environment

_ENVIRONMENT = {
    # else the import blocks for seconds on a machine without network
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    # else the import loads a .env file of the working directory
    "LITELLM_MODE": "PRODUCTION",
}


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Don't look for garbage: an import makes none, and looking for it takes a tenth of its time.

    What is there afterwards, half a million objects, stays out of later searches as well: they would double the
    processor time of a call.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def load_litellm() -> ModuleType:
    """Return the litellm module: local price map, no telemetry, no advice on the terminal, none of its own retries.

    Takes about 4 s the first time.
    """
    # two threads that load it at once would each put back what the other has set
    with library_settings:
        return _load()


@cache
def _load() -> ModuleType:
    for name in LITELLM_LOGGERS:
        logging.getLogger(name).addFilter(OurCallsFilter())
    with restored_environment(_ENVIRONMENT), _without_garbage_collection(), litellm_call():
        os.environ.update(_ENVIRONMENT)
        litellm = importlib.import_module("litellm")
        # else it is fetched over the network with the first call that needs it
        with suppress(ImportError, AttributeError):
            importlib.import_module("litellm.anthropic_beta_headers_manager").reload_beta_headers_config()
    litellm.telemetry = False  # type: ignore[attr-defined]
    litellm.suppress_debug_info = True  # type: ignore[attr-defined]
    litellm.num_retries = 0  # type: ignore[attr-defined]
    # embedding() takes max_retries=0 for "not given" and falls back to this
    litellm.DEFAULT_MAX_RETRIES = 0  # type: ignore[attr-defined]
    watch_http_clients()
    return litellm
