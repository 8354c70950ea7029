"""What the run that follows an engine's fetch asks: nobody."""

from __future__ import annotations

from collections.abc import Callable

from tlac.types import LMMRequest, LMMResponse


class FetchedLMM:
    """Stands in a backend's place when an engine has fetched what could be had: gives that, or the error it met."""

    def __init__(self, recall: Callable[[LMMRequest], LMMResponse]) -> None:
        self._recall = recall

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The answer that was fetched. Raises CallError saying why there is none."""
        return self._recall(request)
