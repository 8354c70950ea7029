"""How well the class names that stage 1 is shown stand for a whole list: drawn at random, and spread by embeddings.

    python -m benchmarks.accuracy.hints

Nobody is asked anything: it tells how near the other classes are to what is shown, and nothing about answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.accuracy.recorded import minilm, say
from benchmarks.accuracy.results import read_images
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_dataset_config
from tlac.evaluation.class_order import draw_spread
from tlac.interfaces import TextEncoder
from tlac.scoring.matching import DEFAULT_TEMPLATE, apply_template, find_rule
from tlac.types import Float64Array

SEEDS = 20
COUNTS = {"ImageNet": (10, 30, 100), "Caltech101, novel half": (5, 12)}


def lists() -> Iterator[tuple[str, Sequence[str]]]:
    """The class lists, by name."""
    yield "ImageNet", load_dataset_config("imagenet-samples").spec.classes
    yield "Caltech101, novel half", read_images("caltech101-novel").classes


def report(name: str, classes: Sequence[str], encoder: TextEncoder) -> Iterator[str]:
    """A line for each number of hints and way to draw them: means over seeds, and their standard deviation."""
    names = sorted(set(classes))
    rule = find_rule("ladder")
    vectors = encoder.encode([apply_template(DEFAULT_TEMPLATE, rule.class_text(one)) for one in names]).vectors
    cosines = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    places = {one: place for place, one in enumerate(names)}

    def nearness(drawn: Sequence[str]) -> Float64Array:
        nearest: Float64Array = cosines[:, [places[one] for one in drawn]].max(axis=1)
        return nearest

    for count in COUNTS[name]:
        draws = {
            "random": [load_prompts(f"default:hints={count},seed={seed}").draw_hints(names) for seed in range(SEEDS)],
            "spread": [draw_spread(names, vectors, count, seed) for seed in range(SEEDS)],
        }
        for way, found in draws.items():
            near = np.array([nearness(drawn) for drawn in found])
            mean, low = near.mean(axis=1), np.quantile(near, 0.1, axis=1)
            yield (
                f"{name:<24}{count:>5} {way:<8}{mean.mean():>7.3f} +- {mean.std(ddof=1):.3f}"
                f"{low.mean():>9.3f} +- {low.std(ddof=1):.3f}"
            )


def main() -> None:
    """Print all."""
    say(f"{'class list':<24}{'hints':>5} {'drawn':<8}{'mean cosine':>16}{'lowest tenth':>18}")
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        encoder = minilm(store)
        for name, classes in lists():
            for line in report(name, classes, encoder):
                say(line)


if __name__ == "__main__":
    main()
