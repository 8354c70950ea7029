"""A text encoder that keeps every embedding in the store and encodes only what is not there yet.

The order and number of texts in a call change no vector.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace

from tlac.cache.serialization import StoredEmbedding
from tlac.cache.store import Store
from tlac.encoders.batching import encode_distinct
from tlac.errors import InputError, MissingAnswersError
from tlac.hashing import embedding_key, embedding_keys
from tlac.images import identify, open_image
from tlac.interfaces import ImageEncoder, TextEncoder
from tlac.types import BoolArray, Encoding, Float32Array, Image, Outcome, Sample, Transcript


class EmbeddingStore(Protocol):
    """What keeps embeddings: a `Store`, or who speaks for one."""

    def load_embeddings(self, keys: Sequence[str], encoder: str) -> tuple[Encoding, BoolArray]:
        """See `Store.load_embeddings`."""
        ...

    def put_embeddings(self, items: Iterable[StoredEmbedding]) -> object:
        """See `Store.put_embeddings`."""
        ...


class StoredEncoder:
    """Wraps a TextEncoder; is one."""

    def __init__(self, encoder: TextEncoder, store: EmbeddingStore) -> None:
        self._encoder = encoder
        self._store = store
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """The wrapped encoder's."""
        return self._encoder.fingerprint

    def encode(self, texts: Sequence[str]) -> Encoding:
        """As TextEncoder.encode; vectors are read from the store where it has them."""
        return encode_distinct(texts, self._find)

    def _find(self, texts: list[str]) -> Encoding:
        """The vectors of distinct texts; those that had to be made are in the store before this returns."""
        keys = embedding_keys(self.fingerprint, texts)
        found, is_there = self._store.load_embeddings(keys, self.fingerprint)
        missing = sorted(np.flatnonzero(~is_there).tolist(), key=texts.__getitem__)
        if not missing:
            return found
        # class names are encoded while the first answers come in: a model is loaded once
        with self._lock:
            fresh = self._encoder.encode([texts[row] for row in missing])
        self._store.put_embeddings(
            StoredEmbedding(keys[row], vector, bool(is_truncated))
            for row, vector, is_truncated in zip(missing, fresh.vectors, fresh.is_truncated, strict=True)
        )
        vectors = found.vectors if found.vectors.size else np.zeros((len(texts), fresh.vectors.shape[1]), np.float32)
        vectors[missing], found.is_truncated[missing] = fresh.vectors, fresh.is_truncated
        return Encoding(vectors, found.is_truncated)


BATCH = 32
# decoded images of a batch that are held at once: 32 of the largest would take 11 GB
_MAX_PIXELS = 2**26


@dataclass(frozen=True, slots=True)
class SeenImage:
    """A sample, its image if that could be read, and the image's vector (d,), or why there is none."""

    sample: Sample
    image: Image | None = None
    vector: Float32Array | None = None
    complaint: str = ""


class ImageVectors:
    """The vectors that one encoder gives to images; what is not in the store yet is encoded and put there."""

    def __init__(self, encoder: ImageEncoder, store: Store, is_offline: bool = False) -> None:
        self._encoder = encoder
        self._store = store
        self._is_offline = is_offline

    def find(
        self, transcripts: Iterable[Transcript], samples: Iterable[Sample] = ()
    ) -> tuple[Mapping[str, Float32Array], Iterator[Transcript]]:
        """The vectors (d,) of all images that have an answer, by the sha256 of the image, and the transcripts, failed
        where the image can't be read; what the store lacks is made from `samples`.

        Raises MissingAnswersError for what is in neither, and as `look` does.
        """
        wanted: dict[str, str] = {}
        for transcript in transcripts:
            if transcript.image_sha256 is not None and _has_answer(transcript):
                wanted.setdefault(transcript.image_sha256, transcript.sample)
        _, vectors = self._load(wanted)
        lacking = {sample for sha256, sample in wanted.items() if sha256 not in vectors}
        complaints: dict[str, str] = {}
        pending = (sample for sample in samples if sample.id in lacking)
        while batch := list(islice(pending, BATCH)):
            for seen in self.look(batch):
                if seen.image is not None and seen.vector is not None:
                    vectors[seen.image.sha256] = seen.vector
                elif seen.image is not None:
                    complaints[seen.image.sha256] = seen.complaint
        missing = [sample for sha256, sample in wanted.items() if sha256 not in vectors and sha256 not in complaints]
        if missing:
            raise MissingAnswersError(
                f"{len(missing)} of {len(wanted)} images, {missing[0]} first, have no vector of this encoder in the "
                "store: `tlac bench` with the same method, encoder and dataset makes them"
            )
        return vectors, (_failed(transcript, complaints) for transcript in transcripts)

    def look(self, samples: Sequence[Sample]) -> Iterator[SeenImage]:
        """The samples with their images' vectors, in their order.

        Raises EncoderUnavailableError, and MissingAnswersError offline for an image that was never encoded.
        """
        found = [_identify(sample) for sample in samples]
        keys, vectors = self._load(seen.image.sha256 for seen in found if seen.image is not None)
        complaints: dict[str, str] = {}
        opened: dict[str, Any] = {}
        for seen in found:
            if seen.image is None or seen.image.sha256 in vectors or seen.image.sha256 in opened:
                continue
            if self._is_offline:
                raise MissingAnswersError(
                    f"{seen.sample.id}: its image vector is not in the store; without --offline it would be made"
                )
            try:
                opened[seen.image.sha256] = open_image(seen.sample.source, seen.sample.source_name)
            except InputError as error:
                complaints[seen.image.sha256] = str(error)
            if sum(picture.width * picture.height for picture in opened.values()) > _MAX_PIXELS:
                vectors.update(self._encode(opened, keys))
                opened = {}
        vectors.update(self._encode(opened, keys))
        for seen in found:
            sha256 = seen.image.sha256 if seen.image else ""
            yield SeenImage(seen.sample, seen.image, vectors.get(sha256), complaints.get(sha256, seen.complaint))

    def _load(self, images: Iterable[str]) -> tuple[dict[str, str], dict[str, Float32Array]]:
        """The keys of images, and the vectors that the store has of them, each by the image's sha256."""
        keys = {sha256: embedding_key(self._encoder.fingerprint, sha256) for sha256 in images}
        known = self._store.get_embeddings(list(keys.values()))
        return keys, {sha256: known[key].vector for sha256, key in keys.items() if key in known}

    def _encode(self, opened: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Float32Array]:
        """The vectors of decoded images by sha256; kept in the store before this returns."""
        if not opened:
            return {}
        fresh = dict(zip(opened, self._encoder.encode(list(opened.values())), strict=True))
        self._store.put_embeddings(StoredEmbedding(keys[sha256], row, False) for sha256, row in fresh.items())
        return fresh


def _failed(transcript: Transcript, complaints: Mapping[str, str]) -> Transcript:
    complaint = complaints.get(transcript.image_sha256 or "")
    if complaint is None or transcript.failure is not None:
        return transcript
    return replace(transcript, failure="sample", reason=complaint)


def _has_answer(transcript: Transcript) -> bool:
    return any(turn.response.outcome is Outcome.ANSWERED for turn in transcript.turns)


def _identify(sample: Sample) -> SeenImage:
    try:
        return SeenImage(sample, identify(sample.source, sample.source_name))
    except InputError as error:
        return SeenImage(sample, complaint=str(error))
