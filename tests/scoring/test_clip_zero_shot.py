from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.fakes import LetterEncoder, make_png
from tests.support.mean_encoder import SAMPLES, MeanEncoder
from tlac.cache.store import Store
from tlac.encoders.cached import ImageVectors
from tlac.errors import MissingAnswersError
from tlac.scoring.clip_zero_shot import ImageScorer
from tlac.types import Outcome, Sample, Transcript

CLASSES = ("zebra", "crab_apple", "owl")


def shown(sample: Sample) -> int:
    import io

    import PIL.Image

    return PIL.Image.open(io.BytesIO(sample.source)).getpixel((0, 0))[0] % 3


def score(store: Store, samples=SAMPLES, templates=("{}",), encoder=None, **options):
    texts = LetterEncoder()
    told: list[Transcript] = []
    scorer = ImageScorer(texts, ImageVectors(encoder or MeanEncoder(texts), store, **options), CLASSES, templates)
    return scorer.score(samples, told.append), told


def test_the_class_with_the_nearest_vector_wins(store: Store) -> None:
    scored, told = score(store)
    assert [prediction.predicted for prediction in scored.predictions] == [shown(sample) for sample in SAMPLES]
    first = scored.predictions[0]
    assert (first.sample, first.label, first.decided_by, first.score) == ("0.png", 0, "similarity", 1.0)
    assert first.margin == pytest.approx(1.0 - first.top5[1][1])
    assert first.answer is None
    assert [transcript.sample for transcript in told] == [sample.id for sample in SAMPLES]


def test_templates_are_averaged_as_vectors_of_length_one(store: Store) -> None:
    scored, _ = score(store, templates=("{}", "a photo of a {}"))
    texts = LetterEncoder()
    means = sum(
        texts.encode([template.format(name.replace("_", " ")) for name in CLASSES]).vectors.astype(np.float64)
        for template in ("{}", "a photo of a {}")
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    own = texts.encode(["zebra", "crab apple", "owl"]).vectors
    for prediction, sample in zip(scored.predictions, SAMPLES, strict=True):
        expected = own[shown(sample)].astype(np.float64) @ means.T
        assert prediction.predicted == int(expected.argmax())
        assert prediction.score == pytest.approx(float(expected.max()), abs=1e-6)


def test_an_image_is_encoded_once_for_ever_and_needs_no_encoder_offline(store: Store) -> None:
    texts = LetterEncoder()
    encoder = MeanEncoder(texts)
    fresh, _ = score(store, samples=[*SAMPLES, Sample("copy.png", make_png(0), 0)], encoder=encoder)
    assert encoder.seen == 5
    stored, _ = score(store, encoder=encoder, is_offline=True)
    assert encoder.seen == 5
    assert stored.predictions == fresh.predictions[:5]


def test_offline_an_image_that_was_never_encoded_is_named(store: Store) -> None:
    with pytest.raises(MissingAnswersError, match=r"0\.png: its image vector is not in the store"):
        score(store, is_offline=True)


def test_an_image_that_cannot_be_read_fails_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    bad = [Sample("broken.png", tmp_path / "broken.png", 1), Sample("gone.png", tmp_path / "gone.png", 1)]
    scored, told = score(store, samples=[SAMPLES[0], *bad, SAMPLES[1]])
    assert [prediction.outcome for prediction in scored.predictions] == [
        Outcome.ANSWERED, Outcome.FAILED, Outcome.FAILED, Outcome.ANSWERED,
    ]  # fmt: skip
    assert "broken.png: not an image" in scored.predictions[1].reason
    assert scored.predictions[1].predicted is None
    assert [transcript.failure is None for transcript in told] == [True, False, False, True]
