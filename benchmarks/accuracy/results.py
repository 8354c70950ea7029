"""The table of docs/results.md, scored anew from the packs in cassettes/packs: no image, no key, no network.

    python -m benchmarks.accuracy.results [--write]

Images are known by their digest; what they are labelled with stands in benchmarks/accuracy/*.json. `--write` puts the
table into the page.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.accuracy.recorded import ROOT, minilm
from tlac.analysis.compare import paired_difference
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_lmm
from tlac.config.schemas import Backend, load_backend, load_encoder_config
from tlac.errors import MissingAnswersError
from tlac.evaluation.collect import collect
from tlac.evaluation.prompter import BoundLMM
from tlac.evaluation.run_config import ClassList, RunConfig, class_finder, plan_questions
from tlac.interfaces import combination_of
from tlac.runtime.formatting import interval, percent
from tlac.scoring.matching import DEFAULT_TEMPLATE
from tlac.scoring.metrics import hinted_classes, measure
from tlac.scoring.predictions import Predictions
from tlac.scoring.scorer import Scorer
from tlac.types import BoolArray, Image, LMMRequest, LMMResponse, Sample, Source, Transcript

PAGE = ROOT / "docs" / "results.md"
_MARKS = ("<!-- table -->\n", "<!-- end -->\n")


class ImageSet(msgspec.Struct, frozen=True):
    """Class names in label order, and (sha256 of the image, label) of each sample; `prompt` as in a dataset file."""

    title: str
    prompt: str
    classes: tuple[str, ...]
    samples: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Row:
    """One line of the table: a set of images, packs of answers about them, and how it was asked.

    What the first pack lacks the next is asked, whose answers are another run's about the same images.
    """

    images: str
    packs: tuple[str, ...]
    method: str
    prompts: str = "default"


ROWS = (
    Row("caltech101-novel", ("caltech101-novel-tlac",), "tlac"),
    Row("caltech101-novel", ("caltech101-novel-fused",), "slac"),
    Row("caltech101-novel", ("caltech101-novel-fused",), "slac", "name"),
    Row("caltech101-novel", ("caltech101-novel-fused",), "slac-fused"),
    Row("caltech101-novel", ("caltech101-novel-shortlist",), "tlac-shortlist:k=10", "default-1"),
    Row("caltech101-novel", ("caltech101-novel-hints",), "slac", "default:hints=12"),
    Row("caltech101-novel", ("caltech101-novel-hints", "caltech101-novel-tlac"), "tlac-cascade", "default:hints=12"),
    Row("imagenet100", ("imagenet100-hints",), "slac", "default:hints=30"),
    Row("imagenet100", ("imagenet100-spread",), "slac", "default:hints=30,spread=true"),
    Row("imagenet100", ("imagenet100-hints",), "tlac-cascade", "default:hints=30"),
)


class Packs:
    """Answers a request from the first pack that holds it, each asked in its own backend's form."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._packs = [(backend.spec, open_lmm(backend)) for backend in backends]

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The recorded answer. Raises MissingAnswersError where no pack holds one."""
        *others, (last, lmm) = self._packs
        for spec, pack in others:
            with suppress(MissingAnswersError):
                return await pack.ask(replace(request, revision=spec.revision, preparation=spec.image))
        return await lmm.ask(replace(request, revision=last.revision, preparation=last.image))


async def _by_digest(_source: Source, name: str) -> Image:
    return Image(name, b"")


@dataclass(frozen=True)
class Replayed:
    """What a row's packs said about its images, in their order, and what was made of it."""

    images: ImageSet
    config: RunConfig
    transcripts: Sequence[Transcript]
    predictions: Predictions

    @property
    def first_answers(self) -> list[str]:
        """What stage 1 said of each image."""
        return [one.stage1.response.text for one in self.transcripts if one.stage1]


def read_images(name: str) -> ImageSet:
    """A set of images by the name of its file."""
    return msgspec.json.decode((Path(__file__).parent / f"{name}.json").read_bytes(), type=ImageSet)


