"""Check every row of a store, also of one that is too damaged or too strange to be opened; delete what is damaged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlac.cache.attached import ATTACHED, AttachedPack, line_complaint, list_packs, open_pack, read_lines
from tlac.cache.embedding_block import remove_blocks
from tlac.cache.serialization import (
    MAX_TEXT_BYTES,
    TEXT_KEY_PREFIX,
    StoredAnswer,
    parse_answer,
    parse_embedding,
    parse_text_row,
    unfold,
)
from tlac.cache.sqlite import (
    BUSY_TIMEOUT_S,
    DATABASE,
    MODE_RAW,
    connect_read_only,
    find_foreign_schema,
    find_settings,
)
from tlac.cache.store import ATTACHED_FORMAT, EMBEDDINGS, RESPONSES, Store, read_format
from tlac.errors import InputError, StoreError, UsageError

_SELECT_ALL = f"""
SELECT rowid, CASE WHEN length(CAST(key AS BLOB)) <= 1000 THEN key END, typeof(key), raw IS 1,
    CASE WHEN typeof(mode) = 'integer' THEN mode END, filename IS NULL,
    expire_time IS NULL, typeof(value), COALESCE(length(CAST(value AS BLOB)), 0),
    CASE WHEN length(CAST(value AS BLOB)) <= {MAX_TEXT_BYTES} THEN value END
FROM Cache ORDER BY rowid
"""  # noqa: S608 - constants only
_SELECT_TEXT = "SELECT value FROM Cache WHERE key = ? AND raw = 1 AND typeof(value) = 'text'"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a store that tlac did not write, or that was damaged. `row` is the database's rowid."""

    database: str
    row: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class Verification:
    """How many answers and embeddings are sound, and every problem that was found."""

    answers: int
    embeddings: int
    problems: tuple[Problem, ...]


def verify_store(folder: Path) -> Verification:
    """Check every row of the store in a folder, and every line of attached packs; nothing in it is executed, changed or
    deleted.

    Raises StoreError where there is no store.
    """
    folder = folder.expanduser().absolute()
    problems = list(_folder_problems(folder))
    counts = {RESPONSES: 0, EMBEDDINGS: 0}
    # Path.exists raises for a name that is too long
    missing = [name for name in counts if not os.path.exists(folder / name / DATABASE)]  # noqa: PTH110
    for name in counts.keys() - missing:
        try:
            with closing(connect_read_only(folder / name)) as connection:
                for problem in _database_problems(connection, name):
                    if problem is None:
                        counts[name] += 1
                    else:
                        problems.append(problem)
        except (StoreError, sqlite3.Error) as error:
            problems.append(Problem(name, None, f"can't be read: {error}"))
    for problem in _attached_problems(folder):
        if problem is None:
            counts[RESPONSES] += 1
        else:
            problems.append(problem)
    if problems or any(counts.values()):
        # an empty store that lacks a database was killed while it was made: the next start makes the rest
        problems += [Problem(name, None, "there is no database") for name in missing]
    return Verification(counts[RESPONSES], counts[EMBEDDINGS], tuple(problems))


