"""What each method makes of a hundred recorded answers, with intervals and paired tests.

    python -m benchmarks.accuracy.imagenet100 [FOLDER]

FOLDER holds imagenet100.jsonl: for a photo of each of 100 ImageNet classes, what a large multimodal model said in
a sentence and as a name, and which of the 1000 class names it chose after each. Nobody is asked anything: the
second stage of a shortlist is simulated by the choice that was recorded for the whole list, where that choice
stands in the shortlist; where it does not, the sample counts as wrong. tlac-relook can't be simulated. What stage 1
says with hints comes from cassettes/packs/imagenet100-hints.jsonl.zst, where another instance was asked.
Exits with 1 where the promise that the last lines print is broken.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.accuracy.recorded import (
    FOLDER,
    KINDS,
    count_tokens,
    minilm,
    needs_choice,
    read_answers,
    say,
    transcripts_of,
)
from benchmarks.accuracy.results import replay_hints
from tlac.analysis.compare import holm, mcnemar, paired_difference
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_dataset_config
from tlac.methods.tlac import TLACCascade, TLACRelook, TLACShortlist
from tlac.scoring.confidence import abstain, fit
from tlac.scoring.matching import DEFAULT_TEMPLATE, ClassIndex, find_rule
from tlac.scoring.metrics import measure, wilson_interval
from tlac.scoring.scorer import Scorer
from tlac.types import (
    ChoiceTask,
    Combination,
    NearestClasses,
    Prediction,
    TextPart,
    Transcript,
)

SIZES = (5, 10, 15, 25, 50, 100)
TEMPLATES = "a photo of a {} | a picture of a {} | {}"


@dataclass(frozen=True)
class Row:
    """One method's result: hits (n,), the stage-2 calls and the tokens of their prompts."""

    name: str
    right: np.ndarray
    against: str | None = None
    calls: int = 0
    tokens: int = 0
    predictions: Sequence[Prediction] = field(default=(), repr=False)


class Runner:
    """The recorded answers, scored in every way that is asked for."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.answers = read_answers(folder / "imagenet100.jsonl")
        self.classes = load_dataset_config("imagenet-samples").spec.classes
        self._encoder = minilm(store)
        self._index = ClassIndex(self.classes)
        self._count = count_tokens()
        self._prompts = {"sentence": load_prompts("default"), "name": load_prompts("name")}
        self.labels = np.array([answer["label"] for answer in self.answers])

    def scorer(self, matching: str = "ladder", template: str = DEFAULT_TEMPLATE) -> Scorer:
        """A scorer over ImageNet's names."""
        return Scorer(self.classes, self._encoder, find_rule(matching), template)

    def near(self, kind: str, count: int) -> list[NearestClasses]:
        """The classes nearest to each answer."""
        texts = [answer["stage1"][kind] for answer in self.answers]
        return self.scorer().nearest(texts, count)

    def needs_choice(self, kind: str) -> list[bool]:
        """Whether the ladder asks stage 2 about each answer."""
        return [needs_choice(self._index, answer["stage1"][kind]) for answer in self.answers]

    def recorded(self, kind: str) -> list[int | None]:
        """The class that stage 2 chose from the whole list."""
        return [self._index.find(answer["stage2"][kind]) for answer in self.answers]

    def prompt_tokens(self, kind: str, answer: str, candidates: Sequence[int] | None) -> int:
        """Tokens of a stage-2 prompt that lists numbers and names."""
        task = ChoiceTask(answer, self.classes, True, None if candidates is None else tuple(candidates))
        messages = self._prompts[kind].stage2_messages(task)
        return sum(
            self._count(part.text) for message in messages for part in message.parts if isinstance(part, TextPart)
        )

    def run(
        self,
        transcripts: Sequence[Transcript],
        matching: str = "ladder",
        template: str = DEFAULT_TEMPLATE,
        combine: Combination = "first",
    ) -> tuple[np.ndarray, Sequence[Prediction]]:
        """Hits (n,) and predictions."""
        found = self.scorer(matching, template).score(transcripts, combine).predictions
        return found.is_correct, found

    def slac(self, *kinds: str) -> list[Transcript]:
        """First answers of one kind, with those of another as a second view."""
        return transcripts_of(self.answers, self._index, kinds)

    def tlac(self, kind: str, asks_all: bool) -> list[Transcript]:
        """First answers and recorded choices; without `asks_all` only where the first answer names no class."""
        return transcripts_of(self.answers, self._index, [kind], 2, asks_all)


