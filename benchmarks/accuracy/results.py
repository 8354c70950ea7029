"""The table of docs/results.md, scored anew from the packs in cassettes/packs: no image, no key, no network.

    python -m benchmarks.accuracy.results [--write]

Images are known by their digest; what they are labelled with stands in benchmarks/accuracy/*.json. `--write` puts the
table into the page.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import combination_of, open_encoder, open_lmm
from tlac.config.schemas import load_backend, load_encoder_config
from tlac.encoders.cached import keep_embeddings
from tlac.evaluation.collect import collect
from tlac.evaluation.run_config import ClassList, RunConfig, class_finder, plan_questions
from tlac.methods.base import BoundLMM
from tlac.runtime.formatting import interval, percent
from tlac.scoring.matching import DEFAULT_TEMPLATE, find_rule
from tlac.scoring.metrics import hinted_classes, measure
from tlac.scoring.scorer import Scorer
from tlac.types import Image, Sample, Source

ROOT = Path(__file__).parents[2]
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
    """One line of the table: a set of images, a pack of answers about them, and how it was asked."""

    images: str
    pack: str
    method: str
    prompts: str = "default"


ROWS = (
    Row("caltech101-novel", "caltech101-novel-fused", "slac"),
    Row("caltech101-novel", "caltech101-novel-fused", "slac", "name"),
    Row("caltech101-novel", "caltech101-novel-fused", "slac-fused"),
    Row("caltech101-novel", "caltech101-novel-tlac", "tlac"),
    Row("caltech101-novel", "caltech101-novel-shortlist", "tlac-shortlist:k=10", "default-1"),
    Row("caltech101-novel", "caltech101-novel-hints", "slac", "default:hints=12"),
    Row("caltech101-novel", "caltech101-novel-hints", "tlac-cascade", "default:hints=12"),
    Row("imagenet100", "imagenet100-hints", "slac", "default:hints=30"),
    Row("imagenet100", "imagenet100-hints", "tlac-cascade", "default:hints=30"),
)


async def _by_digest(_source: Source, name: str) -> Image:
    return Image(name, b"")


def score(row: Row, store: Store) -> tuple[str, ...]:
    """The cells of a row. Raises MissingAnswersError where the pack lacks an answer."""
    content = (Path(__file__).parent / f"{row.images}.json").read_bytes()
    images = msgspec.json.decode(content, type=ImageSet)
    backend = load_backend(f"pack:{ROOT / 'cassettes' / 'packs' / row.pack}.jsonl.zst")
    encoder = replace(load_encoder_config("minilm"), is_offline=True)
    prompts, rule = load_prompts(row.prompts), find_rule("ladder")
    dataset = ClassList(images.classes, images.prompt)
    config = RunConfig(backend, backend, dataset, row.method, encoder, prompts, rule)
    stored = keep_embeddings(open_encoder(encoder), encoder, store)
    scorer = Scorer(images.classes, stored, rule, DEFAULT_TEMPLATE)
    lmm = open_lmm(backend)
    prompter = plan_questions(config, lambda asked: BoundLMM(asked, lmm), class_finder(config, stored))
    samples = [Sample(sha256, b"", label) for sha256, label in images.samples]
    transcripts = asyncio.run(collect(samples, prompter, config.asking_method, 8, identify=_by_digest)).transcripts
    failed = next((one.failure for one in transcripts if one.failure), None)
    if failed is not None:
        raise SystemExit(f"{row.pack}, {row.method}: {failed.reason}")
    hinted = hinted_classes(images.classes, config.hints)
    metrics = measure(scorer.score(transcripts, combination_of(config.asking_method)).predictions, hinted)
    distinct = {turn.key: turn for one in transcripts for turn in one.turns}
    second = [turn for turn in distinct.values() if turn.stage == "stage2"]
    looks = sum(turn.has_image for turn in second)
    return (
        images.title,
        row.method,
        row.prompts,
        str(metrics.n),
        f"{percent(metrics.accuracy)} ({interval(metrics.accuracy_ci95, 1)})",
        percent(metrics.accuracy_unhinted) if metrics.unhinted is not None else "",
        str(len(distinct) - len(second) + looks),
        str(len(second) - looks),
    )


def table() -> Iterator[str]:
    """The lines of the table in Markdown."""
    heads = ("images", "method", "prompts", "n", "top-1 (95 % CI)", "without hinted", "calls with image", "without")
    yield f"| {' | '.join(heads)} |"
    yield f"|{'|'.join('---' for _ in heads)}|"
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
        for row in ROWS:
            yield f"| {' | '.join(score(row, store))} |"


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
