"""Makes what the measurements run on: folders of images, and stores that hold every answer and embedding.

Answers are made up. Where they are to repeat as real ones do, 54 of 100 equal their class name, as a real LMM's
answers on 100 photos did, and the others are one of two phrases that each class has: 3,000 phrases in all.

    python -m benchmarks.perf.workload FOLDER distinct|repeating SAMPLES CLASSES
"""

from __future__ import annotations

import asyncio
import io
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from tlac.cache.serialization import StoredAnswer, StoredEmbedding
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_backend, load_encoder_config
from tlac.datasets.base import ListedDataset
from tlac.datasets.cifar import png_bytes
from tlac.evaluation.collect import collect
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.hashing import embedding_keys, request_document, sha256_of
from tlac.images import identify
from tlac.methods.tlac import SLAC
from tlac.scoring.matching import DEFAULT_TEMPLATE, apply_template
from tlac.types import LMMRequest, LMMResponse, Outcome, Sample, Usage

BACKEND = "openai-compatible"
ENCODER = "clip-vit-b-16"
PROMPTS = "name"
DIMENSIONS = 512
EXACT_SHARE = 0.54
_ADJECTIVES = ("small", "large", "wooden", "striped", "old", "young", "wild", "pale", "dark", "spotted")
_BATCH = 1000


def class_names(count: int) -> list[str]:
    """Names of two or three words, none a part of another."""
    return [f"{_ADJECTIVES[number % 10]} thing{number:04d}" for number in range(count)]


def distinct_answers(count: int, classes: Sequence[str]) -> list[str]:
    """As many answers, no two of them equal and none a class name."""
    return [f"A picture of {classes[number % len(classes)]} in place {number}" for number in range(count)]


