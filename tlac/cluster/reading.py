"""Reads the store for all workers, on the driver's machine: its databases don't bear several machines.

Does not know who asks.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tlac.store import Store
from tlac.types import LMMResponse, Outcome


class StoreReader:
    """Finds stored answers. Those with an outcome in `retry` are to be asked again, but for those under keys in
    `paid`."""

    def __init__(self, store: Path, retry: Collection[Outcome], paid: Collection[str]) -> None:
        self._store = Store(store)
        self._retry = frozenset(retry)
        self._paid = frozenset(paid)

    def find(self, keys: list[str]) -> dict[str, LMMResponse]:
        """The responses under these keys that need not be asked for. Raises StoreError."""
        found = ((key, self._store.get_response(key)) for key in keys)
        return {
            key: response
            for key, response in found
            if response is not None and (response.outcome not in self._retry or key in self._paid)
        }
