"""Stands where an LMM would, to learn which answers a run lacks.

What is stored is answered; everything else is handed on as wanted, and nobody is asked. Does not know what becomes
of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

from tlac.errors import MissingAnswersError
from tlac.keys import document_key, request_document
from tlac.store import Store
from tlac.types import LMMRequest, LMMResponse, Outcome

Want: TypeAlias = Callable[[str, "dict[str, Any]", LMMRequest], Awaitable[None]]
"""Told the key, the document and the request of an answer that is not there."""

_NOTHING_YET = LMMResponse(Outcome.EMPTY, "", "not asked yet")


class CollectingLMM:
    """Reads a store and tells of what it lacks. Stored outcomes in `retry` count as lacking, unless `paid`.

    With `goes_on` a lacking answer is given as an empty one, so that a method whose questions about an image do not
    depend on one another asks all of them at once.
    """

    def __init__(
        self, store: Store, want: Want, retry: Collection[Outcome], paid: Collection[str], goes_on: bool = False
    ) -> None:
        self._store = store
        self._want = want
        self._retry = frozenset(retry)
        self._paid = paid
        self._goes_on = goes_on

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The stored response. Raises MissingAnswersError, and what stands against asking for it."""
        document = request_document(request)
        key = document_key(document)
        stored = self._store.get_response(key)
        if stored is not None and (stored.outcome not in self._retry or key in self._paid):
            return stored
        await self._want(key, document, request)
        if self._goes_on:
            return _NOTHING_YET
        raise MissingAnswersError(f"the {request.stage} answer from {request.model} is not there yet")