def prune_damaged(store: Store, is_dry_run: bool = False) -> int:
    """Delete the rows that verification reports; returns how many there are. Raises StoreError."""
    rows = 0
    for name in (RESPONSES, EMBEDDINGS):
        database = store.path / name / DATABASE
        try:
            with closing(sqlite3.connect(database, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
                # nobody else writes between looking and deleting
                connection.execute("BEGIN IMMEDIATE")
                problems = verify_store(store.path).problems
                damaged = [(found.row,) for found in problems if found.database == name and found.row is not None]
                if not is_dry_run:
                    connection.executemany("DELETE FROM Cache WHERE rowid = ?", damaged)
                    if name == EMBEDDINGS:
                        remove_blocks(database.parent)
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{database}: can't be written: {error}; choose another --store") from error
        rows += len(damaged)
    return rows


def _folder_problems(folder: Path) -> Iterator[Problem]:
    try:
        written = read_format(folder)
    except (StoreError, OSError) as error:
        yield Problem("", None, str(error))
        return
    if written is None:
        raise StoreError(f"{folder}: there is no store here; choose another --store (or TLAC_CACHE_DIR)")
    if written > ATTACHED_FORMAT:
        yield Problem("", None, f"format {written} of a newer tlac: upgrade tlac")


def _database_problems(connection: sqlite3.Connection, name: str) -> Iterator[Problem | None]:
    """Yield the problems of a database, and None for each answer or embedding that is sound."""
    foreign = find_foreign_schema(connection)
    unknown, changed = find_settings(connection) if not foreign else ([], {})
    changes = [f"setting {setting!r} is {value!r}, which another program wrote" for setting, value in changed.items()]
    yield from (Problem(name, None, problem) for problem in [*foreign, *unknown, *changes])
    if any("'Cache'" in problem for problem in foreign):
        # what goes by that name is not the table, and reading from it could run something
        return
    if not foreign:
        findings = connection.execute("PRAGMA integrity_check(100)").fetchall()
        yield from (Problem(name, None, line.decode()) for (line,) in findings if line != b"ok")
    parse = (lambda key, text: parse_embedding(text, key)) if name == EMBEDDINGS else _answer_parser(connection)
    for row in connection.execute(_SELECT_ALL):
        problem = _row_problem(row, parse)
        if problem is not None:
            yield Problem(name, row[0], problem)
        elif not row[1].startswith(TEXT_KEY_PREFIX.encode()):
            yield None


def _row_problem(row: tuple[Any, ...], parse: Callable[[str, bytes], object]) -> str | None:
    _, key, key_type, is_raw, mode, has_no_file, has_no_expiry, value_type, size_bytes, value = row
    columns = (
        (not is_raw, "its key would have to be unpickled"),
        (mode != MODE_RAW, f"its value has mode {mode}: a pickle or a file"),
        (not has_no_file, "it names a file"),
        (not has_no_expiry, "it expires"),
        (key_type != b"text" or key is None, f"its key is of type {key_type.decode()}, or too long"),
        (value_type != b"text", f"its value is of type {value_type.decode()}"),
        (size_bytes > MAX_TEXT_BYTES, f"its value has {size_bytes:,} bytes"),
    )
    for is_wrong, problem in columns:
        if is_wrong:
            return problem
    try:
        parse(key.decode(), value)
    except (UsageError, UnicodeDecodeError) as error:
        return str(error)
    return None


def _answer_parser(connection: sqlite3.Connection) -> Callable[[str, bytes], None]:
    known: dict[str, str] = {}

    def text_of(key: str) -> str:
        if key not in known:
            rows = connection.execute(_SELECT_TEXT, (key,)).fetchall()
            if not rows:
                raise InputError(f"its request's text {key[:17]} is gone")
            known[key] = parse_text_row(key, rows[0][0])
        return known[key]

    def parse(key: str, content: bytes) -> None:
        if key.startswith(TEXT_KEY_PREFIX):
            parse_text_row(key, content)
            return
        answer = parse_answer(content, key)
        replace(answer, request=unfold(answer.request, text_of)).checked()

    return parse


def _attached_problems(folder: Path) -> Iterator[Problem | None]:
    """Yield the problems of attached packs, and None for each sound answer that stands nowhere before."""
    packs: list[AttachedPack] = []
    try:
        names = sorted(list_packs(folder / ATTACHED))
        if not names:
            return
        with closing(connect_read_only(folder / RESPONSES)) as connection:

            def is_known(key: str) -> bool:
                in_database = connection.execute(_SELECT_TEXT, (key,)).fetchall()
                return bool(in_database) or any(pack.locate(key) for pack in packs)

            for name in names:
                pack = open_pack(folder / ATTACHED / name, is_kept=False)
                if pack.warning:
                    yield Problem(ATTACHED, None, pack.warning)
                yield from _pack_problems(pack, is_known)
                packs.append(pack)
    except (StoreError, InputError, sqlite3.Error) as error:
        yield Problem(ATTACHED, None, str(error))


def _pack_problems(pack: AttachedPack, is_known: Callable[[str], bool]) -> Iterator[Problem | None]:
    is_counted = np.zeros(pack.answers, np.bool_)
    for name, _, _ in pack.files:
        path = pack.folder / name
        try:
            for number, kept in read_lines(path):
                if not isinstance(kept, StoredAnswer):
                    continue
                found = pack.locate(kept.key)
                if found is None:
                    raise line_complaint(path, number, InputError("the index lacks it"))
                if not is_counted[found[0]] and not is_known(kept.key):
                    yield None
                is_counted[found[0]] = True
        except (StoreError, InputError) as error:
            yield Problem(ATTACHED, None, str(error))
