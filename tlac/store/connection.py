"""Opens a cache's database for reading, with plain sqlite3, so that nothing in it can run or be written.

Does not know the tables.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from tlac.errors import StoreError

DATABASE = "cache.db"
BUSY_TIMEOUT_S = 60.0


def connect_read_only(folder: Path) -> sqlite3.Connection:
    """A connection that any thread may use (one at a time); text comes as bytes. Raises StoreError."""
    database = folder / DATABASE
    address = database.absolute().as_uri()
    try:
        return _connect(f"{address}?mode=ro")
    except sqlite3.Error as error:
        if _has_log(database):
            raise StoreError(f"{database}: can't be read: {error}; {_remedy(folder)}") from error
    # sqlite needs its shared-memory file even to read, and can't make it on a full or read-only disk; immutable
    # does without, but would silently leave out what a write-ahead log still holds
    try:
        return _connect(f"{address}?immutable=1")
    except sqlite3.Error as error:
        raise StoreError(f"{database}: can't be read: {error}; {_remedy(folder)}") from error


def _connect(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = bytes
    try:
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA schema_version").fetchall()
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _has_log(database: Path) -> bool:
    try:
        return os.stat(f"{database}-wal").st_size > 0  # noqa: PTH116 - a suffix, not a path part
    except OSError:
        return False


def _remedy(folder: Path) -> str:
    return f"if it is not a store of tlac's, choose another --store; else see `tlac cache verify` ({folder.parent})"
