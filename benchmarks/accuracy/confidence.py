"""How well confidence without a calibration ranks the errors of recorded answers, beside simpler measures and with a
second sample.

    python -m benchmarks.accuracy.confidence [FOLDER] [--write]

`--write` puts what is printed into confidence.txt, and draws docs/reliability.svg. FOLDER holds answers of a large
multimodal model that was shown the images: imagenet100.jsonl and samples40.jsonl (sentences, names, and the classes
chosen after each), and packs of live runs on 120 images of Caltech101. A second sample is what was answered about the
same image in the words of the other prompt set, or of the one with hints. Nobody is asked anything, but for the
embedded tagger, which is often wrong and looks at the same 120 images. Intervals are those of 1,000 bootstrap samples
of images within each dataset, shared by all that was asked about the same images. Exits with 1 where the promise that
the last line prints is broken.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.recorded import FOLDER, KINDS, ROOT, minilm, read_answers, say, transcripts_of
from benchmarks.accuracy.results import Row, replay, replay_hints
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_dataset
from tlac.config.schemas import load_backend, load_dataset_config, load_encoder_config
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner
from tlac.report.charts import reliability
from tlac.report.paper import draw_reliability
from tlac.scoring.confidence import confidences, risk_coverage
from tlac.scoring.matching import DEFAULT_TEMPLATE, ClassIndex, find_rule
from tlac.scoring.predictions import DECISIONS, Decisions, Predictions
from tlac.scoring.scorer import Scorer
from tlac.types import (
    BoolArray,
    Combination,
    Float64Array,
)

PRINTED = Path(__file__).with_suffix(".txt")
FIGURE = ROOT / "docs" / "reliability.svg"
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


def _chose_nearest(decisions: Decisions) -> Float64Array:
    """Whether stage 2 chose the class that is nearest to the first answer; silent where it chose nothing."""
    return np.where(
        decisions.decided_by == DECISIONS.index("similarity"), 0.0, np.where(decisions.margin >= 0, 1.0, -1.0)
    )


def _is_short(decisions: Decisions) -> Float64Array:
    """1 for an answer without a word, -1 from thirty words on."""
    return np.array([1 - min(len((answer or "").split()), 30) / 15 for answer in decisions.answer])


def _leads_words(decisions: Decisions) -> Float64Array:
    """The lead of the class nearest to the first answer, as a share of its lead over the fifth, whatever was chosen."""
    scores = -np.sort(-decisions.top_scores, axis=1)
    spread = np.maximum(scores[:, 0] - scores[:, -1], 1e-6)
    lead: Float64Array = 2 * (scores[:, 0] - scores[:, 1]) / spread - 1
    return lead


def _with(piece: Callable[[Decisions], Float64Array]) -> Callable[[Decisions], Float64Array]:
    """Confidence with one more piece of evidence, in [-1, 1]."""

    def measure(decisions: Decisions) -> Float64Array:
        sure = confidences(decisions)
        found: Float64Array = np.log(sure / (1 - sure)) + piece(decisions)
        return found

    return measure


LEFT_OUT: dict[str, Callable[[Decisions], Float64Array]] = {
    "nearest": _with(_chose_nearest),
    "short": _with(_is_short),
    "own lead": _with(_leads_words),
    "score": _with(lambda decisions: 2 * decisions.score - 1),
}


@dataclass(frozen=True)
class Witnessed:
    """One method's predictions without and with a second sample, in other `words`: "other kind" or "hints"."""

    words: str
    without: Answered
    having: Answered


def recorded(answers: Sequence[dict[str, Any]], images: str, scorer: Scorer) -> Iterator[Answered]:
    """The methods on recorded answers: SLAC and TLAC by each kind, and both kinds together."""
    for kind in KINDS:
        yield _score(answers, images, scorer, "SLAC", kind)
        yield _score(answers, images, scorer, "TLAC", kind)
    yield _score(answers, images, scorer, "slac-fused", ", ".join(KINDS))
    yield _score(answers, images, scorer, "vote", ", ".join(KINDS))


