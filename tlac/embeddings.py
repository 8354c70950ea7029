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
from tlac.types import Encoding


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
        keys = {text: embedding_key(self.fingerprint, text) for text in texts}
        known = self._store.get_embeddings(list(keys.values()))
        missing = sorted(text for text, key in keys.items() if key not in known)
        if missing:
            fresh = self._encoder.encode(missing)
            rows = [
                StoredEmbedding(keys[text], vector, bool(is_truncated))
                for text, vector, is_truncated in zip(missing, fresh.vectors, fresh.is_truncated, strict=True)
            ]
            self._store.put_embeddings(rows)
            known = {**known, **{row.key: (row.vector, row.is_truncated) for row in rows}}
        found = [known[keys[text]] for text in texts]
        if not found:
            return Encoding(np.zeros((0, 0), np.float32), np.zeros(0, np.bool_))
        return Encoding(
            np.stack([vector for vector, _ in found]), np.array([is_truncated for _, is_truncated in found])
        )


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
