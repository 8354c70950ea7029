"""The figures in docs/methods.md are those that the benchmark printed, and what it promises holds."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tlac.cache.store import Store
from tlac.config.method_options import open_method

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("imagenet")
PRINTED = ROOT / "benchmarks" / "accuracy" / "imagenet100.txt"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("imagenet100", PRINTED.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules["imagenet100"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["imagenet100"]


def test_every_figure_in_the_document_was_printed_by_the_benchmark() -> None:
    printed = PRINTED.read_text(encoding="utf-8").splitlines()
    blocks = re.findall(
        r"^```text\n(.*?)^```$", (ROOT / "docs" / "methods.md").read_text(encoding="utf-8"), re.M | re.S
    )
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 20
    assert [line for line in lines if line not in printed] == []


def test_the_default_shortlist_keeps_the_recorded_choices_for_a_tenth_of_the_tokens(
    shared: Path, imagenet_store: Store, script: ModuleType
) -> None:
    bench = script.Runner(shared / "lmm-answers", imagenet_store)
    size = open_method("tlac-shortlist").k
    for kind in script.KINDS:
        near = bench.near(kind, size)
        inside = sum(choice in one.indices for choice, one in zip(bench.recorded(kind), near, strict=True))
        assert inside >= 98
        answers = [answer["stage1"][kind] for answer in bench.answers]
        full = sum(bench.prompt_tokens(kind, answer, None) for answer in answers[:10])
        short = sum(
            bench.prompt_tokens(kind, answer, sorted(one.indices))
            for answer, one in zip(answers[:10], near[:10], strict=True)
        )
        assert short <= 0.1 * full


def test_the_printed_accuracies_are_still_what_the_code_gives(
    shared: Path, imagenet_store: Store, script: ModuleType
) -> None:
    bench = script.Runner(shared / "lmm-answers", imagenet_store)
    printed = PRINTED.read_text(encoding="utf-8")
    fused, _ = bench.run(bench.slac("sentence", "name"), combine="fuse")
    ladder, _ = bench.run(bench.tlac("name", asks_all=False))
    assert re.search(rf"^fused {{25}}\s*{100 * fused.mean():.1f} ", printed, re.M)
    assert re.search(rf"^name: TLAC, ladder\s+{100 * ladder.mean():.1f} ", printed, re.M)
