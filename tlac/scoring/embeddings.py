"""A text encoder that keeps every embedding in the store and encodes only what is not there yet.

Does not know what the texts mean. The order and number of texts in a call change no vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tlac.config import EncoderConfig
from tlac.errors import MissingAnswersError
from tlac.interfaces import TextEncoder
from tlac.keys import embedding_key
from tlac.store import Store, StoredEmbedding
from tlac.types import BoolArray, Encoding, Float32Array


class StoredEncoder:
    """Wraps a TextEncoder; is one."""

    def __init__(self, encoder: TextEncoder, store: Store) -> None:
        self._encoder = encoder
        self._store = store

    @property
    def fingerprint(self) -> str:
        """The wrapped encoder's."""
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Encoding:
        """As TextEncoder.encode; vectors are read from the store where it has them."""
        fingerprint = self.fingerprint
        rows: dict[str, int] = {}
        places = [rows.setdefault(text, len(rows)) for text in texts]
        if not rows:
            return Encoding(np.zeros((0, 0), np.float32), np.zeros(0, np.bool_))
        missing = {embedding_key(fingerprint, text): text for text in rows}
        table = _Table(len(rows))
        for found in self._store.find_embeddings(list(missing)):
            table.put([rows[missing.pop(key)] for key in found.keys], found.vectors, found.is_truncated)
        if missing:
            keys = sorted(missing, key=missing.__getitem__)
            fresh = self._encode(keys, [missing[key] for key in keys])
            table.put([rows[missing[key]] for key in keys], fresh.vectors, fresh.is_truncated)
        if len(rows) == len(texts):
            return Encoding(table.vectors, table.is_truncated)
        return Encoding(table.vectors[places], table.is_truncated[places])

    def _encode(self, keys: Sequence[str], texts: Sequence[str]) -> Encoding:
        """Texts that the store does not have yet; kept under these keys before this returns."""
        fresh = self._encoder.encode(texts)
        self._store.put_embeddings(
            StoredEmbedding(key, vector, bool(is_truncated))
            for key, vector, is_truncated in zip(keys, fresh.vectors, fresh.is_truncated, strict=True)
        )
        return fresh


class _Table:
    """Embeddings by row, in one array: an array for each would take twice the memory."""

    def __init__(self, rows: int) -> None:
        self.vectors: Float32Array = np.zeros((0, 0), np.float32)
        self.is_truncated: BoolArray = np.zeros(rows, np.bool_)

    def put(self, rows: Sequence[int], vectors: Float32Array, is_truncated: BoolArray) -> None:
        if not self.vectors.size:
            self.vectors = np.empty((len(self.is_truncated), vectors.shape[1]), np.float32)
        self.vectors[rows] = vectors
        self.is_truncated[rows] = is_truncated


class OfflineEncoder:
    """Stands in an endpoint's place where no connection may be made: it has the fingerprint and nothing else."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self._name = name
        self.fingerprint = fingerprint

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Raises MissingAnswersError, always."""
        raise MissingAnswersError(
            f"{len(texts)} text embeddings of {self._name} are not in the store, and it is asked over the network; "
            "run once with `tlac bench` and without --offline, or try --encoder minilm"
        )


def keep_embeddings(encoder: TextEncoder, config: EncoderConfig, store: Store, is_offline: bool) -> StoredEncoder:
    """The text encoder over the store. Offline, an encoder behind an endpoint serves stored embeddings alone."""
    if is_offline and config.spec.adapter == "litellm":
        encoder = OfflineEncoder(config.name, encoder.fingerprint)
    return StoredEncoder(encoder, store)
