"""How well confidence without a calibration ranks the errors of recorded answers, beside simpler measures.

    python -m benchmarks.accuracy.confidence [FOLDER]

FOLDER holds answers of a large multimodal model that was shown the images: imagenet100.jsonl and samples40.jsonl
(sentences, names, and the classes chosen after each), and packs of live runs on 120 images of Caltech101. Nobody is
asked anything, but for the embedded tagger, which is often wrong and looks at the same 120 images. Intervals are those
of 1,000 bootstrap samples of images within each dataset, shared by all that was asked about the same images. Exits with
1 where the promise that the last line prints is broken.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_dataset, open_encoder
from tlac.config.schemas import load_backend, load_dataset_config, load_encoder_config
from tlac.encoders.cached import keep_embeddings
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner
from tlac.scoring.confidence import confidences, risk_coverage
from tlac.scoring.matching import DEFAULT_TEMPLATE, ClassIndex, find_rule
from tlac.scoring.predictions import Decisions, Predictions
from tlac.scoring.scorer import Scorer
from tlac.types import BoolArray, Combination, Float64Array, LMMResponse, Outcome, Transcript, Turn

DEFAULT_FOLDER = Path(__file__).parents[2].parent / "shared" / "lmm-answers"
KINDS = ("sentence", "name")
METHODS = ("SLAC", "TLAC", "slac-fused", "vote", "tagger SLAC", "tagger TLAC")
REPLICATES = 1_000


@dataclass(frozen=True)
class Answered:
    """One method's predictions on one dataset; those on the same `images` are about the same ones, in order."""

    images: str
    asked: str
    method: str
    predictions: Predictions


def agreement(decisions: Decisions) -> Float64Array:
    """What confidence was before: the share of witnesses that name the predicted class, by Laplace's rule."""
    found = []
    columns = (decisions.predicted, decisions.decided_by, decisions.margin, decisions.words, decisions.votes)
    for own, decided_by, margin, words, votes in zip(*columns, strict=True):
        witnesses = [True, *((margin >= 0,) if decided_by in (0, 1) else ()), *((own in words,) if words else ())]
        # one of the votes for the predicted class is what decided
        witnesses += sorted(vote == own for vote in votes)[:-1]
        found.append((sum(witnesses) + 1) / (len(witnesses) + 2))
    return np.array(found)


MEASURES: dict[str, Callable[[Decisions], Float64Array]] = {
    "agreement": agreement,
    "score": lambda decisions: decisions.score,
    "margin": lambda decisions: decisions.margin,
    "confidence": confidences,
}


def recorded(answers: Sequence[dict[str, Any]], images: str, scorer: Scorer) -> Iterator[Answered]:
    """The methods on recorded answers: SLAC and TLAC by each kind, and both kinds together."""
    index = ClassIndex(scorer.index.classes)

    def turns(answer: dict[str, Any], kind: str, stages: int, member: int = 0) -> list[Turn]:
        said, chosen = (answer[stage][kind] for stage in ("stage1", "stage2"))
        found = [Turn("stage1", "", LMMResponse(Outcome.ANSWERED, said), member)]
        if stages == 2 and index.find(said.strip().rstrip(".")) is None:
            found.append(Turn("stage2", "", LMMResponse(Outcome.ANSWERED, chosen), member))
        return found

    def score(method: str, asked: str, stages: int, combine: Combination) -> Answered:
        first, *others = asked.split(", ")
        transcripts = []
        for place, answer in enumerate(answers):
            stage1, *stage2 = turns(answer, first, stages)
            further = [turn for number, kind in enumerate(others, 1) for turn in turns(answer, kind, stages, number)]
            own = stage2[0] if stage2 else None
            transcripts.append(Transcript(str(place), None, answer["label"], stage1, own, further=tuple(further)))
        return Answered(images, asked, method, scorer.score(transcripts, combine).predictions)

    for kind in KINDS:
        yield score("SLAC", kind, 1, "first")
        yield score("TLAC", kind, 2, "first")
    yield score("slac-fused", ", ".join(KINDS), 1, "fuse")
    yield score("vote", ", ".join(KINDS), 2, "vote")