def repeating_answers(count: int, classes: Sequence[str], seed: int = 0) -> list[str]:
    """Answers about images of class `number % len(classes)`, as repetitive as real ones."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable draw
    answers = []
    for number in range(count):
        name = classes[number % len(classes)]
        variant = chance.choices(("{}", "common {}", "{} seen from the side"), (EXACT_SHARE, 0.32, 0.14))[0]
        answers.append(variant.format(name))
    return answers


def specks(count: int, classes: Sequence[str]) -> ListedDataset:
    """So many images of one pixel, no two alike below 2**24, whose classes come in turn."""

    def read(number: int) -> tuple[str, bytes]:
        return f"{number:08d}.png", png_bytes(np.frombuffer(number.to_bytes(4, "big")[1:], np.uint8).reshape(1, 1, 3))

    return made_up(count, classes, read)


def made_up(count: int, classes: Sequence[str], read: Callable[[int], tuple[str, Path | bytes]]) -> ListedDataset:
    """So many samples, given by `read` when they are asked for, whose classes come in turn."""
    labels = [number % len(classes) for number in range(count)]
    return ListedDataset(tuple(classes), labels, read, protocol="made up", name="specks")


def write_images(folder: Path, classes: Sequence[str], count: int) -> list[Sample]:
    """A dataset folder: so many small JPEGs, no two with the same bytes, and classes.txt."""
    buffer = io.BytesIO()
    PIL.Image.effect_noise((48, 48), 40).convert("RGB").save(buffer, "JPEG", quality=90)
    head = buffer.getvalue()
    made = []
    for label in range(len(classes)):
        (folder / f"c{label:04d}").mkdir(parents=True)
    for number in range(count):
        label = number % len(classes)
        path = folder / f"c{label:04d}" / f"{number:06d}.jpg"
        # a decoder stops at the end marker before the number
        path.write_bytes(head + number.to_bytes(4, "big"))
        made.append(Sample(str(path), path, label))
    (folder / "classes.txt").write_text("".join(f"c{label:04d} {name}\n" for label, name in enumerate(classes)))
    return made


def _response(text: str) -> LMMResponse:
    """With tokens counted as 4 characters each and 258 an image."""
    usage = Usage(280, max(1, len(text) // 4))
    return LMMResponse(Outcome.ANSWERED, text, usage=usage, created_at="2030-01-01T00:00:00+00:00")


class _Listener:
    """An LMM that keeps what it was asked last."""

    asked: LMMRequest

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.asked = request
        return _response("")


def fill_store(store: Store, samples: Iterable[Sample], answers: Sequence[str], classes: Sequence[str]) -> None:
    """Keep the first-stage answer of every sample under the key that `tlac bench` asks with.

    One sample is asked about; the questions about the others differ in their image alone.
    """
    pending = zip(samples, answers, strict=True)
    question = asyncio.run(_question(classes))
    responses = {answer: _response(answer) for answer in set(answers)}
    while batch := list(islice(pending, _BATCH)):
        entries = []
        for sample, answer in batch:
            document = _about(question, identify(sample.source, sample.id).sha256)
            entries.append(StoredAnswer(sha256_of(document), document, responses[answer], BACKEND))
        store.put_entries(entries)


async def _question(classes: Sequence[str]) -> dict[str, Any]:
    listener = _Listener()
    bound_lmm = BoundLMM(load_backend(BACKEND), listener)
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts(PROMPTS), classes)
    await collect([Sample("any", b"any image")], prompter, SLAC(), 1)
    return request_document(listener.asked)


def _about(question: dict[str, Any], sha256: str) -> dict[str, Any]:
    """The same question about another image."""
    messages = [
        {
            **message,
            "parts": [{"image_sha256": sha256} if "image_sha256" in part else part for part in message["parts"]],
        }
        for message in question["messages"]
    ]
    return {**question, "messages": messages}


def fill_embeddings(store: Store, texts: Iterable[str], seed: int = 0) -> np.ndarray:
    """Random vectors of length 1 under the keys of the encoder's texts; gives the vectors, (n, 512) float32."""
    fingerprint = open_encoder(load_encoder_config(ENCODER)).fingerprint
    templated = [apply_template(DEFAULT_TEMPLATE, text) for text in texts]
    vectors = np.random.default_rng(seed).standard_normal((len(templated), DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = embedding_keys(fingerprint, templated)
    store.put_embeddings(StoredEmbedding(*one, False) for one in zip(keys, vectors, strict=True))
    return vectors


@dataclass(frozen=True, slots=True)
class Warm:
    """A dataset folder, and a store that holds all that a run on it asks for."""

    images: Path
    store: Path
    vectors: Path
    class_vectors: Path

    @property
    def bench(self) -> list[str]:
        """The arguments of `tlac` that run it."""
        return [
            *("bench", "--offline", "--backend", BACKEND, "--dataset", f"folder:{self.images}", "--method", "slac"),
            *("--encoder", ENCODER, "--prompts", PROMPTS, "--no-report", "--json", "--store", str(self.store)),
        ]


def warm_in(folder: Path) -> Warm:
    """The places of a run's files."""
    return Warm(folder / "images", folder / "store", folder / "vectors.npy", folder / "class-vectors.npy")


def make_warm(folder: Path, answers: Sequence[str], classes: Sequence[str]) -> None:
    """Write images, answers and embeddings of one run. The vectors lie in .npy files as well, texts in sorted order."""
    warm = warm_in(folder)
    samples = write_images(warm.images, classes, len(answers))
    with Store(warm.store) as store:
        fill_store(store, samples, answers, classes)
        texts = sorted(set(answers))
        rows = {text: row for row, text in enumerate(dict.fromkeys([*texts, *classes]))}
        vectors = fill_embeddings(store, rows)
    np.save(warm.vectors, vectors[: len(texts)])
    np.save(warm.class_vectors, vectors[[rows[name] for name in classes]])


def main(folder: str, kind: str, samples: str, classes: str) -> None:
    """Make a warm run's files."""
    names = class_names(int(classes))
    make = {"distinct": distinct_answers, "repeating": repeating_answers}[kind]
    make_warm(Path(folder), make(int(samples), names), names)


if __name__ == "__main__":
    main(*sys.argv[1:])
