"""A hundred real answers, replayed: the figures that are known for them, and what the ladder saves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.lmm_answers import PROMPT_SETS, entries, manifest, read_answers
from tlac.cache.pack import write_pack
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_backend, load_dataset_config, load_encoder_config
from tlac.evaluation.runner import RunConfig, Runner
from tlac.results.record import Run
from tlac.types import Sample

pytestmark = pytest.mark.xdist_group("imagenet")


@dataclass(frozen=True)
class ImageNet100:
    root: Path
    answers: list[dict]
    classes: tuple[str, ...]
    name: str = "imagenet100"
    split: str = "all"
    protocol: str = "one photo of each of 100 classes"
    prompt: str = "imagenet"

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Sample]:
        for answer in self.answers:
            yield Sample(answer["image"], self.root / answer["image"], answer["label"])


@pytest.fixture
def bench(imagenet_store: Store) -> Runner:
    return Runner(imagenet_store)


def replay(bench: Runner, shared: Path, tmp_path: Path, kind: str, matching: str, method: str) -> Run:
    folder = shared / "lmm-answers"
    answers = read_answers(folder / "imagenet100.jsonl")
    for answer in answers:
        answer["sha256"] = hashlib.sha256((folder / answer["image"]).read_bytes()).hexdigest()
    classes = load_dataset_config("imagenet-samples").spec.classes
    prompts = load_prompts(PROMPT_SETS[kind])
    pack = tmp_path / "imagenet100.jsonl.zst"
    write_pack(pack, manifest(prompts), entries(answers, kind, classes, prompts, "imagenet"))
    backend = load_backend(f"pack:{pack}")
    dataset = ImageNet100(folder, answers, classes)
    encoder = load_encoder_config("minilm")
    spec = RunConfig(backend, backend, dataset, method, encoder, prompts, matching)
    return bench.run(spec, tmp_path / "runs")


@pytest.mark.parametrize("matching", ["paper", "ladder"])
@pytest.mark.parametrize(
    ("kind", "method", "accuracy"),
    [("sentence", "slac", 0.85), ("name", "slac", 0.86), ("sentence", "tlac", 0.95), ("name", "tlac", 0.92)],
)
def test_both_rules_give_the_known_figures(  # noqa: PLR0917
    bench: Runner, shared: Path, tmp_path: Path, kind: str, matching: str, method: str, accuracy: float
) -> None:
    run = replay(bench, shared, tmp_path, kind, matching, method)
    assert run.record.is_complete
    assert run.metrics.accuracy == pytest.approx(accuracy, abs=1e-12)


def test_the_exact_rung_decides_54_names_and_saves_as_many_calls(bench: Runner, shared: Path, tmp_path: Path) -> None:
    run = replay(bench, shared, tmp_path, "name", "ladder", "tlac")
    assert run.metrics.by_decision["exact"].n == 54
    stage2 = run.record.calls.stage2
    assert stage2.asked + stage2.from_store == 46


def test_the_exact_rung_decides_no_sentence(bench: Runner, shared: Path, tmp_path: Path) -> None:
    run = replay(bench, shared, tmp_path, "sentence", "ladder", "tlac")
    assert "exact" not in run.metrics.by_decision
    stage2 = run.record.calls.stage2
    assert stage2.asked + stage2.from_store == 100