def live(folder: Path, scratch: Path, store: Store) -> Iterator[Answered]:
    """The live runs on Caltech101's novel half, from their packs."""
    root = scratch / "caltech-101"
    shutil.copytree(folder / "caltech101-novel" / "101_ObjectCategories", root / "101_ObjectCategories")
    shutil.copy(folder.parent / "coop-splits" / "split_zhou_Caltech101.json", root)
    dataset = open_dataset(load_dataset_config("caltech101", scratch, "novel"))
    packs = folder / "caltech101-novel"
    for name, method, prompts, words, backend_name in (
        ("SLAC", "slac", "default", "sentence", f"pack:{packs}/slac-fused.jsonl.zst"),
        ("SLAC", "slac", "name", "name", f"pack:{packs}/slac-fused.jsonl.zst"),
        ("slac-fused", "slac-fused", "default", "sentence, name", f"pack:{packs}/slac-fused.jsonl.zst"),
        ("TLAC", "tlac", "default", "sentence", f"pack:{packs}/tlac.jsonl.zst"),
        ("TLAC", "tlac-shortlist:k=10", "default-1", "sentence, shortlist", f"pack:{packs}/tlac-shortlist.jsonl.zst"),
        ("tagger SLAC", "slac", "default", "tags", "embedded"),
        ("tagger TLAC", "tlac", "default", "tags", "embedded"),
    ):
        backend = load_backend(backend_name)
        encoder = replace(load_encoder_config("minilm"), is_offline=True)
        asked = load_prompts(prompts)
        config = RunConfig(backend, backend, dataset, method, encoder, asked, find_rule("ladder"), limit=120)
        run = Runner(store).run(config, scratch / "runs")
        yield Answered("caltech101", words, name, run.predictions)


def gather(folder: Path, scratch: Path, store: Store) -> Iterator[Answered]:
    """All recorded answers, scored with minilm and the ladder."""
    config = replace(load_encoder_config("minilm"), is_offline=True)
    encoder = keep_embeddings(open_encoder(config), config, store)

    def scorer(dataset: str) -> Scorer:
        classes = load_dataset_config(dataset).spec.classes
        return Scorer(classes, encoder, find_rule("ladder"), DEFAULT_TEMPLATE)

    yield from recorded(_read(folder / "imagenet100.jsonl"), "imagenet100", scorer("imagenet-samples"))
    samples = _read(folder / "samples40.jsonl")
    for dataset in ("imagenet", "cifar10"):
        chosen = [answer for answer in samples if answer["dataset"] == dataset]
        yield from recorded(chosen, f"samples40 {dataset}", scorer(f"{dataset}-samples"))
    yield from live(folder, scratch, store)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def weigh(found: Sequence[Answered], seed: int = 0) -> dict[str, Float64Array]:
    """How often each bootstrap sample holds each image: (REPLICATES + 1, n) by `images`, the first row all ones."""
    random = np.random.default_rng(seed)
    sizes = {one.images: len(one.predictions) for one in found}
    return {
        images: np.vstack([np.ones(n), random.multinomial(n, np.full(n, 1 / n), REPLICATES)])
        for images, n in sizes.items()
    }


def rank_errors(
    found: Sequence[Answered], measure: Callable[[Decisions], Float64Array], weights: dict[str, Float64Array]
) -> tuple[Float64Array, Float64Array]:
    """(replicates,) AUROC and (replicates,) area under the risk-coverage curve of several sets together.

    Right and wrong predictions are compared within a set, never between two; the area is the mean over sets, weighted
    by their samples.
    """
    count = len(weights[found[0].images])
    won, pairs, areas, samples = np.zeros(count), np.zeros(count), np.zeros(count), 0
    for one in found:
        values, right = _values(one.predictions, measure)
        times = weights[one.images]
        # 1 where a right one (row) has the higher value than a wrong one (column), 1/2 where both are equal
        better = np.sign(values[:, None] - values[None, :]) / 2 + 0.5
        right_times, wrong_times = times * right, times * ~right
        won += np.einsum("ri,ij,rj->r", right_times, better, wrong_times, optimize=True)
        pairs += right_times.sum(axis=1) * wrong_times.sum(axis=1)
        areas += len(values) * np.array([_area(values, right, row) for row in times])
        samples += len(values)
    return won / np.maximum(pairs, 1), areas / samples


