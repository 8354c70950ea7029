"""Zero-shot image classification with large multimodal models.

>>> from tlac import Classifier, load_run, load_runs, match
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlac.analysis.leaderboard import load_runs
    from tlac.api import Classification, Classifier, Match, match
    from tlac.errors import TlacError
    from tlac.results.folder import load_run
    from tlac.results.record import Run
    from tlac.types import Outcome

__all__ = ["Classification", "Classifier", "Match", "Outcome", "Run", "TlacError", "load_run", "load_runs", "match"]

_HOMES = {
    "Classification": "tlac.api",
    "Classifier": "tlac.api",
    "Match": "tlac.api",
    "Outcome": "tlac.types",
    "Run": "tlac.results.record",
    "TlacError": "tlac.errors",
    "load_run": "tlac.results.folder",
    "load_runs": "tlac.analysis.leaderboard",
    "match": "tlac.api",
}


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    # imported on first use: `tlac --help` must not wait for numpy
    if name not in _HOMES:
        raise AttributeError(f"module 'tlac' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
