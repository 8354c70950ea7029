"""What re-scoring costs at the least: answers from the database, vectors from a .npy, product, best class.

    python bare_rescore.py STORE VECTORS.npy CLASS-VECTORS.npy

No outcomes, metrics or files; does not import tlac. The row of a text in VECTORS.npy is its place in sorted order.
"""

from __future__ import annotations

import json
import sqlite3
import sys

import numpy as np

_ROWS = 4096


def main(store: str, vectors: str, class_vectors: str) -> None:
    """Score every answer, and print how many there were."""
    connection = sqlite3.connect(f"file:{store}/responses/cache.db?mode=ro", uri=True)
    rows = connection.execute("SELECT value FROM Cache WHERE key < 'g'")
    answers = [json.loads(row[0])["response"]["text"] for row in rows]
    places = {text: place for place, text in enumerate(sorted(set(answers)))}
    texts, classes = np.load(vectors), np.load(class_vectors)
    best = np.concatenate(
        [(texts[start : start + _ROWS] @ classes.T).argmax(axis=1) for start in range(0, len(texts), _ROWS)]
    )
    predicted = [int(best[places[text]]) for text in answers]
    sys.stdout.write(f"{len(predicted)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
