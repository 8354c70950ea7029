from __future__ import annotations

import pytest

from tests.support.fakes import LetterEncoder
from tlac.cache.store import Store
from tlac.config.schemas import EncoderConfig, EncoderSpec
from tlac.encoders.cached import StoredEncoder, keep_embeddings
from tlac.errors import MissingAnswersError


def test_a_text_is_encoded_once_for_ever(store: Store) -> None:
    first, second = LetterEncoder(), LetterEncoder()
    texts = ["abc", "x" * 50, "abc"]
    fresh = StoredEncoder(first, store).encode(texts)
    stored = StoredEncoder(second, store).encode(list(reversed(texts)))
    assert sorted(first.encoded) == ["abc", "x" * 50]
    assert second.encoded == []
    assert fresh.vectors.tobytes() == stored.vectors[::-1].tobytes()
    assert stored.is_truncated.tolist() == [False, True, False]


def test_another_encoder_does_not_get_these_vectors(store: Store) -> None:
    StoredEncoder(LetterEncoder(), store).encode(["abc"])
    other = LetterEncoder()
    other.fingerprint = "other letters"
    StoredEncoder(other, store).encode(["abc"])
    assert other.encoded == ["abc"]


def test_no_texts_are_no_rows(store: Store) -> None:
    encoding = StoredEncoder(LetterEncoder(), store).encode([])
    assert (len(encoding.vectors), len(encoding.is_truncated)) == (0, 0)


def test_offline_an_endpoint_serves_what_is_stored_and_is_not_asked(store: Store) -> None:
    config = EncoderConfig("remote", "remote", EncoderSpec(adapter="litellm", model="m"), is_offline=True)
    StoredEncoder(LetterEncoder(), store).encode(["abc"])
    asked = LetterEncoder()
    offline = keep_embeddings(asked, config, store)
    assert len(offline.encode(["abc"]).vectors) == 1
    with pytest.raises(MissingAnswersError, match="1 text embeddings of remote are not in the store"):
        offline.encode(["abc", "new"])
    assert asked.encoded == []
