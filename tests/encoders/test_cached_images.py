from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.support.fakes import LetterEncoder, make_png
from tests.support.mean_encoder import SAMPLES, MeanEncoder
from tlac.cache.store import Store
from tlac.encoders.cached import ImageVectors
from tlac.errors import MissingAnswersError
from tlac.images import identify
from tlac.types import LMMResponse, Outcome, Sample, Transcript, Turn


def transcripts(outcome: Outcome = Outcome.ANSWERED) -> list[Transcript]:
    turn = Turn("stage1", "k", LMMResponse(outcome, "a zebra"))
    return [Transcript(one.id, identify(one.source, one.id).sha256, one.label, turn) for one in SAMPLES]


def test_what_the_store_lacks_is_made_once_from_the_samples(store: Store) -> None:
    encoder = MeanEncoder(LetterEncoder())
    fresh, _ = ImageVectors(encoder, store).find(transcripts(), SAMPLES)
    stored, _ = ImageVectors(encoder, store, is_offline=True).find(transcripts())
    assert encoder.seen == len(fresh) == len(SAMPLES)
    for sha256, vector in fresh.items():
        np.testing.assert_array_equal(vector, stored[sha256])


def test_an_image_without_an_answer_is_not_encoded(store: Store) -> None:
    encoder = MeanEncoder(LetterEncoder())
    found, _ = ImageVectors(encoder, store).find(transcripts(Outcome.REFUSED), SAMPLES)
    assert found == {}
    assert encoder.seen == 0


def test_what_is_neither_stored_nor_given_is_named(store: Store) -> None:
    vectors = ImageVectors(MeanEncoder(LetterEncoder()), store)
    vectors.find(transcripts()[:2], SAMPLES)
    with pytest.raises(MissingAnswersError, match=r"3 of 5 images, 2\.png first, .*`tlac bench`"):
        vectors.find(transcripts())


def test_an_image_that_can_no_more_be_read_fails_alone(store: Store) -> None:
    broken = Sample("broken.png", make_png(9)[:-60], 0)
    buffer = [
        *transcripts(),
        replace(transcripts()[0], sample="broken.png", image_sha256=identify(broken.source, "").sha256),
    ]
    found, failed = ImageVectors(MeanEncoder(LetterEncoder()), store).find(buffer, [*SAMPLES, broken])
    marked = list(failed)
    assert [one.failure is None for one in marked] == [True] * 5 + [False]
    assert "broken.png" in marked[-1].reason
    assert len(found) == 5


def test_large_images_are_encoded_in_smaller_batches_with_the_same_vectors(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, _ = ImageVectors(MeanEncoder(LetterEncoder()), store).find(transcripts(), SAMPLES)
    sizes: list[int] = []
    encode = MeanEncoder.encode
    monkeypatch.setattr(
        MeanEncoder, "encode", lambda self, images: (sizes.append(len(images)), encode(self, images))[1]
    )
    monkeypatch.setattr("tlac.encoders.cached._MAX_PIXELS", 100)
    with Store(tmp_path / "other") as other:
        apart, _ = ImageVectors(MeanEncoder(LetterEncoder()), other).find(transcripts(), SAMPLES)
    assert (max(sizes), sum(sizes)) == (2, len(SAMPLES))
    assert all((apart[sha256] == vector).all() for sha256, vector in together.items())
