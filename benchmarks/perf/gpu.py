"""Prints how many texts and images a second a CLIP encodes, and texts a BERT, ours and bare, on every device here.

    python -m benchmarks.perf.gpu [--model ViT-B-16] [--texts 20000] [--images 256]

Weights are random: what they are changes no speed. The bare CLIP takes texts padded to its window, 256 at a time, and
images 32 at a time, as our encoder does; the bare BERT, of MiniLM's size, is sentence-transformers' own call. `cosine`
is the largest difference of a cosine from float32's on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import open_clip
import PIL.Image
import torch

from benchmarks.perf.figures import Figure, table
from benchmarks.perf.workload import class_names, distinct_answers
from tlac.config.schemas import EncoderConfig, EncoderSpec
from tlac.encoders.open_clip import OpenClipEncoder, OpenClipImageEncoder, load_image_tower
from tlac.encoders.sentence_transformers import SentenceEncoder
from tlac.types import Float32Array

_BATCH = 256
_CHECKED = 200
# a CPU's speed shows in fewer
_CPU_TEXTS, _CPU_IMAGES = 1000, 64


def devices() -> list[str]:
    """All devices that torch has here, the CPU first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, is_there in found.items() if is_there)]


def measure_model(name: str, folder: Path, texts: Sequence[str], images: Sequence[PIL.Image.Image]) -> Iterator[Figure]:
    """The lines of one architecture."""
    torch.manual_seed(0)
    path = folder / f"{name}.pt"
    torch.save(open_clip.create_model(name).state_dict(), path)
    expected, all_texts, all_images = None, texts, images
    for device in devices():
        is_cpu = device == "cpu"
        texts, images = (all_texts[:_CPU_TEXTS], all_images[:_CPU_IMAGES]) if is_cpu else (all_texts, all_images)
        for dtype in ("float32", "bfloat16"):
            options = {} if dtype == "float32" else {"dtype": dtype}
            config = EncoderConfig(
                name, "", EncoderSpec(adapter="open_clip", model=name, weights=str(path), options=options)
            )
            with patch("tlac.encoders.devices.pick_device", lambda device=device: device):
                encoder, tower = OpenClipEncoder(config), OpenClipImageEncoder(config)
                checked = encoder.encode(texts[:_CHECKED]).vectors
                tower.encode(images[:1])
                seconds = _timed(device, partial(encoder.encode, texts))
                looking = _timed(device, partial(tower.encode, images))
                bare_text, bare_image = _bare(config, texts, images, device, dtype)
            cosines = checked @ checked.T
            expected = cosines if expected is None else expected
            note = f"cosine {np.abs(cosines - expected).max():.1e}"
            group = f"{device}, {dtype}"
            yield Figure(group, f"{name}, texts", "texts/s", len(texts) / seconds, (), len(texts) / bare_text, "", note)
            yield Figure(group, f"{name}, images", "images/s", len(images) / looking, (), len(images) / bare_image)


def make_bert(folder: Path, texts: Sequence[str]) -> None:
    """Write a sentence-transformers folder of MiniLM's size: random weights, and a vocabulary of these texts' words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    words = sorted({word for text in texts for word in text.lower().split()})
    bare = folder / "bare"
    bare.mkdir(parents=True)
    (bare / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", "utf-8")
    torch.manual_seed(0)
    size = BertConfig(
        vocab_size=len(words) + 5, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    BertModel(size).save_pretrained(bare)
    BertTokenizer(str(bare / "vocab.txt")).save_pretrained(bare)
    model = SentenceTransformer(modules=[Transformer(str(bare), max_seq_length=256), Pooling(384)], device="cpu")
    model.save(str(folder))


def measure_bert(folder: Path, texts: Sequence[str]) -> Iterator[Figure]:
    """The lines of a BERT of MiniLM's size."""
    from sentence_transformers import SentenceTransformer

    make_bert(folder, texts)
    expected = None
    for device in devices():
        given = texts[:_CPU_TEXTS] if device == "cpu" else texts
        for dtype in ("float32", "bfloat16"):
            options = {} if dtype == "float32" else {"dtype": dtype}
            spec = EncoderSpec(adapter="sentence_transformers", model=str(folder), options=options)
            with patch("tlac.encoders.devices.pick_device", lambda device=device: device):
                encoder = SentenceEncoder(EncoderConfig("bert", "", spec))
                # so many that a GPU is taken
                encoder.encode(given)
                checked = encoder.encode(given).vectors[:_CHECKED]
                seconds = _timed(device, partial(encoder.encode, given))
            bare = SentenceTransformer(str(folder), device=device).to(dtype=getattr(torch, dtype))
            bare.encode(texts[:_CHECKED], show_progress_bar=False)
            bare_s = _timed(device, partial(bare.encode, list(given), batch_size=_BATCH, show_progress_bar=False))
            cosines = checked @ checked.T
            expected = cosines if expected is None else expected
            note = f"cosine {np.abs(cosines - expected).max():.1e}"
            group = f"{device}, {dtype}"
            yield Figure(group, "BERT, texts", "texts/s", len(given) / seconds, (), len(given) / bare_s, "", note)


def _bare(
    config: EncoderConfig, texts: Sequence[str], images: Sequence[PIL.Image.Image], device: str, dtype: str
) -> tuple[float, float]:
    """Seconds of open_clip alone for the texts, and for the images."""
    model = open_clip.create_model(config.spec.model).to(device=device, dtype=getattr(torch, dtype)).eval()
    tokenizer = open_clip.get_tokenizer(config.spec.model)
    weight = next(iter(model.visual.parameters()))
    _, prepare = load_image_tower(config)

    def encode_texts() -> None:
        for start in range(0, len(texts), _BATCH):
            model.encode_text(tokenizer(list(texts[start : start + _BATCH])).to(device)).float().cpu()

    def encode_images() -> None:
        for start in range(0, len(images), 32):
            model.encode_image(torch.stack([prepare(one) for one in images[start : start + 32]]).to(weight)).cpu()

    with torch.inference_mode():
        return _timed(device, encode_texts), _timed(device, encode_images)


def _timed(device: str, run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    if device != "cpu":
        getattr(torch, device).synchronize()
    return time.perf_counter() - started


def _pictures(count: int) -> list[PIL.Image.Image]:
    pixels: Float32Array = np.random.default_rng(0).random((300, 400, 3), np.float32)
    return [PIL.Image.fromarray((255 * np.roll(pixels, number, 0)).astype(np.uint8)) for number in range(count)]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf.gpu", description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    texts = distinct_answers(given.texts, class_names(1000))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        figures = [
            *measure_model(given.model, place, texts, _pictures(given.images)),
            *measure_bert(place / "bert", texts),
        ]
    sys.stdout.write(f"torch {torch.__version__}\n{table(figures)}\n")


if __name__ == "__main__":
    main()