def rows_of(bench: Runner, kind: str) -> Iterator[Row]:
    """The methods on one kind of first answer."""
    texts = [answer["stage1"][kind] for answer in bench.answers]
    full = [bench.prompt_tokens(kind, text, None) for text in texts]
    asked = bench.needs_choice(kind)
    right, _ = bench.run(bench.slac(kind), "paper")
    yield Row(f"{kind}: SLAC, paper's rule", right)
    right, found = bench.run(bench.slac(kind))
    yield Row(f"{kind}: SLAC, ladder", right, f"{kind}: SLAC, paper's rule", predictions=found)
    right, _ = bench.run(bench.tlac(kind, asks_all=True), "paper")
    yield Row(f"{kind}: TLAC, paper's rule", right, f"{kind}: SLAC, paper's rule", len(texts), sum(full))
    right, found = bench.run(bench.tlac(kind, asks_all=False))
    spent = sum(tokens for tokens, is_asked in zip(full, asked, strict=True) if is_asked)
    yield Row(f"{kind}: TLAC, ladder", right, f"{kind}: TLAC, paper's rule", sum(asked), spent, found)
    recorded = bench.recorded(kind)
    for size in SIZES:
        near = bench.near(kind, size)
        inside = np.array([choice in one.indices for choice, one in zip(recorded, near, strict=True)])
        kept = right & (inside | ~np.array(asked))
        spent = sum(
            bench.prompt_tokens(kind, text, sorted(one.indices))
            for text, one, is_asked in zip(texts, near, asked, strict=True)
            if is_asked
        )
        yield Row(f"{kind}: shortlist k={size} *", kept, f"{kind}: TLAC, ladder", sum(asked), spent)
    right, _ = bench.run(bench.slac(kind), template=TEMPLATES)
    yield Row(f"{kind}: SLAC, 3 templates", right, f"{kind}: SLAC, ladder")


def cascade_rows(bench: Runner, store: Store) -> Iterator[Row]:
    """The name with hints; and tlac-cascade, which goes on with the sentence where that name is no class."""
    found = replay_hints(store).predictions
    right = found.is_correct
    yield Row("hints: SLAC, ladder", right, "sentence: TLAC, ladder", predictions=found)
    chosen, _ = bench.run(bench.tlac("sentence", asks_all=False))
    near, recorded = bench.near("sentence", TLACCascade().k), bench.recorded("sentence")
    inside = np.array([choice in one.indices for choice, one in zip(recorded, near, strict=True)])
    is_named = np.array([one.decided_by == "exact" for one in found])
    texts = [answer["stage1"]["sentence"] for answer in bench.answers]
    spent = sum(
        bench.prompt_tokens("sentence", text, sorted(one.indices))
        for text, one, named in zip(texts, near, is_named, strict=True)
        if not named
    )
    kept = np.where(is_named, right, chosen & inside)
    yield Row("hints: cascade *", kept, "sentence: TLAC, ladder", int((~is_named).sum()), spent)


def fused_rows(bench: Runner) -> Iterator[Row]:
    """The methods on both kinds of first answer together."""
    for label, template in (("fused", DEFAULT_TEMPLATE), ("fused, 3 templates", TEMPLATES)):
        right, found = bench.run(bench.slac("sentence", "name"), template=template, combine="fuse")
        for kind in KINDS:
            yield Row(label, right, f"{kind}: SLAC, ladder", predictions=found)


def print_rows(rows: Sequence[Row]) -> None:
    """Accuracy with Wilson's interval; the paired difference to a simpler method, and whether it is proven.

    Proven is a difference whose 95 % interval leaves out 0; the p-values are those of McNemar's exact test, by
    itself and corrected for all comparisons in the table.
    """
    known = {row.name: row for row in rows}
    compared = [row for row in rows if row.against]
    pairs = [(row.right, known[row.against or ""].right) for row in compared]
    alone = [mcnemar(*one) for one in pairs]
    say(f"{'method':<30} {'top-1':>6}  {'95 % CI':<12} {'calls':>5} {'tokens':>7}")
    for row in {row.name: row for row in rows}.values():
        n, correct = len(row.right), int(row.right.sum())
        low, high = wilson_interval(correct, n)
        spent = f"{row.calls:>5} {row.tokens / row.calls:>7.0f}" if row.calls else f"{'-':>5} {'-':>7}"
        say(f"{row.name:<30} {100 * correct / n:>6.1f}  {100 * low:4.1f} - {100 * high:5.1f} {spent}")
    say(f"\n{'less the simpler method':<59} {'points':>6} {'95 % CI':>14} {'p':>6} {'Holm':>6}")
    for row, one, p, corrected in zip(compared, pairs, alone, holm(alone), strict=True):
        gap = paired_difference(*one)
        verdict = "better" if gap.low > 0 else "worse" if gap.high < 0 else "unproven"
        interval = f"{100 * gap.low:+.1f}, {100 * gap.high:+.1f}"
        say(
            f"{f'{row.name} - {row.against}':<59} {100 * gap.value:>+6.1f} {interval:>14} {p:>6.3f} {corrected:>6.3f} "
            f"{verdict}"
        )


