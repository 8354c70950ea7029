"""The seam for answers that are had elsewhere than in this process: in a cluster, or from a batch interface.

An engine puts answers into the store ahead of a run, which then reads them as any run does. Does not know any engine.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tlac.config.schemas import Backend
from tlac.evaluation.run_config import RunConfig
from tlac.interfaces import LMM
from tlac.methods.base import NearestClassFinder


class Engine(Protocol):
    """Has the answers that a run lacks put into its store."""

    @property
    def paid(self) -> Collection[str]:
        """The keys of the answers that this engine has had given: they count as asked by the run."""
        ...

    def fetch(self, spec: RunConfig, shown: Sequence[int], finder: NearestClassFinder) -> None:
        """Put what the store lacks for this run into it; `shown` and `finder` as in tlac.evaluation.run_config.

        Returns when nothing more can be had. Raises TlacError; whatever was answered is stored.
        """
        ...

    def rest(self, backend: Backend) -> LMM:
        """What is asked for an answer that is still missing after `fetch`: it raises CallError and says why.

        Raises ConfigError where the backend can't be asked at all.
        """
        ...
