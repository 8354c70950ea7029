"""How many true classes a shortlist holds, and in how many tokens, for several ways of choosing it.

    python -m benchmarks.accuracy.shortlists [FOLDER]

FOLDER holds imagenet100.jsonl and samples40.jsonl, as for imagenet100.py; answers about Caltech101 come from
cassettes/packs. Nobody is asked anything. All ways are printed for all sets. Their settings are those of the papers
that they come from, or were fixed before anything was printed.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.accuracy.recorded import FOLDER, KINDS, count_tokens, minilm, read_answers, say
from benchmarks.accuracy.results import Row, read_images, replay
from tlac.cache.store import Store
from tlac.config.schemas import load_dataset_config
from tlac.interfaces import TextEncoder
from tlac.scoring.matching import DEFAULT_TEMPLATE, find_rule, normalise
from tlac.scoring.metrics import wilson_interval
from tlac.scoring.scorer import Scorer
from tlac.types import BoolArray, Float64Array

K = 25
MOST = 50
# of the cosines of one answer with all class names
WITHIN_SD = 3.0
TEMPERATURE = 0.05
MASS = 0.95
# of hubness: Conneau et al., Word Translation Without Parallel Data (2018)
NEIGHBOURS = 10
# of reciprocal rank fusion: Cormack, Clarke and Buettcher, SIGIR 2009
RANK_OFFSET = 60


@dataclass(frozen=True)
class AnswerSet:
    """First answers about the same images, by view, and the labels as places in the classes."""

    name: str
    classes: Sequence[str]
    views: Mapping[str, Sequence[str]]
    labels: Sequence[int]


def answer_sets(folder: Path, store: Store) -> Iterator[AnswerSet]:
    """All that is at hand."""
    imagenet = load_dataset_config("imagenet-samples").spec.classes
    for name, file in (("ImageNet, 100 photos", "imagenet100"), ("ImageNet, 20 samples", "samples40")):
        rows = read_answers(folder / f"{file}.jsonl")
        kept = [row for row in rows if row.get("dataset", "imagenet") == "imagenet"]
        views = {view: [row["stage1"][view] for row in kept] for view in KINDS}
        yield AnswerSet(name, imagenet, views, [imagenet.index(row["class"]) for row in kept])
    asked = (Row("caltech101-novel", ("caltech101-novel-fused",), "slac", prompts) for prompts in ("default", "name"))
    views = {view: replay(row, store).first_answers for view, row in zip(KINDS, asked, strict=True)}
    images = read_images("caltech101-novel")
    yield AnswerSet("Caltech101, novel half, 120", images.classes, views, [label for _, label in images.samples])


def cosines(asked: AnswerSet, encoder: TextEncoder) -> dict[str, Float64Array]:
    """(n, c) cosines of each view, and their mean as the view "both"."""
    scorer = Scorer(asked.classes, encoder, find_rule("ladder"), DEFAULT_TEMPLATE)
    found = {}
    for view, texts in asked.views.items():
        scores = np.zeros((len(texts), len(asked.classes)))
        for row, near in zip(scores, scorer.nearest(texts, len(asked.classes)), strict=True):
            row[list(near.indices)] = near.scores
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


def by_mass_and_tokens(scores: Float64Array, lengths: Float64Array, most: float) -> BoolArray:
    """As few as hold `MASS` of the softmax, and no more than `most` tokens; `lengths` (c,) are those of the classes."""
    order = np.argsort(-scores, axis=1, kind="stable")
    fits = (np.cumsum(lengths[order], axis=1) <= most).sum(axis=1)
    weights = np.exp((np.take_along_axis(scores, order, 1) - scores.max(axis=1, keepdims=True)) / TEMPERATURE)
    shares = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    return nearest(scores, np.minimum((shares < MASS).sum(axis=1) + 1, fits).tolist())


def without_hubs(scores: Float64Array, queries: Float64Array) -> Float64Array:
    """CSLS: a class's cosine counts the less, the nearer the class is to its nearest of (q, c) other queries.

    What is subtracted for the answer itself is the same for all classes, and left out.
    """
    nearness = np.sort(queries, axis=0)[-NEIGHBOURS:].mean(axis=0)
    corrected: Float64Array = 2 * scores - nearness
    return corrected


def by_idf(scores: Float64Array, names: Float64Array) -> Float64Array:
    """Cosines times the idf of the class over the lists of K classes nearest to each name, (c, c) cosines."""
    listed = nearest(names, [K] * len(names)).sum(axis=0)
    weighted: Float64Array = scores * np.log(len(names) / np.maximum(listed, 1))
    return weighted


def overlaps(asked: AnswerSet, view: str) -> Float64Array:
    """(n, c): the idf over class names of the words that an answer and a class name share, summed up."""
    words = [set(normalise(name).split()) for name in asked.classes]
    counts = Counter(word for found in words for word in found)
    idf = {word: math.log(len(words) / count) for word, count in counts.items()}
    said = [set(normalise(text).split()) for text in asked.views[view]]
    return np.array([[sum(idf[word] for word in found & name) for name in words] for found in said])


def fuse_ranks(*signals: Float64Array) -> Float64Array:
    """Reciprocal rank fusion of (n, c) signals; what a signal gives nothing has no rank in it."""
    fused = np.zeros_like(signals[0])
    for signal in signals:
        places = np.argsort(np.argsort(-signal, axis=1, kind="stable"), axis=1)
        fused += np.where(signal > 0, 1 / (RANK_OFFSET + 1 + places), 0)
    return fused


def further_ways(
    asked: AnswerSet, scores: Mapping[str, Float64Array], encoder: TextEncoder, lengths: Float64Array
) -> Iterator[tuple[str, BoolArray]]:
    """Hubs pushed down, signals fused by rank, and a length by tokens, of the lists of K classes."""
    # as class names are scored
    texts = [find_rule("ladder").class_text(name) for name in asked.classes]
    named = cosines(replace(asked, views={"names": texts}), encoder)["names"]
    others = np.where(np.eye(len(named), dtype=bool), -1.0, named)
    for view, found in scores.items():
        count = [K] * len(found)
        yield f"{view}, CSLS over names, k={K}", nearest(without_hubs(found, others), count)
        yield f"{view}, CSLS over answers, k={K}", nearest(without_hubs(found, found), count)
        yield f"{view}, idf over lists, k={K}", nearest(by_idf(found, named), count)
        yield f"{view}, {100 * MASS:g} % of mass, k={K} tokens", by_mass_and_tokens(found, lengths, K * lengths.mean())
    for view in asked.views:
        yield (
            f"{view}, ranks with words, k={K}",
            nearest(fuse_ranks(scores[view], overlaps(asked, view)), [K] * len(found)),
        )
    yield f"both, ranks, k={K}", nearest(fuse_ranks(*(scores[view] for view in asked.views)), [K] * len(found))


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
    lengths = np.array([count(f"{index}: {name}\n") for index, name in enumerate(asked.classes)], np.float64)
    n = len(asked.labels)
    scores = cosines(asked, encoder)
    for way, listed in chain(ways(scores), further_ways(asked, scores, encoder, lengths)):
        held = int(listed[np.arange(n), asked.labels].sum())
        low, high = wilson_interval(held, n)
        interval = f"{100 * low:4.1f} - {100 * high:5.1f}"
        size, tokens = listed.sum(axis=1).mean(), (listed * lengths).sum(axis=1).mean()
        yield f"{asked.name:<28}{way:<40}{held:>4} of {n:<4}{interval:>14}{size:>7.1f}{tokens:>7.0f}"


def main(folder: Path) -> None:
    """Print all."""
    count = count_tokens()
    say(f"{'answers about':<28}{'classes listed':<40}{'truths held':>11}{'95 % CI':>14}{'names':>8}{'tokens':>7}")
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        encoder = minilm(store)
        for asked in answer_sets(folder, store):
            for line in report(asked, encoder, count):
                say(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
