"""The store against what it stands on, in one process: sqlite alone for writing, np.load for reading vectors.

    python -m benchmarks.perf.store ROWS

Prints a line for each figure: what, unit, ours, what it is held to, separated by tabs. Processor time, since a commit
waits for the disk.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.perf.workload import DIMENSIONS
from tlac.cache.serialization import StoredEmbedding
from tlac.cache.sqlite import RowWriter, make_database
from tlac.cache.store import Store
from tlac.hashing import embedding_keys

_TEXT = "x" * 800
_A_COMMIT = 1000


def _cpu_us(run: Callable[[], object], count: int) -> float:
    started = time.process_time()
    run()
    return 1e6 * (time.process_time() - started) / count


def _write_plain(path: Path, rows: list[tuple[str, str]], a_commit: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE Rows(key TEXT PRIMARY KEY, value TEXT)")
    for start in range(0, len(rows), a_commit):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO Rows VALUES (?, ?)", rows[start : start + a_commit])
        connection.execute("COMMIT")
    connection.close()


def _write_ours(folder: Path, rows: list[tuple[str, str]], a_commit: int) -> None:
    make_database(folder)
    writer = RowWriter(folder)
    for start in range(0, len(rows), a_commit):
        writer.write(rows[start : start + a_commit])
    writer.close()


def main(count: int) -> None:
    """Write rows, and read vectors, ours and bare in turn."""
    rows = [(hashlib.sha256(str(number).encode()).hexdigest(), _TEXT) for number in range(count)]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        for a_commit, written in ((_A_COMMIT, rows), (1, rows[: count // 10])):
            plain = _cpu_us(lambda: _write_plain(folder / f"{a_commit}.db", written, a_commit), len(written))  # noqa: B023
            ours = _cpu_us(lambda: _write_ours(folder / str(a_commit), written, a_commit), len(written))  # noqa: B023
            sys.stdout.write(f"rows of 800 bytes, {a_commit:,} a commit, CPU\tus/row\t{ours}\t{plain}\n")
        keys = embedding_keys("some", map(str, range(count)))
        vectors = np.random.default_rng(0).standard_normal((count, DIMENSIONS)).astype(np.float32)
        np.save(folder / "vectors.npy", vectors)
        with Store(folder / "store") as store:
            store.put_embeddings(StoredEmbedding(*one, False) for one in zip(keys, vectors, strict=True))
            store.load_embeddings(keys, "some")
            # summed up, so that a file that is mapped is read as well
            ours = _cpu_us(lambda: store.load_embeddings(keys, "some")[0].vectors.sum(), count)  # noqa: PLW0108
        plain = _cpu_us(lambda: np.load(folder / "vectors.npy").sum(), count)
        sys.stdout.write(f"{count:,} vectors of {DIMENSIONS}, read and summed up, CPU\tus/row\t{ours}\t{plain}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
