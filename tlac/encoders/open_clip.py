"""Text encoders of the CLIP family, through open_clip; the paper's encoder is ViT-B-16 with "openai" weights.

A causal text tower sees nothing behind the end-of-text token, so texts are cut there instead of being padded to 77
tokens: ten times as fast, and within 1.3e-7 of the padded result.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tlac.config.schemas import EncoderConfig, check_options
from tlac.encoders.batching import Batch, encode_distinct, fit_window, run_batches
from tlac.encoders.devices import check_dtype, device_of, exact, place
from tlac.encoders.weights import (
    check_sha256,
    describe,
    file_sha256,
    is_path_like,
    load_from_disk,
    load_from_hub,
    unavailable,
)
from tlac.errors import ConfigError, EncoderUnavailableError, nearest_of
from tlac.types import Encoding, Float32Array

_PREPARING = min(8, os.cpu_count() or 1)


class OpenClipEncoder:
    """A text tower of open_clip, on a GPU where there is one. `model` is open_clip's name for the architecture,
    `weights` a pretrained tag or a local weights file. The option `quick_gelu` says for a local file which activation
    it was trained with; a tag knows its own. The option `dtype` is float32 unless it says bfloat16.

    Weights are loaded at the first encode. Raises ConfigError for options that are not known.
    """

    def __init__(self, config: EncoderConfig) -> None:
        check_options(config, {"quick_gelu": bool, "dtype": str})
        check_dtype(config)
        if config.spec.weights is None:
            raise ConfigError(f"{config.source}: 'weights' is missing: a pretrained tag such as openai, or a file")
        if "quick_gelu" in config.spec.options and local_file(config.spec.weights) is None:
            raise ConfigError(f"{config.source}: 'quick_gelu' is for local weights files; the tag knows its own")
        self.name = config.name
        self._config = config
        self._weights: str = config.spec.weights

    @cached_property
    def fingerprint(self) -> str:
        """Adapter, architecture, and the tag or the sha256 of the local file."""
        path = local_file(self._weights)
        if path is None:
            return describe(self._config, self._config.spec.model, self._weights)
        digest = self._config.spec.weights_sha256 or file_sha256(self._config, path)
        return describe(self._config, self._config.spec.model, f"sha256={digest}")

    def encode(self, texts: Sequence[str]) -> Encoding:
        """n texts as (n, d) float32, rows of length 1; no texts give (0, 0).

        Raises EncoderUnavailableError where the weights can't be had.
        """
        return encode_distinct(texts, self._encode)

    def _encode(self, texts: list[str]) -> Encoding:
        model, tokenizer = self._loaded
        texts, is_truncated = fit_window(texts, tokenizer.context_length, partial(_count_tokens, tokenizer))
        return Encoding(_embed(model, tokenizer(texts)), is_truncated)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_text_model(self._config)


def _embed(model: Any, tokens: Any) -> Float32Array:
    """Vectors of padded token rows (n, window): cut and causal where the tower is, else padded as they are."""
    import torch

    tower = getattr(model, "text", model)
    ends = _ends(model, tower, tokens)
    lengths = [tokens.shape[1]] * len(tokens) if ends is None else ends.tolist()
    device = device_of(model)

    def forward(batch: Batch) -> Any:
        rows = tokens[list(batch.rows), : batch.length].to(device)
        with torch.inference_mode():
            return (model.encode_text(rows) if ends is None else _forward_causal(tower, rows)).float().cpu().numpy()

    return run_batches(lengths, forward, is_on_gpu=device.type != "cpu")


def _ends(model: Any, tower: Any, tokens: Any) -> Any:
    """Tokens of each text with its end-of-text token, or None where the tower looks at what follows it.

    The first end-of-text token counts, as in open_clip's own pooling: a text may spell that token out.
    """
    has_causal_mask = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    pooling = getattr(tower, "pool_type", None) or getattr(model, "text_pool_type", None)
    if has_causal_mask and pooling == "argmax":
        return tokens.argmax(dim=-1) + 1
    if has_causal_mask and pooling == "eos":
        end = getattr(tower, "eos_id", None) or getattr(model, "text_eos_id", None)
        return (tokens == end).int().argmax(dim=-1) + 1
    return None


def _forward_causal(tower: Any, rows: Any) -> Any:
    """open_clip's encode_text for rows that end with their end-of-text token: (n, length) to (n, d)."""
    length = rows.shape[1]
    x = tower.token_embedding(rows) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)[:, -1]
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if callable(projection) else x @ projection


def _count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of the whole text with its start and end, by open_clip's own or a Hugging Face tokeniser."""
    if hasattr(tokenizer, "encode"):
        return len(tokenizer.encode(text)) + 2
    clean = getattr(tokenizer, "clean_fn", str)
    return len(tokenizer.tokenizer(clean(text), truncation=False, verbose=False).input_ids)


_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz")


def local_file(weights: str) -> Path | None:
    """The path that `weights` means, which may not exist, or None where it is a pretrained tag."""
    path = Path(weights).expanduser()
    return path if is_path_like(weights) or path.suffix in _WEIGHT_SUFFIXES or path.is_file() else None


