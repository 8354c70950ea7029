from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import huggingface_hub
import pytest
from huggingface_hub import constants

from tlac.config.schemas import EncoderConfig, EncoderSpec, check_options
from tlac.encoders.weights import (
    check_sha256,
    file_sha256,
    folder_sha256,
    load_from_disk,
    load_from_hub,
    quiet,
    short_reason,
)
from tlac.errors import ConfigError, EncoderUnavailableError

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def config(**spec):
    return EncoderConfig("mine", "mine.yaml", EncoderSpec(adapter="any", model="m", **spec))


@pytest.fixture
def unreachable_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    huggingface_hub.close_session()


@pytest.mark.usefixtures("unreachable_hub")
def test_weights_on_this_machine_are_loaded_without_asking_the_hub():
    assert load_from_hub(config(), "the weights", lambda: constants.HF_HUB_OFFLINE) is True
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("unreachable_hub")
def test_an_unreachable_hub_is_one_line_with_what_was_wanted_and_another_encoder():
    def load():
        raise OSError("a long story\nabout the network")

    with pytest.raises(EncoderUnavailableError) as caught:
        load_from_hub(config(), "the weights 'openai' of ViT-B-16", load)
    text = str(caught.value)
    assert "'mine'" in text
    assert "the weights 'openai' of ViT-B-16" in text
    assert "http://127.0.0.1:9 can't be reached" in text
    assert "--encoder minilm" in text
    assert "\n" not in text


def test_the_hub_is_left_alone_where_its_own_switch_says_offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderUnavailableError, match="HF_HUB_OFFLINE is set"):
        load_from_hub(config(), "x", lambda: (_ for _ in ()).throw(OSError("missing")))


def test_a_broken_file_is_one_line_with_its_name():
    with pytest.raises(EncoderUnavailableError, match=r"wants /w\.pt, which can't be loaded: bad magic number"):
        load_from_disk(config(), "/w.pt", lambda: (_ for _ in ()).throw(RuntimeError("bad\n  magic number")))


def test_libraries_are_silent_while_loading_and_as_before_afterwards(capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    with quiet():
        logging.info("would install a handler")
        logger.warning("retrying")
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
    assert capfd.readouterr().err == ""
    assert logging.getLogger().handlers == []
    assert logger.level == level
    with pytest.warns(FutureWarning):
        warnings.warn("deprecated", FutureWarning, stacklevel=1)


def test_unknown_options_name_file_key_and_what_is_known():
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'quickgelu' in 'options': known: quick_gelu"):
        check_options(config(options={"quickgelu": True}), {"quick_gelu": bool})


def test_an_option_of_another_type_is_refused():
    with pytest.raises(ConfigError, match="'quick_gelu' must be of type bool, not 'yes'"):
        check_options(config(options={"quick_gelu": "yes"}), {"quick_gelu": bool})


def test_weights_with_another_digest_are_refused(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"abc")
    check_sha256(config(weights_sha256=SHA256_OF_ABC), path)
    path.write_bytes(b"abd")
    with pytest.raises(
        EncoderUnavailableError, match=rf"w\.bin, which has sha256 \w+, not the {SHA256_OF_ABC} of mine\.yaml"
    ):
        check_sha256(config(weights_sha256=SHA256_OF_ABC), path)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(EncoderUnavailableError, match=r"gone\.pt, which can't be read \(No such file"):
        file_sha256(config(), tmp_path / "gone.pt")


def test_a_folders_digest_depends_on_its_model_files_and_not_on_its_place_or_readme(tmp_path):
    digests = []
    for name, weights, readme in (("a", b"1", "x"), ("b", b"1", "y"), ("c", b"2", "x")):
        folder = tmp_path / name
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "1_Pooling" / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "README.md").write_text(readme)
        digests.append(folder_sha256(config(), folder))
    assert digests[0] == digests[1] != digests[2]


def test_an_error_is_told_on_one_line_of_bounded_length():
    assert short_reason(ValueError("a\n  b")) == "a b"
    assert short_reason(KeyError()) == "KeyError"
    assert len(short_reason(ValueError("x" * 999))) == 200


def test_the_module_loads_no_model_library():
    code = "import sys, tlac.encoders.weights as _; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
