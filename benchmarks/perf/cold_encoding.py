"""Encodes distinct texts through an empty store, and times the encoder inside.

    python -m benchmarks.perf.cold_encoding TEXTS REPEATS

The same batch was seen to take between 1 and 11 s on a shared machine, so two runs can't be compared; how much of one
run is spent in the encoder can.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.perf.workload import class_names, distinct_answers
from tlac.cache.store import Store
from tlac.config.registry import open_encoder
from tlac.encoders.cached import StoredEncoder
from tlac.interfaces import TextEncoder
from tlac.types import Encoding


class _Timed:
    """An encoder, and the seconds that its last call took."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.fingerprint = encoder.fingerprint
        self.seconds = 0.0

    def encode(self, texts: Sequence[str]) -> Encoding:
        started = time.perf_counter()
        encoding = self._encoder.encode(texts)
        self.seconds = time.perf_counter() - started
        return encoding


def main(count: int, repeats: int) -> None:
    """Print encoder, texts a second through the store, texts a second of the encoder inside."""
    encoder = _Timed(open_encoder("minilm"))
    texts = distinct_answers(count, class_names(1000))
    encoder.encode(texts[:32])
    ours, bare = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
            started = time.perf_counter()
            StoredEncoder(encoder, store).encode(texts)
            ours.append(count / (time.perf_counter() - started))
            bare.append(count / encoder.seconds)
    sys.stdout.write(f"minilm\t{statistics.median(ours)}\t{statistics.median(bare)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
