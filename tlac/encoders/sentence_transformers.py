"""Text encoders of the sentence-transformers library: from a folder, a Python package, or the Hugging Face hub.

Tokens, pooling and prompts are the library's; the batches are ours, since its own pad each text to its longest
neighbour and so move the last bits of a row.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tlac.config.schemas import EncoderConfig, check_options
from tlac.encoders import devices
from tlac.encoders.batching import Batch, encode_distinct, fit_window, run_batches
from tlac.encoders.bert import BertModel, open_plain
from tlac.encoders.devices import check_dtype, place
from tlac.encoders.weights import (
    check_sha256,
    describe,
    folder_sha256,
    is_path_like,
    load_from_disk,
    load_from_hub,
    unavailable,
)
from tlac.errors import ConfigError, EncoderUnavailableError
from tlac.runtime.safe_files import read_json
from tlac.types import Encoding, Float32Array

_PACKAGE = "package:"
_TOKENISED_AT_ONCE = 1024

# so many texts are worth the seconds in which the library is imported, where there is a GPU for it
_GPU_FROM = 10_000


class SentenceEncoder:
    """A sentence-transformers model, float32 unless the option `dtype` says bfloat16, on a GPU where there is one (a
    small BERT for 10,000 texts and more; fewer take numpy).

    `model` is a folder, a name on the hub, or package:NAME for weights that an installed package holds in its
    folder `model`. `weights_sha256` is compared with a folder's model.safetensors (or pytorch_model.bin); the
    option `revision` pins a hub name. Weights are loaded at the first encode. Raises ConfigError for options
    that are not known.
    """

    def __init__(self, config: EncoderConfig) -> None:
        check_options(config, {"revision": str, "dtype": str})
        self._is_float32 = check_dtype(config) == "float32"
        self.name = config.name
        self._config = config
        self._is_local = config.spec.model.startswith(_PACKAGE) or _is_folder(config.spec.model)
        if config.spec.weights_sha256 and not self._is_local:
            raise ConfigError(f"{config.source}: 'weights_sha256' is for folders and packages; give 'revision' instead")
        if config.spec.weights is not None:
            raise ConfigError(f"{config.source}: 'weights' has no meaning here; 'model' names the folder or hub model")

    @cached_property
    def fingerprint(self) -> str:
        """Adapter, and the name on the hub or the digest of the folder: a folder may move."""
        if not self._is_local:
            return describe(self._config, self._config.spec.model)
        pinned = self._config.spec.weights_sha256
        if pinned:
            return describe(self._config, f"weights-sha256={pinned}")
        return describe(self._config, f"folder-sha256={folder_sha256(self._config, self._folder())}")

    def encode(self, texts: Sequence[str]) -> Encoding:
        """n texts as (n, d) float32, rows of length 1; no texts give (0, 0).

        Raises EncoderUnavailableError where the model can't be had.
        """
        return encode_distinct(texts, self._encode)

    def _encode(self, texts: list[str]) -> Encoding:
        model, is_truncated = self._pick(len(texts)), np.zeros(len(texts), np.bool_)
        if model.window is not None:
            texts, is_truncated = fit_window(texts, model.window, model.count_tokens)
        return Encoding(model.embed(texts), is_truncated)

    def _pick(self, count: int) -> BertModel | _LibraryModel:
        # asked in this order: torch takes two seconds to import
        if count < _GPU_FROM or isinstance(self._model, _LibraryModel) or devices.pick_device() == "cpu":
            return self._model
        return self._on_gpu

    @cached_property
    def _on_gpu(self) -> _LibraryModel:
        folder = str(self._folder())
        return load_from_disk(self._config, folder, lambda: self._open(folder))

    @cached_property
    def _model(self) -> BertModel | _LibraryModel:
        if not self._is_local:
            name = self._config.spec.model
            return load_from_hub(self._config, f"the hub model {name!r}", lambda: self._open(name))
        folder = self._folder()
        weights = next(
            (folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), folder / _WEIGHT_FILES[0]
        )
        check_sha256(self._config, weights)
        plain = open_plain(folder) if self._is_float32 else None
        return plain or load_from_disk(self._config, str(folder), lambda: self._open(str(folder)))

    def _open(self, source: str) -> _LibraryModel:
        from sentence_transformers import SentenceTransformer

        revision = self._config.spec.options.get("revision")
        _check_modules(source, revision)
        model = SentenceTransformer(source, device="cpu", revision=revision, trust_remote_code=False)
        return _LibraryModel(place(model, self._config))

    def _folder(self) -> Path:
        if self._config.spec.model.startswith(_PACKAGE):
            return _package_folder(self._config.name, self._config.spec.model.removeprefix(_PACKAGE))
        folder = Path(self._config.spec.model).expanduser()
        if not folder.is_dir():
            raise unavailable(self._config, f"the folder {folder}", "does not exist; check the path")
        return folder


# modules that are made of tensors and numbers alone: no file of a model folder may have anything else imported
_MODULES = "BoW|CNN|Dense|Dropout|LSTM|LayerNorm|Normalize|Pooling|StaticEmbedding|Transformer|WeightedLayerPooling"
_MODULE_TYPE = re.compile(rf"sentence_transformers\.([a-z_]+\.)*({_MODULES}|WordEmbeddings|WordWeights)")
_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation\.[A-Za-z]+|linear\.Identity)")
_MAX_CONFIG_BYTES = 2**20


def _check_modules(source: str, revision: str | None) -> None:
    """Raise ValueError where a model's files name code to import that is not of a fixed list."""
    listed = _read_config(source, revision, "modules.json")
    if listed is None:
        # the library then makes a transformer with pooling
        return
    for module in listed if isinstance(listed, list) else [listed]:
        kind = module.get("type") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not _MODULE_TYPE.fullmatch(kind):
            raise ValueError(f"its modules.json names the type {kind!r}, and only known types are imported")
        if kind.endswith(".Dense"):
            settings = _read_config(source, revision, f"{module.get('path')}/config.json")
            activation = settings.get("activation_function") if isinstance(settings, dict) else None
            if activation is not None and not _ACTIVATION.fullmatch(str(activation)):
                raise ValueError(f"its Dense module names the activation {activation!r}, which is not of torch.nn")


