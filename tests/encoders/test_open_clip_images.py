from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch

from tests.support.clip_models import MODELS
from tests.support.fakes import make_png
from tlac.config.registry import open_image_encoder
from tlac.config.schemas import EncoderConfig, EncoderSpec
from tlac.encoders.open_clip import OpenClipEncoder, OpenClipImageEncoder
from tlac.errors import EncoderUnavailableError, UsageError

IMAGES = [PIL.Image.open(io.BytesIO(make_png(seed, side=48))) for seed in range(5)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "tlac-tiny.json").write_text(json.dumps(MODELS["tlac-tiny"]))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tlac-tiny").state_dict(), folder / "tlac-tiny.pt")
    return folder / "tlac-tiny.pt"


def config(weights: Path) -> EncoderConfig:
    return EncoderConfig("tiny", "tiny.yaml", EncoderSpec(adapter="open_clip", model="tlac-tiny", weights=str(weights)))


def test_vectors_are_those_of_open_clip_itself(weights: Path) -> None:
    model, _, prepare = open_clip.create_model_and_transforms("tlac-tiny", pretrained=str(weights))
    with torch.inference_mode():
        expected = model.eval().encode_image(torch.stack([prepare(image) for image in IMAGES]), normalize=True).numpy()
    vectors = OpenClipImageEncoder(config(weights)).encode(IMAGES)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_a_rows_bits_depend_on_its_image_alone(weights: Path) -> None:
    encoder = OpenClipImageEncoder(config(weights))
    together = encoder.encode(IMAGES)
    assert together.tobytes() == np.concatenate([encoder.encode([image]) for image in IMAGES]).tobytes()
    assert encoder.encode([]).shape == (0, 0)


def test_images_and_texts_share_a_space_and_not_a_fingerprint(weights: Path) -> None:
    images, texts = OpenClipImageEncoder(config(weights)), OpenClipEncoder(config(weights))
    assert images.encode(IMAGES[:1]).shape == texts.encode(["a"]).vectors.shape
    assert images.fingerprint != texts.fingerprint


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    spec = EncoderSpec(adapter="open_clip", model="ViT-S-32", weights=str(tmp_path / "gone.pt"))
    with pytest.raises(EncoderUnavailableError, match=r"gone\.pt, which can't be loaded"):
        OpenClipImageEncoder(EncoderConfig("x", "x.yaml", spec)).encode(IMAGES)


def test_an_encoder_of_texts_alone_is_refused_with_one_that_works() -> None:
    spec = EncoderSpec(adapter="sentence_transformers", model="m")
    with pytest.raises(UsageError, match=r"'minilm' encodes texts alone.*--encoder clip-vit-b-16"):
        open_image_encoder(EncoderConfig("minilm", "minilm.yaml", spec))
