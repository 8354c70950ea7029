"""Encoders on a GPU, held to themselves on the CPU. Without one, these tests skip."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch

from benchmarks.perf.gpu import make_bert
from tests.support.clip_models import MODELS
from tests.support.fakes import make_png
from tlac.config.schemas import EncoderConfig, EncoderSpec
from tlac.encoders import devices, sentence_transformers
from tlac.encoders.open_clip import OpenClipEncoder, OpenClipImageEncoder
from tlac.encoders.sentence_transformers import SentenceEncoder

pytestmark = pytest.mark.skipif(devices.pick_device() == "cpu", reason="torch finds no GPU")

TEXTS = [*(f"a photo of {adjective} things {'and others ' * n}" for n in range(9) for adjective in ("red", "old"))]
IMAGES = [PIL.Image.open(io.BytesIO(make_png(seed, side=48))) for seed in range(40)]
Make = Callable[..., OpenClipEncoder | SentenceEncoder]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "tlac-tiny.json").write_text(json.dumps(MODELS["tlac-tiny"]))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tlac-tiny").state_dict(), folder / "tlac-tiny.pt")
    make_bert(folder / "bert", TEXTS)
    yield folder
    torch.cuda.empty_cache()


@pytest.fixture
def clip(folder: Path) -> Make:
    def make(**options: str) -> OpenClipEncoder:
        return OpenClipEncoder(config(folder, **options))

    return make


@pytest.fixture
def bert(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(sentence_transformers, "_GPU_FROM", 1)

    def make(**options: str) -> SentenceEncoder:
        spec = EncoderSpec(adapter="sentence_transformers", model=str(folder / "bert"), options=options)
        return SentenceEncoder(EncoderConfig("mine", "mine.yaml", spec))

    return make


@pytest.fixture(params=["clip", "bert"])
def make(request: pytest.FixtureRequest) -> Make:
    found: Make = request.getfixturevalue(request.param)
    return found


def config(folder: Path, **options: str) -> EncoderConfig:
    spec = EncoderSpec(
        adapter="open_clip", model="tlac-tiny", weights=str(folder / "tlac-tiny.pt"), options=dict(options)
    )
    return EncoderConfig("tiny", "tiny.yaml", spec)


def on_cpu(monkeypatch: pytest.MonkeyPatch, encoder: OpenClipEncoder | SentenceEncoder) -> np.ndarray:
    with monkeypatch.context() as patch:
        patch.setattr(devices, "pick_device", lambda: "cpu")
        return encoder.encode(TEXTS).vectors


def test_texts_have_the_cpus_vectors_but_for_their_last_digits(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = make().encode(TEXTS).vectors
    np.testing.assert_allclose(vectors, on_cpu(monkeypatch, make()), rtol=0, atol=1e-5)


def test_they_are_calculated_there(make: Make) -> None:
    encoder = make()
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    encoder.encode(TEXTS)
    assert not torch.cuda.is_available() or torch.cuda.memory_allocated() > before


def test_a_rows_bits_depend_on_its_text_alone(make: Make) -> None:
    encoder = make()
    together = encoder.encode(TEXTS).vectors
    alone = np.concatenate([encoder.encode([text]).vectors for text in TEXTS])
    backwards = encoder.encode(TEXTS[::-1]).vectors[::-1]
    assert together.tobytes() == alone.tobytes() == backwards.tobytes()


def test_bfloat16_moves_no_cosine_by_two_hundredths(make: Make) -> None:
    exact, rough = (make(**options).encode(TEXTS).vectors for options in ({}, {"dtype": "bfloat16"}))
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough @ rough.T, exact @ exact.T, rtol=0, atol=0.02)
    assert not np.array_equal(rough, exact)


def test_images_have_the_cpus_vectors_and_bits_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = OpenClipImageEncoder(config(folder))
    together = encoder.encode(IMAGES)
    alone = np.concatenate([encoder.encode([image]) for image in IMAGES[:5]])
    assert together[:5].tobytes() == alone.tobytes()
    with monkeypatch.context() as patch:
        patch.setattr(devices, "pick_device", lambda: "cpu")
        np.testing.assert_allclose(together, OpenClipImageEncoder(config(folder)).encode(IMAGES), rtol=0, atol=1e-5)