def recorded_seconds(
    answers: Sequence[dict[str, Any]], images: str, scorer: Scorer, hinted: Sequence[str] = ()
) -> Iterator[Witnessed]:
    """The same with a second sample: answers of the other kind, or what was said with hints, in the same order."""
    ways = [(method, kind) for method in ("SLAC", "TLAC") for kind in KINDS]
    for method, kind in ways:
        (other,) = set(KINDS) - {kind}
        said = [answer["stage1"][other] for answer in answers]
        yield Witnessed(
            "other kind",
            _score(answers, images, scorer, method, kind),
            _score(answers, images, scorer, method, kind, said),
        )
    for method, asked in (*ways, ("slac-fused", ", ".join(KINDS))) if hinted else ():
        yield Witnessed(
            "hints",
            _score(answers, images, scorer, method, asked),
            _score(answers, images, scorer, method, asked, hinted),
        )


def _score(
    answers: Sequence[dict[str, Any]],
    images: str,
    scorer: Scorer,
    method: str,
    asked: str,
    seconds: Sequence[str] = (),
) -> Answered:
    stages, combine = _FORMS[method]
    index, kinds = ClassIndex(scorer.index.classes), asked.split(", ")
    transcripts = transcripts_of(answers, index, kinds, stages, seconds=seconds)
    return Answered(images, asked, method, scorer.score(transcripts, combine).predictions)


# stages, and what becomes of several kinds of answers
_FORMS: dict[str, tuple[int, Combination]] = {
    "SLAC": (1, "first"),
    "TLAC": (2, "first"),
    "slac-fused": (1, "fuse"),
    "vote": (2, "vote"),
}


@dataclass(frozen=True)
class _Live:
    """A live run: what it is called, its pack, how tlac knows it; prompt set and pack of answers of the other kind."""

    method: str
    asked: str
    pack: str
    name: str
    prompts: str
    other: tuple[str, str] | None = None

    def replay(self, store: Store, second: str = "", pack: str = "") -> Answered:
        """The predictions; `second` is the prompt set of a second sample, whose answers are in `pack`."""
        option = f"{self.name}{',' if ':' in self.name else ':'}second={second}" if second else self.name
        packs = tuple(f"caltech101-novel-{one}" for one in (self.pack, pack) if one)
        found = replay(Row("caltech101-novel", packs, option, self.prompts), store)
        return Answered("caltech101", self.asked, self.method, found.predictions)


_LIVE = (
    _Live("SLAC", "sentence", "fused", "slac", "default", ("name", "fused")),
    _Live("SLAC", "name", "fused", "slac", "name", ("default", "fused")),
    _Live("TLAC", "sentence", "tlac", "tlac", "default", ("name", "fused")),
    _Live("TLAC", "sentence, shortlist", "shortlist", "tlac-shortlist:k=10", "default-1", ("name", "fused")),
    _Live("slac-fused", "sentence, name", "fused", "slac-fused", "default"),
)


def live_seconds(store: Store) -> Iterator[Witnessed]:
    """The live runs on Caltech101 with a second sample, replayed from the packs that ship."""
    for way in _LIVE:
        without = way.replay(store)
        if way.other is not None:
            yield Witnessed("other kind", without, way.replay(store, *way.other))
        yield Witnessed("hints", without, way.replay(store, "default:hints=12", "hints"))


