"""One database of the store: made by diskcache, looked at, then read and written in plain SQL, text under text keys.

A trigger or a view in the file would run whatever class reads the rows: a database that tlac did not write is not
opened. diskcache itself never opens one that it did not make just now: it turns each row of its Settings table into an
attribute or a PRAGMA, and unpickles what it reads. Reading goes over a read-only connection, and so goes on when the
disk is full or read-only.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from tlac.cache.serialization import MAX_TEXT_BYTES
from tlac.errors import StoreError
from tlac.runtime.safe_files import sweep_unfinished, unfinished_folder

DATABASE = "cache.db"
BUSY_TIMEOUT_S = 60.0
MODE_RAW = 1
"""diskcache's mode of a value that is in the row as it is: no pickle, no file."""


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
        # sqlite needs its shared-memory file even to read, and can't make it on a full or read-only disk; immutable
        # does without, but would silently leave out what a write-ahead log still holds
        if not _has_log(database):
            with suppress(sqlite3.Error):
                return _connect(f"{address}?immutable=1")
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


_LOCK = ".making.lock"
_CHUNK = 500
_ROOM_BYTES = 2**18
_SCAN_BYTES = 8 * 2**20
_LAST = "\U0010ffff"
# a row that tlac can't have written has no text here, and a value over the bound is never fetched
_SELECT = f"""
SELECT key,
    CASE WHEN mode = {MODE_RAW} AND filename IS NULL AND typeof(key) = 'text' AND typeof(value) = 'text'
        AND length(CAST(value AS BLOB)) <= {MAX_TEXT_BYTES} THEN value END, rowid
FROM Cache WHERE raw = 1
"""  # noqa: S608 - constants only
_SELECT_ONE = f"{_SELECT} AND key = ?"
_SELECT_AFTER = f"{_SELECT} AND typeof(key) = 'text' AND key > ? AND key < ? ORDER BY key LIMIT {_CHUNK}"
_SELECT_FROM = f"{_SELECT} AND typeof(key) = 'text' AND rowid >= ? ORDER BY rowid LIMIT {_CHUNK}"
_FIRST_PLACE = -(2**63)
# what diskcache's own Cache.set writes
_INSERT = f"""
INSERT INTO Cache(key, raw, store_time, access_time, size, mode, value) VALUES (?, 1, ?, ?, 0, {MODE_RAW}, ?)
ON CONFLICT(key, raw) DO """  # noqa: S608 - constants only
_UPDATE = """UPDATE SET store_time = excluded.store_time, access_time = excluded.access_time, access_count = 0,
    expire_time = NULL, tag = NULL, size = 0, mode = excluded.mode, filename = NULL, value = excluded.value"""


# key, JSON text (UTF-8), rowid; the text is None where tlac can't have written the row
Row: TypeAlias = tuple[str, "bytes | None", int]


