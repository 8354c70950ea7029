"""How many true classes a shortlist holds, and in how many tokens, for several ways of choosing it.

    python -m benchmarks.accuracy.shortlists [FOLDER]

FOLDER holds imagenet100.jsonl and samples40.jsonl, as for imagenet100.py; answers about Caltech101 come from
cassettes/packs. Nobody is asked anything. All ways are printed for all sets.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.accuracy.imagenet100 import DEFAULT_FOLDER, ROOT, count_tokens, say
from benchmarks.accuracy.results import ImageSet
from tlac.cache.pack import read_pack
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.registry import open_encoder
from tlac.config.schemas import load_dataset_config, load_encoder_config
from tlac.encoders.cached import keep_embeddings
from tlac.interfaces import TextEncoder
from tlac.scoring.matching import DEFAULT_TEMPLATE, find_rule
from tlac.scoring.metrics import wilson_interval
from tlac.scoring.scorer import Scorer
from tlac.types import BoolArray, Float64Array

K = 25
MOST = 50
# of the cosines of one answer with all class names
WITHIN_SD = 3.0
TEMPERATURE = 0.05
MASS = 0.95


@dataclass(frozen=True)
class AnswerSet:
    """First answers about the same images, by view, and the labels as places in the classes."""

    name: str
    classes: Sequence[str]
    views: Mapping[str, Sequence[str]]
    labels: Sequence[int]


def answer_sets(folder: Path) -> Iterator[AnswerSet]:
    """All that is at hand."""
    imagenet = load_dataset_config("imagenet-samples").spec.classes
    for name, file in (("ImageNet, 100 photos", "imagenet100"), ("ImageNet, 20 samples", "samples40")):
        rows = [json.loads(line) for line in (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
        kept = [row for row in rows if row.get("dataset", "imagenet") == "imagenet"]
        views = {view: [row["stage1"][view] for row in kept] for view in ("sentence", "name")}
        yield AnswerSet(name, imagenet, views, [imagenet.index(row["class"]) for row in kept])
    images = msgspec.json.decode((ROOT / "benchmarks/accuracy/caltech101-novel.json").read_bytes(), type=ImageSet)
    said: dict[str, dict[str, str]] = {"sentence": {}, "name": {}}
    for kept_answer in read_pack(ROOT / "cassettes/packs/caltech101-novel-fused.jsonl.zst"):
        if isinstance(kept_answer, StoredAnswer) and kept_answer.request["stage"] == "stage1":
            image, words = kept_answer.request["messages"][0]["parts"]
            view = "sentence" if "short sentence" in words["text"] else "name"
            said[view][image["image_sha256"]] = kept_answer.response.text
    views = {view: [texts[sha256] for sha256, _ in images.samples] for view, texts in said.items()}
    yield AnswerSet("Caltech101, novel half, 120", images.classes, views, [label for _, label in images.samples])


def cosines(asked: AnswerSet, encoder: TextEncoder) -> dict[str, Float64Array]:
    """(n, c) cosines of each view, and their mean as the view "both"."""
    scorer = Scorer(asked.classes, encoder, find_rule("ladder"), DEFAULT_TEMPLATE)
    found = {}
    for view, texts in asked.views.items():
        scores = np.zeros((len(texts), len(asked.classes)))
        for row, (indices, values) in zip(scores, scorer.nearest(texts, len(asked.classes)), strict=True):
            row[list(indices)] = values
        found[view] = scores
    return {**found, "both": np.mean(list(found.values()), axis=0)}


def nearest(scores: Float64Array, counts: Sequence[int]) -> BoolArray:
    """(n, c): whether each class is among so many nearest ones of its row."""
    places = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    is_near: BoolArray = places < np.asarray(counts)[:, None]
    return is_near


def within(scores: Float64Array, most: int) -> BoolArray:
    """Those that lie no more than `WITHIN_SD` standard deviations of the row below its best."""
    limit = scores.max(axis=1) - WITHIN_SD * scores.std(axis=1)
    return nearest(scores, np.minimum((scores >= limit[:, None]).sum(axis=1), most).tolist())


def by_mass(scores: Float64Array) -> BoolArray:
    """As few as hold `MASS` of the softmax of the scores at `TEMPERATURE`, and no more than `MOST`."""
    weights = np.exp((np.sort(scores, axis=1)[:, ::-1] - scores.max(axis=1, keepdims=True)) / TEMPERATURE)
    shares = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    return nearest(scores, np.minimum((shares < MASS).sum(axis=1) + 1, MOST).tolist())


def ways(scores: Mapping[str, Float64Array]) -> Iterator[tuple[str, BoolArray]]:
    """The shortlists of one set: (n, c) true where a class is listed."""
    for view, found in scores.items():
        yield f"{view}, k={K}", nearest(found, [K] * len(found))
        yield f"{view}, within {WITHIN_SD:g} sd, at most {K}", within(found, K)
        yield f"{view}, within {WITHIN_SD:g} sd, at most {MOST}", within(found, MOST)
        yield f"{view}, {100 * MASS:g} % of the mass, at most {MOST}", by_mass(found)
    both = [nearest(scores[view], [K] * len(scores[view])) for view in scores if view != "both"]
    yield f"both, union of two k={K}", np.logical_or(*both)
    half = [nearest(scores[view], [K // 2 + 1] * len(scores[view])) for view in scores if view != "both"]
    yield f"both, union of two k={K // 2 + 1}", np.logical_or(*half)


def report(asked: AnswerSet, encoder: TextEncoder, count: Callable[[str], int]) -> Iterator[str]:
    """Lines for one set: the truths held, their interval, the names listed and their tokens, on average."""
    lengths = np.array([count(f"{index}: {name}\n") for index, name in enumerate(asked.classes)])
    n = len(asked.labels)
    for way, listed in ways(cosines(asked, encoder)):
        held = int(listed[np.arange(n), asked.labels].sum())
        low, high = wilson_interval(held, n)
        interval = f"{100 * low:4.1f} - {100 * high:5.1f}"
        size, tokens = listed.sum(axis=1).mean(), (listed * lengths).sum(axis=1).mean()
        yield f"{asked.name:<28}{way:<40}{held:>4} of {n:<4}{interval:>14}{size:>7.1f}{tokens:>7.0f}"


def main(folder: Path) -> None:
    """Print all."""
    count = count_tokens()
    config = replace(load_encoder_config("minilm"), is_offline=True)
    say(f"{'answers about':<28}{'classes listed':<40}{'truths held':>11}{'95 % CI':>14}{'names':>8}{'tokens':>7}")
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        encoder = keep_embeddings(open_encoder(config), config, store)
        for asked in answer_sets(folder):
            for line in report(asked, encoder, count):
                say(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