def _read_config(source: str, revision: str | None, name: str) -> Any:
    """A JSON file of a model folder or a model on the hub, None where it has none."""
    path = Path(source) / name
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            path = Path(hf_hub_download(source, name, revision=revision))
        except EntryNotFoundError:
            return None
    return read_json(path, Any, _MAX_CONFIG_BYTES) if path.exists() else None


_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def _is_folder(model: str) -> bool:
    return is_path_like(model) or Path(model).is_dir()


def _package_folder(encoder: str, package: str) -> Path:
    """The folder `model` of an installed package, which is not imported."""
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    places = found.submodule_search_locations if found else None
    if not places:
        raise EncoderUnavailableError(
            f"encoder {encoder!r} wants the package {package!r}, which is not installed: pip install 'tlac[embedded]'"
        )
    return Path(next(iter(places))) / "model"


def _is_padded_behind(features: dict[str, Any]) -> bool:
    """Whether all tensors of (n, t) are padded behind their texts, as the attention mask shows."""
    mask = features["attention_mask"]
    return bool(mask[:, 0].all()) and all(
        value.shape == mask.shape for value in features.values() if hasattr(value, "shape")
    )


class _LibraryModel:
    """A SentenceTransformer in the form of a BertModel; its `window` is None where it sees all tokens of a text."""

    def __init__(self, model: Any) -> None:
        self._model = model
        # without a tokeniser's call it is a table of word vectors
        self.window: int | None = model.max_seq_length if callable(model.tokenizer) else None

    def count_tokens(self, text: str) -> int:
        return len(self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def embed(self, texts: Sequence[str]) -> Float32Array:
        import torch

        device = torch.device(self._model.device)
        starts = range(0, len(texts), _TOKENISED_AT_ONCE)
        blocks = [self._features(texts[start : start + _TOKENISED_AT_ONCE]) for start in starts]
        is_masked = all("attention_mask" in block for block in blocks)
        # 0 where no row sees another
        lengths = [0] * len(texts)
        if is_masked:
            lengths = [length for block in blocks for length in block["attention_mask"].sum(dim=1).tolist()]
        is_padded_behind = is_masked and all(_is_padded_behind(block) for block in blocks)

        def features_of(batch: Batch) -> dict[str, Any]:
            """The texts' features; what was tokenised with longer texts is cut, where that leaves out padding alone."""
            if not is_padded_behind:
                return self._features([texts[row] for row in batch.rows])
            places = [divmod(row, _TOKENISED_AT_ONCE) for row in batch.rows]
            return {
                name: torch.stack([blocks[block][name][row, : batch.length] for block, row in places])
                if hasattr(value, "to")
                else value
                for name, value in blocks[0].items()
            }

        def forward(batch: Batch) -> Any:
            features = features_of(batch)
            placed = {name: value.to(device) if hasattr(value, "to") else value for name, value in features.items()}
            with torch.inference_mode():
                return self._model(placed)["sentence_embedding"].float().cpu().numpy()

        return run_batches(lengths, forward, is_on_gpu=device.type != "cpu")

    def _features(self, texts: Sequence[str]) -> dict[str, Any]:
        name = self._model.default_prompt_name
        prompt = self._model.prompts.get(name) if name else None
        # tokenize was renamed, and warns since
        preprocess = getattr(self._model, "preprocess", None) or self._model.tokenize
        features: dict[str, Any] = preprocess([prompt + text if prompt else text for text in texts])
        return features
