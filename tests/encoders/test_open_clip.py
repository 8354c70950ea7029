from __future__ import annotations

import hashlib
import json

import numpy as np
import open_clip
import pytest
import torch

from tests.support.clip_models import MODELS
from tlac.config.schemas import EncoderConfig, EncoderSpec
from tlac.encoders.open_clip import OpenClipEncoder
from tlac.errors import ConfigError, EncoderUnavailableError

TEXTS = [
    "a photo of a cat",
    "",
    "a photo of a very old, slightly rusty pick-up truck",
    "a photo of a dog",
    "it says <end_of_text> in the text",
    "word " * 100,
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folder of the tiny models' weights; open_clip learns their names as it would a user's own."""
    folder = tmp_path_factory.mktemp("open_clip")
    for name, model_config in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(model_config))
    open_clip.add_model_config(folder)
    for seed, name in enumerate(MODELS):
        torch.manual_seed(seed)
        torch.save(open_clip.create_model(name).state_dict(), folder / f"{name}.pt")
    return folder


def encoder(path, model="tlac-tiny", **options):
    spec = EncoderSpec(adapter="open_clip", model=model, weights=str(path), options=options)
    return OpenClipEncoder(EncoderConfig("tiny", "tiny.yaml", spec))


def padded(path, model, **kwargs):
    """What open_clip itself gives for TEXTS, padded to the whole window."""
    loaded = open_clip.create_model(model, pretrained=str(path), **kwargs).eval()
    with torch.inference_mode():
        return loaded.encode_text(open_clip.get_tokenizer(model)(TEXTS), normalize=True).numpy()


@pytest.mark.parametrize("model", MODELS)
def test_cut_texts_have_the_vectors_of_texts_padded_to_the_window(weights, model):
    path = weights / f"{model}.pt"
    vectors = encoder(path, model).encode(TEXTS).vectors
    assert vectors.shape == (len(TEXTS), 24)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, padded(path, model), rtol=0, atol=1e-6)


def test_rows_have_length_one(weights):
    vectors = encoder(weights / "tlac-tiny.pt").encode(TEXTS).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_a_rows_bits_depend_on_its_text_alone(weights):
    tiny = encoder(weights / "tlac-tiny.pt")
    together = tiny.encode(TEXTS).vectors
    alone = np.concatenate([tiny.encode([text]).vectors for text in TEXTS])
    backwards = tiny.encode(TEXTS[::-1]).vectors[::-1]
    assert together.tobytes() == alone.tobytes() == backwards.tobytes()


def test_texts_past_the_window_of_77_tokens_are_marked(weights):
    # the start and end tokens take two of the 77
    encoding = encoder(weights / "tlac-tiny.pt").encode(["cat " * 75, "cat " * 76, "cat"])
    assert encoding.is_truncated.tolist() == [False, True, False]


def test_no_texts_give_no_rows(weights):
    encoding = encoder(weights / "tlac-tiny.pt").encode([])
    assert encoding.vectors.shape == (0, 0)
    assert encoding.is_truncated.shape == (0,)


def test_a_local_file_is_run_with_the_activation_it_is_said_to_want(weights):
    path = weights / "tlac-tiny.pt"
    plain, quick = encoder(path), encoder(path, quick_gelu=True)
    np.testing.assert_allclose(quick.encode(TEXTS).vectors, padded(path, "tlac-tiny", force_quick_gelu=True), atol=1e-6)
    assert np.abs(quick.encode(TEXTS).vectors - plain.encode(TEXTS).vectors).max() > 1e-4
    assert quick.fingerprint != plain.fingerprint


@pytest.mark.parametrize(("tag", "has_quick_gelu"), [("openai", True), ("laion2b_s34b_b88k", False)])
def test_a_tag_brings_its_own_activation(weights, monkeypatch, tag, has_quick_gelu):
    # the tag's file is one that was "fetched" before
    pretrained = {**open_clip.get_pretrained_cfg("ViT-B-16", tag), "file": str(weights / "tlac-tiny.pt")}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, name: {tag: pretrained}[name])
    vectors = encoder(tag).encode(TEXTS).vectors
    expected = padded(weights / "tlac-tiny.pt", "tlac-tiny", force_quick_gelu=has_quick_gelu)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_an_archive_as_openai_published_them_is_run_with_quick_gelu(weights, monkeypatch):
    model = open_clip.create_model("tlac-tiny", pretrained=str(weights / "tlac-tiny.pt"), force_quick_gelu=True).eval()
    del model.attn_mask
    model.attn_mask = None
    archive = weights / "ViT-tiny.pt"
    torch.jit.script(model).save(str(archive))
    quick = padded(weights / "tlac-tiny.pt", "tlac-tiny", force_quick_gelu=True)
    plain = padded(weights / "tlac-tiny.pt", "tlac-tiny")
    published = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr("open_clip.get_pretrained_url", lambda *_: f"https://example.org/{published}/ViT-tiny.pt")
    vectors = encoder(archive).encode(TEXTS).vectors
    # the published archives hold half precision, and open_clip rounds to it
    assert np.abs(vectors - quick).max() < 0.5 * np.abs(vectors - plain).max()


@pytest.mark.parametrize(
    "text",
    ["a grey cat, naïve " * 300, "a_grey_cat" * 300, "x" * 2000, " " * 3000 + "cat", "犬" * 2000, "&amp;" * 900],
)
def test_a_text_far_beyond_the_window_has_the_row_that_it_would_have_uncut(weights, text, monkeypatch):
    cut = encoder(weights / "tlac-tiny.pt").encode([text, "a cat"])
    monkeypatch.setattr("tlac.encoders.batching.cut_to_window", lambda text, *_: text)
    whole = encoder(weights / "tlac-tiny.pt").encode([text, "a cat"])
    assert cut.vectors.tobytes() == whole.vectors.tobytes()
    assert cut.is_truncated.tolist() == whole.is_truncated.tolist()


def test_the_image_tower_is_not_kept(weights):
    model, _ = encoder(weights / "tlac-tiny.pt")._loaded
    assert not any(name.startswith("visual") for name in model.state_dict())


def test_the_fingerprint_is_the_tag_or_the_files_digest(weights, tmp_path):
    moved = tmp_path / "moved.pt"
    moved.write_bytes((weights / "tlac-tiny.pt").read_bytes())
    assert encoder("openai", "ViT-B-16").fingerprint == "open_clip:ViT-B-16:openai"
    assert encoder(moved).fingerprint == encoder(weights / "tlac-tiny.pt").fingerprint
    assert encoder(moved).fingerprint != encoder(weights / "tlac-tiny-eos.pt").fingerprint


@pytest.mark.parametrize(
    ("model", "path", "said"),
    [
        ("ViT-B-17", "openai", "wants the model 'ViT-B-17', which open_clip does not know: did you mean 'ViT-B-16'"),
        (
            "ViT-B-16",
            "openay",
            "wants the weights 'openay' of ViT-B-16, which open_clip does not know: did you mean 'openai'",
        ),
        ("ViT-B-16", "/no/such/file.pt", "wants /no/such/file.pt, which can't be loaded: no such file"),
    ],
)
def test_weights_that_cant_be_had_are_one_line_with_their_name_and_another_encoder(model, path, said):
    with pytest.raises(EncoderUnavailableError) as caught:
        encoder(path, model).encode(["a"])
    assert said in str(caught.value)
    assert "--encoder minilm" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(EncoderUnavailableError, match=r"broken\.pt, which can't be loaded"):
        encoder(path, "ViT-S-32").encode(["a"])


def test_weights_of_another_architecture_are_named(weights):
    with pytest.raises(EncoderUnavailableError, match=r"tlac-tiny\.pt, which can't be loaded: Error\(s\) in loading"):
        encoder(weights / "tlac-tiny.pt", "tlac-tiny-eos").encode(["a"])


def test_a_description_without_weights_is_refused():
    spec = EncoderSpec(adapter="open_clip", model="ViT-B-16")
    with pytest.raises(ConfigError, match=r"mine\.yaml: 'weights' is missing"):
        OpenClipEncoder(EncoderConfig("mine", "mine.yaml", spec))


def test_a_tag_with_an_activation_of_ones_own_is_refused():
    with pytest.raises(ConfigError, match="the tag knows its own"):
        encoder("openai", "ViT-B-16", quick_gelu=False)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_moves_no_cosine_by_two_hundredths_and_has_a_fingerprint_of_its_own(weights, model):
    exact, rough = (encoder(weights / f"{model}.pt", model, **options) for options in ({}, {"dtype": "bfloat16"}))
    assert exact.fingerprint != rough.fingerprint
    ours, theirs = (one.encode(TEXTS).vectors for one in (exact, rough))
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(theirs @ theirs.T, ours @ ours.T, rtol=0, atol=0.02)
    assert not np.array_equal(theirs, ours)


def test_an_unknown_type_of_numbers_is_refused(weights):
    with pytest.raises(ConfigError, match="option 'dtype' is 'float16'; known: float32, bfloat16"):
        encoder(weights / "tlac-tiny.pt", dtype="float16")