def make_database(folder: Path) -> None:
    """Make the database in a folder where there is none. Raises StoreError.

    diskcache makes its tables one after the other, and another process, or the next one after a kill, would find some
    of them. So it is made apart, and comes to its place whole; of several that do so together the first counts. Nobody
    but the owner may read it: answers can be about private images.
    """
    if (folder / DATABASE).exists():
        sweep_unfinished(folder)
        return
    # here, not above: they take 50 ms, once for each store
    import diskcache
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        with FileLock(folder / _LOCK, timeout=BUSY_TIMEOUT_S), unfinished_folder(folder) as apart:
            if not (folder / DATABASE).exists():
                # what sqlite makes beside the database later has the rights of the database
                os.close(os.open(apart / DATABASE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                # waiting for the disk at each of its forty statements takes half a second: here once, at the end, does
                cache = diskcache.Cache.__new__(diskcache.Cache)
                # made inside: one that can't be made would leave its connection open
                with closing(cache):
                    settings = SETTINGS | {"sqlite_synchronous": 0}
                    diskcache.Cache.__init__(cache, str(apart), timeout=BUSY_TIMEOUT_S, **settings)
                    cache.reset("sqlite_synchronous", SETTINGS["sqlite_synchronous"])
                with (apart / DATABASE).open("rb") as file:
                    os.fsync(file.fileno())
                (apart / DATABASE).replace(folder / DATABASE)
    except (sqlite3.Error, OSError, Timeout) as error:
        raise _write_complaint(folder, error) from error


class RowReader:
    """Reads the rows of one database; any thread may use it. Raises StoreError where it can't be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._connection = connect_read_only(folder)
        self._database = str(folder / DATABASE)
        self._identity = _identity(self._database)
        try:
            self.warnings = inspect(folder, self._connection)
        except BaseException:
            self._connection.close()
            raise

    def is_in_place(self) -> bool:
        """Whether the folder still holds the database that was opened: it can be deleted while it is in use."""
        return _identity(self._database) == self._identity

    def get(self, key: str) -> Row | None:
        """Return the row under a key."""
        rows = self._select(_SELECT_ONE, (key,))
        return rows[0] if rows else None

    def get_many(self, keys: Sequence[str]) -> Iterator[Row]:
        """Yield the rows under these keys, those that there are, in any order."""
        if len(keys) > _CHUNK and 2 * len(keys) > self.count():
            # most rows are wanted: going through all takes a third of the time of finding each
            yield from self._pick(frozenset(keys))
            return
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            places = ",".join("?" * len(chunk))
            yield from self._select(f"{_SELECT} AND key IN ({places})", tuple(chunk))

    def _pick(self, wanted: frozenset[str]) -> Iterator[Row]:
        place = _FIRST_PLACE
        while rows := self._select(_SELECT_FROM, (place,), _SCAN_BYTES):
            yield from (row for row in rows if row[0] in wanted)
            place = rows[-1][2] + 1

    def scan(self, before: str = _LAST) -> Iterator[Row]:
        """Yield all rows under text keys less than `before`, by key; a few hundred, or a few megabytes, at a time."""
        last = ""
        while rows := self._select(_SELECT_AFTER, (last, before), _SCAN_BYTES):
            yield from rows
            last = rows[-1][0]

    def count(self) -> int:
        """Count all rows, whoever wrote them."""
        with self._lock:
            try:
                return int(self._connection.execute("SELECT COUNT(*) FROM Cache").fetchone()[0])
            except sqlite3.Error as error:
                raise self._complaint(error) from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _select(self, query: str, parameters: tuple[str | int, ...], budget_bytes: int | None = None) -> list[Row]:
        """Return the first rows that a query finds: all, or as many as a budget of text allows, at least one."""
        rows: list[Row] = []
        with self._lock:
            try:
                cursor = self._connection.execute(query, parameters)
                for key, text, place in cursor:
                    rows.append((key.decode("utf-8", "backslashreplace"), text, place))
                    if budget_bytes is not None:
                        budget_bytes -= len(text or b"")
                        if budget_bytes <= 0:
                            break
                cursor.close()
            except (sqlite3.Error, UnicodeEncodeError) as error:
                raise self._complaint(error) from error
        return rows

    def _complaint(self, error: Exception) -> StoreError:
        return StoreError(f"{self._folder / DATABASE}: can't be read: {error}; see `tlac cache verify`")


def _identity(database: str) -> tuple[int, int] | None:
    try:
        found = os.stat(database)  # noqa: PTH116 - Path.stat takes three times as long, and this is done at each write
    except OSError:
        return None
    return found.st_dev, found.st_ino


class RowWriter:
    """Writes the rows of one database; any thread may use it.

    The database is opened at the first write. A write is committed when the call returns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def check(self) -> None:
        """Raise StoreError where no answer can be written, or only a few."""
        with self._transaction() as connection, tempfile.TemporaryFile(dir=self._folder) as file:
            connection.execute("UPDATE Settings SET value = value WHERE key = 'cull_limit'")
            file.write(bytes(_ROOM_BYTES))
            file.flush()

    def write(self, rows: Iterable[tuple[str, str]], keeps_first: bool = False) -> int:
        """Write (key, text) rows, all or none; how many were written. Raises StoreError, and then none is.

        With `keeps_first`, a row that is there already stays as it is. No other process writes from before the first
        row is taken from `rows` until all are committed.
        """
        statement = _INSERT + ("NOTHING" if keeps_first else _UPDATE)
        with self._transaction() as connection:
            now = time.time()
            return connection.executemany(statement, ((key, now, now, text) for key, text in rows)).rowcount

    def delete(self, keys: Sequence[str]) -> int:
        """Delete the rows under these keys, all or none; returns how many there were. Raises StoreError."""
        with self._transaction() as connection:
            return connection.executemany(
                "DELETE FROM Cache WHERE key = ? AND raw = 1", [(key,) for key in keys]
            ).rowcount

    def close(self) -> None:
        """Finish what is being written and close the database."""
        with self._lock:
            self._close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _connect(f"{(self._folder / DATABASE).absolute().as_uri()}?mode=rw")
                    for name in ("journal_mode", "synchronous"):
                        self._connection.execute(f"PRAGMA {name}={SETTINGS[f'sqlite_{name}']}")
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                # sqlite does not always roll back after a failed COMMIT; closing does
                self._close()
                if isinstance(error, (sqlite3.Error, OSError, UnicodeEncodeError)):
                    raise _write_complaint(self._folder, error) from error
                raise

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _write_complaint(folder: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{folder.parent}: the store can't be written: {error}; what was stored before is safe;"
        " free space or rights, or choose another --store (or TLAC_CACHE_DIR)"
    )
