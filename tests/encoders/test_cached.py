from __future__ import annotations

from tests.support.fakes import LetterEncoder
from tlac.cache.store import Store
from tlac.encoders.cached import StoredEncoder


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