def _values(predictions: Predictions, measure: Callable[[Decisions], Float64Array]) -> tuple[Float64Array, BoolArray]:
    return measure(predictions.decisions)[predictions.decision], predictions.is_correct


def _area(values: Float64Array, right: BoolArray, times: Float64Array) -> float:
    drawn = np.repeat(np.arange(len(values)), times.astype(int))
    curve = risk_coverage(values[drawn], right[drawn].astype(float))
    steps = np.diff([0.0, *(point.coverage for point in curve)])
    return float(np.sum(steps * [point.risk for point in curve]))


def print_ranks(found: Sequence[Answered], weights: dict[str, Float64Array]) -> bool:
    """Print how each measure ranks each method's errors. True where confidence does better than agreement for all."""
    holds, gains = True, []
    heads = f"AUROC {'95 % CI':<13}  {'area':<5} 95 % CI"
    say(f"{'method':<11} {'n':>4} {'wrong':>5}  {'measure':<10} {heads}")
    for method in METHODS:
        own = [one for one in found if one.method == method]
        n = sum(len(one.predictions) for one in own)
        wrong = n - sum(int(one.predictions.is_correct.sum()) for one in own)
        reached = {}
        for name, measure in MEASURES.items():
            auroc, area = rank_errors(own, measure, weights)
            say(f"{method:<11} {n:>4} {wrong:>5}  {name:<10} {_with_interval(auroc)}  {_with_interval(area)}")
            reached[name] = auroc
        holds &= bool(reached["confidence"][0] > reached["agreement"][0])
        for other in ("agreement", "margin"):
            gained = reached["confidence"] - reached[other]
            low, high = np.quantile(gained[1:], [0.025, 0.975])
            gains.append(f"{method:<11} confidence - {other:<9} {gained[0]:+.3f} {low:+.3f} - {high:+.3f}")
    say(f"\n{'gain in AUROC':<34} gain   95 % CI")
    for gain in gains:
        say(gain)
    return holds


def _with_interval(replicates: Float64Array) -> str:
    low, high = np.quantile(replicates[1:], [0.025, 0.975])
    return f"{replicates[0]:.3f} {low:.3f} - {high:.3f}"


def print_sets(found: Sequence[Answered], weights: dict[str, Float64Array]) -> None:
    """Print the AUROC of every measure on every set that has an error."""
    say(f"\n{'AUROC by set':<48} {'n':>4} {'wrong':>5} " + " ".join(f"{name:>10}" for name in MEASURES))
    first = {images: rows[:1] for images, rows in weights.items()}
    for one in found:
        n, wrong = len(one.predictions), int((~one.predictions.is_correct).sum())
        if wrong:
            values = " ".join(f"{rank_errors([one], measure, first)[0][0]:>10.3f}" for measure in MEASURES.values())
            say(f"{f'{one.images}: {one.method}, {one.asked}':<48} {n:>4} {wrong:>5} {values}")


def say(text: str = "") -> None:
    """A line of the report."""
    sys.stdout.write(text + "\n")


def main(folder: Path) -> int:
    """Print all, and give the exit code."""
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        found = list(gather(folder, Path(scratch), store))
    weights = weigh(found)
    holds = print_ranks(found, weights)
    print_sets(found, weights)
    say(f"\nconfidence ranks every method's errors better than agreement: {'holds' if holds else 'BROKEN'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER))