def print_shortlists(bench: Runner) -> bool:
    """How often truth and recorded choice stand in the shortlist, and the promise. True where it holds."""
    default = TLACShortlist().k
    say(f"\n{'shortlist':<16} {'truth inside':>12} {'choice inside':>13} {'95 % CI':>14} {'tokens of full':>14}")
    holds = True
    for kind in KINDS:
        texts = [answer["stage1"][kind] for answer in bench.answers]
        full = sum(bench.prompt_tokens(kind, text, None) for text in texts)
        for size in SIZES:
            near = bench.near(kind, size)
            truth = sum(label in one.indices for label, one in zip(bench.labels.tolist(), near, strict=True))
            choice = sum(index in one.indices for index, one in zip(bench.recorded(kind), near, strict=True))
            spent = sum(
                bench.prompt_tokens(kind, text, sorted(one.indices)) for text, one in zip(texts, near, strict=True)
            )
            low, high = wilson_interval(choice, len(texts))
            say(
                f"{kind + f' k={size}':<16} {truth:>12} {choice:>13} {f'{100 * low:.1f} - {100 * high:.1f}':>14} "
                f"{100 * spent / full:>12.1f} %"
            )
            if size == default:
                holds &= choice >= 0.98 * len(texts) and spent <= 0.1 * full
    return holds


def print_confidence(rows: Sequence[Row]) -> None:
    """What confidence is worth: without a calibration, and with one that never saw the samples it is measured on."""
    say(f"\n{'confidence':<38} {'n':>4} {'ECE':>6} {'Brier':>6} {'area':>6}   (cross-fitted: 10 parts)")
    for row in rows:
        if not row.predictions:
            continue
        fitted = list(row.predictions)
        for part in range(10):
            learnt = fit([one for place, one in enumerate(row.predictions) if place % 10 != part])
            places = range(part, len(fitted), 10)
            for place, one in zip(places, abstain([fitted[place] for place in places], None, learnt), strict=True):
                fitted[place] = one
        for label, predictions in (("uncalibrated", row.predictions), ("cross-fitted", tuple(fitted))):
            found = measure(predictions).confidence
            if found is not None:
                values = f"{found.n:>4} {found.calibration_error:>6.3f} {found.brier:>6.3f} {found.area:>6.3f}"
                say(f"{row.name + ', ' + label:<38} {values}")


def main(folder: Path) -> int:
    """Print all, and give the exit code."""
    with tempfile.TemporaryDirectory() as scratch, Store(Path(scratch) / "store") as store:
        bench = Runner(folder, store)
        rows = [row for kind in KINDS for row in rows_of(bench, kind)]
        rows += [*fused_rows(bench), *cascade_rows(bench, store)]
        say("100 recorded answers of a large multimodal model, 1000 classes, encoder minilm; tokens are those of a")
        say("stage-2 prompt on average, listed by number, as cl100k_base counts them. * simulated: the second stage is")
        say("taken to choose as it did from the whole list where that choice is offered, and to be wrong elsewhere.\n")
        print_rows(rows)
        holds = print_shortlists(bench)
        print_confidence([row for row in rows if row.against != "name: SLAC, ladder"])
        below = TLACRelook().relook_below
        say()
        for kind in KINDS:
            needed = bench.needs_choice(kind)
            near = [one for one, is_needed in zip(bench.near(kind, 25), needed, strict=True) if is_needed]
            doubtful = sum(one.relative_margin < below for one in near)
            say(f"tlac-relook would show the image again for {doubtful} of {len(near)} second stages ({kind})")
        promise = "at least 98 % of the recorded choices in the default shortlist, at most a tenth of the tokens"
        say(f"\n{promise}: {'holds' if holds else 'BROKEN'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