def live(folder: Path, scratch: Path, store: Store) -> Iterator[Answered]:
    """The live runs on Caltech101's novel half, from their packs, and what the embedded tagger says of the images."""
    for way in sorted(_LIVE, key=lambda way: way.name.startswith("tlac")):
        yield way.replay(store)
    root = scratch / "caltech-101"
    shutil.copytree(folder / "caltech101-novel" / "101_ObjectCategories", root / "101_ObjectCategories")
    shutil.copy(folder.parent / "coop-splits" / "split_zhou_Caltech101.json", root)
    dataset = open_dataset(load_dataset_config("caltech101", scratch, "novel"))
    backend, prompts = load_backend("embedded"), load_prompts("default")
    encoder = replace(load_encoder_config("minilm"), is_offline=True)
    for method in ("slac", "tlac"):
        config = RunConfig(backend, backend, dataset, method, encoder, prompts, "ladder", limit=120)
        run = Runner(store).run(config, scratch / "runs")
        yield Answered("caltech101", "tags", f"tagger {method.upper()}", run.predictions)


def gather(folder: Path, scratch: Path, store: Store) -> Iterator[Answered]:
    """All recorded answers, scored with minilm and the ladder."""
    for images, answers, scorer in _files(folder, store):
        yield from recorded(answers, images, scorer)
    yield from live(folder, scratch, store)


def gather_seconds(folder: Path, store: Store) -> Iterator[Witnessed]:
    """All recorded answers for which there is a second one about the same image."""
    hinted = replay_hints(store).first_answers
    for images, answers, scorer in _files(folder, store):
        yield from recorded_seconds(answers, images, scorer, hinted if images == "imagenet100" else ())
    yield from live_seconds(store)


def _files(folder: Path, store: Store) -> Iterator[tuple[str, list[dict[str, Any]], Scorer]]:
    """The files of recorded answers by dataset, and who scores them."""
    encoder = minilm(store)

    def scorer(dataset: str) -> Scorer:
        classes = load_dataset_config(dataset).spec.classes
        return Scorer(classes, encoder, find_rule("ladder"), DEFAULT_TEMPLATE)

    yield "imagenet100", read_answers(folder / "imagenet100.jsonl"), scorer("imagenet-samples")
    samples = read_answers(folder / "samples40.jsonl")
    for dataset in ("imagenet", "cifar10"):
        chosen = [answer for answer in samples if answer["dataset"] == dataset]
        yield f"samples40 {dataset}", chosen, scorer(f"{dataset}-samples")


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
    """Print the AUROC and the area of every measure on every set that has an error."""
    first = {images: rows[:1] for images, rows in weights.items()}
    for place, title in enumerate(("AUROC by set", "area by set")):
        say(f"\n{title:<48} {'n':>4} {'wrong':>5} " + " ".join(f"{name:>10}" for name in MEASURES))
        for one in found:
            if wrong := _wrong(one):
                ranks = (rank_errors([one], measure, first)[place][0] for measure in MEASURES.values())
                values = " ".join(f"{rank:>10.3f}" for rank in ranks)
                say(f"{f'{one.images}: {one.method}, {one.asked}':<48} {len(one.predictions):>4} {wrong:>5} {values}")


def print_left_out(found: Sequence[Answered], weights: dict[str, Float64Array]) -> None:
    """Print by how much one more piece of evidence would change the AUROC of confidence, on every set with an error."""
    say(
        f"\n{'one more piece: change of AUROC':<48} {'n':>4} {'wrong':>5} "
        + " ".join(f"{name:>10}" for name in LEFT_OUT)
    )
    first = {images: rows[:1] for images, rows in weights.items()}
    for one in found:
        if wrong := _wrong(one):
            without = rank_errors([one], confidences, first)[0][0]
            changes = (rank_errors([one], measure, first)[0][0] - without for measure in LEFT_OUT.values())
            # + 0 turns -0.000 into 0.000
            values = " ".join(f"{round(change, 3) + 0:>+10.3f}" for change in changes)
            say(f"{f'{one.images}: {one.method}, {one.asked}':<48} {len(one.predictions):>4} {wrong:>5} {values}")


def _wrong(one: Answered) -> int:
    return int((~one.predictions.is_correct).sum())


