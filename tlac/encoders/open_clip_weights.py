"""Loads one side of open_clip models, with the activation that their weights were trained with.

Does not know how texts or images are encoded.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tlac.config import EncoderConfig
from tlac.encoders.weights import REMEDY, check_sha256, is_path_like, load_from_disk, load_from_hub
from tlac.errors import EncoderUnavailableError

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
        raise _unknown(config, f"model {name!r}", name, open_clip.list_models())
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
    return load_from_disk(config, wanted, lambda: _build(name, checkpoint, is_quick_gelu))


def _fetch(config: EncoderConfig, wanted: str) -> tuple[Path, bool]:
    """The file of a pretrained tag, and whether it was trained with quick GELU.

    open_clip only warns where the plain architecture meets weights that want quick GELU (ViT-B-16 and openai do).
    """
    from open_clip import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    name, tag = config.spec.model, config.spec.weights or ""
    pretrained = get_pretrained_cfg(name, tag)
    if not pretrained:
        raise _unknown(config, f"weights {tag!r} of {name}", tag, list_pretrained_tags_by_model(name))
    source = f"{wanted} ({pretrained['hf_hub'].rstrip('/')})" if pretrained.get("hf_hub") else wanted
    path = load_from_hub(config, source, lambda: download_pretrained(pretrained))
    return Path(path), bool(pretrained.get("quick_gelu", False))


def _build(name: str, path: Path, is_quick_gelu: bool) -> Any:
    import open_clip

    if not path.is_file():
        raise FileNotFoundError("no such file")
    if _is_torchscript(path):
        # the archives that OpenAI published: open_clip reads the architecture from their tensors
        model = open_clip.load_openai_model(str(path), precision="fp32", device="cpu")
    else:
        model = open_clip.create_model(name, pretrained=str(path), device="cpu", quick_gelu=is_quick_gelu)
    return model.float().eval().requires_grad_(False)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(entry).name == "constants.pkl" for entry in archive.namelist())


def _unknown(config: EncoderConfig, what: str, name: str, known: Iterable[str]) -> EncoderUnavailableError:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known) or 'none, give a local file'}"
    return EncoderUnavailableError(f"encoder {config.name!r}: open_clip knows no {what}: {hint} ({REMEDY})")
