"""Encodes distinct texts through an empty store and by the encoder alone, in turn, in one process.

python -m benchmarks.perf.cold_encoding TEXTS REPEATS
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.perf.workload import class_names, distinct_answers
from tlac.embeddings import StoredEncoder
from tlac.registry import open_encoder
from tlac.store import Store


def main(count: int, repeats: int) -> None:
    """Print encoder, texts a second through the store, texts a second without."""
    encoder = open_encoder("minilm")
    texts = distinct_answers(count, class_names(1000))
    encoder.encode(texts[:32])
    ours, bare = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        encoder.encode(texts)
        bare.append(count / (time.perf_counter() - started))
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
            started = time.perf_counter()
            StoredEncoder(encoder, store).encode(texts)
            ours.append(count / (time.perf_counter() - started))
    sys.stdout.write(f"minilm\t{statistics.median(ours)}\t{statistics.median(bare)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