def print_seconds(found: Sequence[Witnessed], weights: dict[str, Float64Array]) -> None:
    """Print what a second sample adds to how confidence ranks each method's errors, and on which sets."""
    say(f"\n{'second sample':<22}   n wrong  {'AUROC':<27} gain   95 % CI          area")
    for method, words in dict.fromkeys((one.without.method, one.words) for one in found):
        own = [one for one in found if (one.without.method, one.words) == (method, words)]
        before, area_before = rank_errors([one.without for one in own], confidences, weights)
        after, area_after = rank_errors([one.having for one in own], confidences, weights)
        gained = after - before
        low, high = np.quantile(gained[1:], [0.025, 0.975])
        n, wrong = sum(len(one.without.predictions) for one in own), sum(_wrong(one.without) for one in own)
        say(
            f"{method:<11} {words:<10} {n:>4} {wrong:>4}   {before[0]:.3f} -> {_with_interval(after)} "
            f"{gained[0]:+.3f} {low:+.3f} - {high:+.3f}  {area_before[0]:.3f} -> {area_after[0]:.3f}"
        )
    first = {images: rows[:1] for images, rows in weights.items()}
    say(f"\n{'second sample by set':<54} {'n':>4} {'wrong':>5} {'AUROC':>15} {'area':>15}")
    for one in found:
        if wrong := _wrong(one.without):
            both = (rank_errors([each], confidences, first) for each in (one.without, one.having))
            changes = " ".join(f"{old[0]:.3f} -> {new[0]:.3f}" for old, new in zip(*both, strict=True))
            name = f"{one.without.images}: {one.without.method}, {one.without.asked}"
            say(f"{f'{name} + {one.words}':<54} {len(one.without.predictions):>4} {wrong:>5} {changes}")


def pool(found: Sequence[Answered], seconds: Sequence[Witnessed]) -> dict[str, Predictions]:
    """The predictions of each method of an LMM on all sets, for a reliability diagram."""
    parts = {method: [one for one in found if one.method == method] for method in ("SLAC", "TLAC", "slac-fused")}
    parts["TLAC, second sample"] = [
        one.having for one in seconds if (one.having.method, one.words) == ("TLAC", "other kind")
    ]
    return {name: Predictions.of(row for one in own for row in one.predictions) for name, own in parts.items()}


def print_reliability(pooled: dict[str, Predictions]) -> None:
    """Print the accuracy of predictions by their confidence, as the figure shows it."""
    say(f"\n{'accuracy by confidence':<22} {'from':>6} {'to':>6} {'mean':>6}    n  top-1 95 % CI")
    for name, predictions in pooled.items():
        for one in reliability(predictions, "confidence"):
            low, high = (100 * bound for bound in one.ci95)
            say(
                f"{name:<22} {one.low:>6.3f} {one.high:>6.3f} {one.mean:>6.3f} {one.n:>4}  "
                f"{100 * one.accuracy:>5.1f} {low:.1f} - {high:.1f}"
            )


def main(folder: Path, figure: Path | None = None) -> int:
    """Print all, draw the figure, and give the exit code."""
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        found = list(gather(folder, Path(scratch), store))
        seconds = list(gather_seconds(folder, store))
    weights, pooled = weigh(found), pool(found, seconds)
    holds = print_ranks(found, weights)
    print_sets(found, weights)
    print_left_out(found, weights)
    print_seconds(seconds, weights)
    print_reliability(pooled)
    if figure is not None:
        draw_reliability(pooled, figure)
    say(f"\nconfidence ranks every method's errors better than agreement: {'holds' if holds else 'BROKEN'}")
    return 0 if holds else 1


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--write"]
    chosen = Path(given[0]) if given else FOLDER
    if "--write" in sys.argv[1:]:
        with PRINTED.open("w", encoding="utf-8") as file, redirect_stdout(file):
            code = main(chosen, FIGURE)
    else:
        code = main(chosen)
    sys.exit(code)