def replay(row: Row, store: Store) -> Replayed:
    """Ask a row's packs as a run would. Exits where they lack an answer."""
    images = read_images(row.images)
    backends = [load_backend(f"pack:{ROOT / 'cassettes' / 'packs' / name}.jsonl.zst") for name in row.packs]
    encoder = replace(load_encoder_config("minilm"), is_offline=True)
    prompts = load_prompts(row.prompts)
    dataset = ClassList(images.classes, images.prompt)
    stored = minilm(store)
    asked = RunConfig(backends[0], backends[0], dataset, row.method, encoder, prompts, "ladder")
    config = asked.with_spread_hints(stored)
    scorer = Scorer(images.classes, stored, asked.rule, DEFAULT_TEMPLATE)
    lmm = Packs(backends)
    prompter = plan_questions(config, lambda asked: BoundLMM(asked, lmm), class_finder(config, stored))
    samples = [Sample(sha256, b"", label) for sha256, label in images.samples]
    transcripts, _ = asyncio.run(collect(samples, prompter, config.asking_method, 8, identify=_by_digest))
    failed = next((one.reason for one in transcripts if one.failure), None)
    if failed is not None:
        raise SystemExit(f"{row.packs}, {row.method}: {failed}")
    scored = scorer.score(transcripts, combination_of(config.asking_method))
    return Replayed(images, config, transcripts, scored.predictions)


def score(row: Row, store: Store) -> tuple[tuple[str, ...], BoolArray]:
    """The cells of a row, and which images it got right. Exits where its packs lack an answer."""
    found = replay(row, store)
    hinted = hinted_classes(found.images.classes, found.config.hints)
    metrics = measure(found.predictions, hinted)
    distinct = {turn.key: turn for one in found.transcripts for turn in one.turns}
    second = [turn for turn in distinct.values() if turn.stage == "stage2"]
    looks = sum(turn.has_image for turn in second)
    cells = (
        found.images.title,
        row.method,
        row.prompts,
        str(metrics.n),
        f"{percent(metrics.accuracy)} ({interval(metrics.accuracy_ci95, 1)})",
        percent(metrics.accuracy_unhinted) if metrics.unhinted is not None else "",
        str(len(distinct) - len(second) + looks),
        str(len(second) - looks),
    )
    return cells, np.array([one.predicted == one.label for one in found.predictions])


def replay_hints(store: Store) -> Replayed:
    """What was said of the recorded answers' images, in their order, when 30 class names were shown."""
    return replay(Row("imagenet100", ("imagenet100-hints",), "slac", "default:hints=30"), store)


def doubts(row: Row, store: Store) -> tuple[int, int, int]:
    """Of a cascade: its second stages, those whose choice is not the nearest class, which `relook=true` would look at
    again, and how many of these choices are right."""
    found = replay(row, store)
    finder = class_finder(found.config, minilm(store))
    chosen = [
        (one.stage1.response.text, prediction)
        for one, prediction in zip(found.transcripts, found.predictions, strict=True)
        if one.stage1 is not None and one.stage2 is not None
    ]
    doubted = [
        prediction
        for answer, prediction in chosen
        if asyncio.run(finder.nearest(answer, 1)).indices != (prediction.predicted,)
    ]
    return len(chosen), len(doubted), sum(one.predicted == one.label for one in doubted)


def table() -> Iterator[str]:
    """The lines of the table in Markdown."""
    heads = (
        *("images", "method", "prompts", "n", "top-1 (95 % CI)", "without hinted", "calls with image", "without"),
        "less tlac, paired (95 % CI)",
    )
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---' for _ in heads)}|"
    reference: dict[str, BoolArray] = {}
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        for row in ROWS:
            cells, hits = score(row, store)
            difference = ""
            if row.method == "tlac":
                reference[row.images] = hits
            elif row.images in reference:
                found = paired_difference(hits, reference[row.images])
                difference = f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
            yield f"| {' | '.join((*cells, difference))} |"


def main() -> None:
    """Print the table, or put it into the page."""
    lines = "".join(f"{line}\n" for line in table())
    if "--write" not in sys.argv[1:]:
        sys.stdout.write(lines)
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_MARKS[0])
    PAGE.write_text(f"{before}{_MARKS[0]}{lines}{_MARKS[1]}{rest.partition(_MARKS[1])[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
