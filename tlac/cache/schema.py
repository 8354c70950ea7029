"""Check a database of the store before diskcache opens it: did tlac write it, and does it evict nothing?

A trigger or a view in the file would run whatever class reads the rows, and diskcache turns each row of its
Settings table into an attribute or a PRAGMA.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tlac.errors import StoreError

DATABASE = "cache.db"
BUSY_TIMEOUT_S = 60.0


def connect_read_only(folder: Path) -> sqlite3.Connection:
    """Open a connection that any thread may use (one at a time); text comes as bytes. Raises StoreError."""
    database = folder / DATABASE
    for path in folder.glob(f"{DATABASE}*"):
        # sqlite would wait for ever for the other end of a pipe
        if path.exists() and not path.is_file():
            raise StoreError(f"{path}: is no regular file; {_remedy(folder)}")
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


# what is not given here stays at diskcache's default; FULL survives the loss of power, not only of the process
SETTINGS: dict[str, Any] = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "tag_index": 0,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 8192,
    "sqlite_journal_mode": "wal",
    "sqlite_mmap_size": 0,
    "sqlite_synchronous": 2,
    "disk_min_file_size": 0,
    "disk_pickle_protocol": 0,
}
_EVICTING = ("eviction_policy", "cull_limit", "size_limit")
_COUNTERS = frozenset({"count", "size", "hits", "misses"})

_SELECT_SETTINGS = "SELECT key, value, typeof(key), typeof(value) FROM Settings ORDER BY key LIMIT 100"

_SCHEMA: dict[tuple[str, str], str | None] = {
    ("table", "Settings"): "CREATE TABLE Settings ( key TEXT NOT NULL UNIQUE, value)",
    ("index", "sqlite_autoindex_Settings_1"): None,
    ("table", "Cache"): (
        "CREATE TABLE Cache ( rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL, expire_time REAL,"
        " access_time REAL, access_count INTEGER DEFAULT 0, tag BLOB, size INTEGER DEFAULT 0, mode INTEGER DEFAULT 0,"
        " filename TEXT, value BLOB)"
    ),
    ("index", "Cache_key_raw"): "CREATE UNIQUE INDEX Cache_key_raw ON Cache(key, raw)",
    ("index", "Cache_expire_time"): "CREATE INDEX Cache_expire_time ON Cache (expire_time)",
    **{
        ("trigger", f"Settings_{counter}_{event.lower()}"): (
            f"CREATE TRIGGER Settings_{counter}_{event.lower()} AFTER {event} ON Cache FOR EACH ROW BEGIN"  # noqa: S608
            f' UPDATE Settings SET value = value {change} WHERE key = "{counter}"; END'
        )
        for counter, event, change in (
            ("count", "INSERT", "+ 1"),
            ("count", "DELETE", "- 1"),
            ("size", "INSERT", "+ NEW.size"),
            ("size", "UPDATE", "+ NEW.size - OLD.size"),
            ("size", "DELETE", "- OLD.size"),
        )
    },
    # left behind by a program that opened the folder with another eviction policy or a tag index
    ("index", "Cache_store_time"): "CREATE INDEX Cache_store_time ON Cache (store_time)",
    ("index", "Cache_access_time"): "CREATE INDEX Cache_access_time ON Cache (access_time)",
    ("index", "Cache_access_count"): "CREATE INDEX Cache_access_count ON Cache (access_count)",
    ("index", "Cache_tag_rowid"): "CREATE INDEX Cache_tag_rowid ON Cache(tag, rowid)",
}


def find_foreign_schema(connection: sqlite3.Connection) -> list[str]:
    """List what the database defines beyond, or otherwise than, a database of tlac's; one line each.

    Raises sqlite3.Error for a file that is no database.
    """
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name LIMIT 100").fetchall()
    found = []
    for row in rows:
        kind, name, sql = (_readable(value) for value in row)
        if (kind, name) not in _SCHEMA:
            found.append(f"a {kind} {name!r} that tlac does not make")
        elif sql != _SCHEMA[kind, name]:
            found.append(f"a {kind} {name!r} that is not as tlac makes it")
    return found


def find_settings(connection: sqlite3.Connection) -> tuple[list[str], dict[str, Any]]:
    """List what the Settings table should not hold, one line each; and the settings that differ from tlac's."""
    has_settings = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchall()
    rows = connection.execute(_SELECT_SETTINGS).fetchall() if has_settings else []
    unknown, changed = [], {}
    for row in rows:
        key, value, key_type, value_type = (_readable(item) for item in row)
        if key in _COUNTERS and key_type == "text" and value_type == "integer":
            continue
        if key not in SETTINGS or key_type != "text":
            unknown.append(f"a setting {key!r} that tlac does not make")
        elif value != SETTINGS[key] or value_type != ("integer" if isinstance(value, int) else "text"):
            changed[str(key)] = value
    return unknown, changed


def inspect(folder: Path, connection: sqlite3.Connection) -> tuple[str, ...]:
    """Compare a database with what tlac writes, and restore changed settings.

    Returns warnings for the user. Raises StoreError for anything that tlac would not have written.
    """
    database = folder / DATABASE
    try:
        foreign = find_foreign_schema(connection)
        unknown, changed = find_settings(connection) if not foreign else ([], {})
    except sqlite3.Error as error:
        raise StoreError(f"{database}: is not a sound database: {error}; choose another --store") from error
    if foreign or unknown:
        raise StoreError(
            f"{database}: holds {(foreign + unknown)[0]}, so it is not opened; choose another --store"
            " (`tlac cache verify` lists what is wrong)"
        )
    if not changed:
        return ()
    names = ", ".join(sorted(changed))
    is_evicting = any(name in changed for name in _EVICTING)
    harm = ": it may have deleted answers" if is_evicting else ""
    repair = "restored" if _restore(database, changed) else "can't be restored, since the store can't be written"
    return (f"{database}: another program changed {names}{harm}; {repair}",)


def _restore(database: Path, changed: dict[str, Any]) -> bool:
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_TIMEOUT_S)) as connection, connection:
            connection.executemany(
                "UPDATE Settings SET value = ? WHERE key = ?", [(SETTINGS[name], name) for name in changed]
            )
    except sqlite3.OperationalError:
        return False
    return True


def _readable(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