def load_text_model(config: EncoderConfig) -> tuple[Any, Any]:
    """The model without its image tower, and its tokeniser.

    Raises EncoderUnavailableError for a name or tag that open_clip does not know, with the nearest it does,
    and for weights that can't be had.
    """
    import open_clip

    name = config.spec.model
    model = _load(config)
    for tower in ("visual", "text_decoder"):
        if hasattr(model, tower):
            delattr(model, tower)
    tokenizer = load_from_hub(config, f"the tokeniser of {name}", lambda: open_clip.get_tokenizer(name))
    return model, tokenizer


def load_image_tower(config: EncoderConfig) -> tuple[Any, Any]:
    """The image tower, and what turns an RGB image into its input, as the weights were trained with.

    Raises as load_text_model does.
    """
    from open_clip import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    tower = _load(config).visual
    # a tag knows its own mean, deviation and interpolation; weights from a file say nothing
    trained = get_pretrained_cfg(config.spec.model, config.spec.weights or "")
    preparation = merge_preprocess_dict(PreprocessCfg(size=tower.image_size), trained)
    return tower, image_transform_v2(PreprocessCfg(**preparation), is_train=False)


def _load(config: EncoderConfig) -> Any:
    import open_clip

    name = config.spec.model
    if name not in open_clip.list_models():
        raise _unknown(config, f"the model {name!r}", name, open_clip.list_models())
    weights = config.spec.weights or ""
    path = local_file(weights)
    if path is None:
        wanted = f"the weights {weights!r} of {name}"
        path, is_quick_gelu = _fetch(config, wanted)
    else:
        wanted = str(path)
        is_quick_gelu = config.spec.options.get("quick_gelu", open_clip.get_model_config(name).get("quick_gelu", False))
    check_sha256(config, path)
    checkpoint = path
    return load_from_disk(config, wanted, lambda: _build(config, checkpoint, is_quick_gelu))


def _fetch(config: EncoderConfig, wanted: str) -> tuple[Path, bool]:
    """The file of a pretrained tag, and whether it was trained with quick GELU.

    open_clip only warns where the plain architecture meets weights that want quick GELU (ViT-B-16 and openai do).
    """
    from open_clip import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    name, tag = config.spec.model, config.spec.weights or ""
    pretrained = get_pretrained_cfg(name, tag)
    if not pretrained:
        raise _unknown(config, f"the weights {tag!r} of {name}", tag, list_pretrained_tags_by_model(name))
    source = f"{wanted} ({pretrained['hf_hub'].rstrip('/')})" if pretrained.get("hf_hub") else wanted
    path = load_from_hub(config, source, lambda: download_pretrained(pretrained))
    return Path(path), bool(pretrained.get("quick_gelu", False))


def _build(config: EncoderConfig, path: Path, is_quick_gelu: bool) -> Any:
    import open_clip

    if not path.is_file():
        raise FileNotFoundError("no such file")
    if _is_torchscript(path):
        if file_sha256(config, path) not in _published_archives():
            raise ValueError(
                "it is a TorchScript archive, which runs code when it is opened, and none that OpenAI published: "
                "save its tensors as .safetensors"
            )
        # open_clip reads the architecture from their tensors
        model = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
    else:
        model = open_clip.create_model(
            config.spec.model, pretrained=str(path), device="cpu", quick_gelu=is_quick_gelu, weights_only=True
        )
    return place(model, config)


def _published_archives() -> set[str]:
    """The sha256 (hex) of the archives that OpenAI published, which stand in their addresses."""
    import open_clip

    return {open_clip.get_pretrained_url(name, "openai").split("/")[-2] for name in open_clip.list_openai_models()}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(entry).name == "constants.pkl" for entry in archive.namelist())


def _unknown(config: EncoderConfig, what: str, name: str, known: Iterable[str]) -> EncoderUnavailableError:
    return unavailable(config, what, f"open_clip does not know: {nearest_of(name, known)}")


class OpenClipImageEncoder:
    """An image tower of open_clip, with the preparation that its weights were trained with.

    Takes the same description as the text encoder. Weights are loaded at the first encode.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._text = OpenClipEncoder(config)

    @property
    def fingerprint(self) -> str:
        """The text encoder's, marked as that of images."""
        return f"{self._text.fingerprint}:images"

    def encode(self, images: Sequence[Any]) -> Float32Array:
        """n RGB images as (n, d) float32, rows of length 1; no images give (0, 0).

        Raises EncoderUnavailableError where the weights can't be had.
        """
        if not images:
            return np.zeros((0, 0), np.float32)
        import torch

        tower, prepare = self._loaded
        weight = next(iter(tower.parameters()))
        # resizing is done outside the interpreter's lock, and one thread of it keeps no GPU busy
        with ThreadPoolExecutor(min(_PREPARING, len(images))) as pool:
            pixels = torch.stack(list(pool.map(prepare, images)))

        def forward(batch: Batch) -> Any:
            with torch.inference_mode(), exact(weight.device):
                return tower(pixels[list(batch.rows)].to(weight)).float().cpu().numpy()

        return run_batches([0] * len(images), forward)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_image_tower(self._config)
