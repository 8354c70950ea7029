"""The figures in docs/ablations.md and docs/confidence.md are what the benchmarks printed, and what is said holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.accuracy import confidence, hints, imagenet100, shortlists
from benchmarks.accuracy.recorded import minilm
from tlac.cache.store import Store
from tlac.config.registry import open_method

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("imagenet")
PRINTED = ROOT / "benchmarks" / "accuracy" / "imagenet100.txt"
RANKED = PRINTED.with_name("confidence.txt")
LISTED = PRINTED.with_name("shortlists.txt")
HINTED = PRINTED.with_name("hints.txt")


def test_every_figure_in_the_document_was_printed_by_the_benchmark() -> None:
    printed = [
        line for path in (PRINTED, RANKED, LISTED, HINTED) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("ablations.md", "confidence.md"))
    blocks = re.findall(r"^```text\n(.*?)^```$", pages, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 150
    assert [line for line in lines if line not in printed] == []


def test_the_default_shortlist_keeps_the_recorded_choices_for_a_tenth_of_the_tokens(
    shared: Path, imagenet_store: Store
) -> None:
    bench = imagenet100.Runner(shared / "lmm-answers", imagenet_store)
    size = open_method("tlac-shortlist").k
    for kind in imagenet100.KINDS:
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


def test_the_printed_accuracies_are_still_what_the_code_gives(shared: Path, imagenet_store: Store) -> None:
    bench = imagenet100.Runner(shared / "lmm-answers", imagenet_store)
    printed = PRINTED.read_text(encoding="utf-8")
    fused, _ = bench.run(bench.slac("sentence", "name"), combine="fuse")
    ladder, _ = bench.run(bench.tlac("name", asks_all=False))
    assert re.search(rf"^fused {{25}}\s*{100 * fused.mean():.1f} ", printed, re.M)
    assert re.search(rf"^name: TLAC, ladder\s+{100 * ladder.mean():.1f} ", printed, re.M)
    for row in imagenet100.cascade_rows(bench, imagenet_store):
        assert re.search(rf"^{re.escape(row.name)}\s+{100 * row.right.mean():.1f} ", printed, re.M)


def test_the_printed_shortlists_are_still_what_the_code_gives(shared: Path, imagenet_store: Store) -> None:
    count = shortlists.count_tokens()
    encoder, sets = minilm(imagenet_store), shortlists.answer_sets(shared / "lmm-answers", imagenet_store)
    lines = [line for asked in sets for line in shortlists.report(asked, encoder, count)]
    assert lines == LISTED.read_text(encoding="utf-8").splitlines()[1:]


def test_the_printed_nearness_of_hints_is_still_what_the_code_gives(imagenet_store: Store) -> None:
    encoder = minilm(imagenet_store)
    lines = [line for name, classes in hints.lists() for line in hints.report(name, classes, encoder)]
    printed = HINTED.read_text(encoding="utf-8").splitlines()[1:]
    # a place between two roundings may turn one draw
    assert list(map(_numbers, lines)) == [pytest.approx(_numbers(line), abs=0.002) for line in printed]
    nearness = [_numbers(line)[-4] for line in printed]
    assert all(spread > random for random, spread in zip(nearness[::2], nearness[1::2], strict=True))


def test_no_way_to_shorten_the_default_list_holds_more_truths_than_a_sentence_and_25_classes() -> None:
    """What docs/ablations.md says of the printed lines."""
    held: dict[str, dict[str, int]] = {}
    for line in LISTED.read_text(encoding="utf-8").splitlines()[1:]:
        images, way, truths = line[:28].strip(), line[28:68].strip(), line[68:].split()[0]
        held.setdefault(images, {})[way] = int(truths)
    assert len(held) == 3
    for found in held.values():
        assert found["sentence, k=25"] == max(found.values()) >= found["both, union of two k=25"]


@pytest.mark.slow  # 1,100 class names and five runs with their reports
def test_confidence_ranks_the_errors_of_recorded_answers_as_printed(
    shared: Path, imagenet_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(confidence.gather(shared / "lmm-answers", tmp_path, imagenet_store))
    assert sorted({one.images for one in found}) == [
        "caltech101", "imagenet100", "samples40 cifar10", "samples40 imagenet"
    ]  # fmt: skip
    seconds = list(confidence.gather_seconds(shared / "lmm-answers", imagenet_store))
    pooled = confidence.pool(found, seconds)
    capsys.readouterr()
    confidence.print_sets(found, confidence.weigh(found))
    confidence.print_left_out(found, confidence.weigh(found))
    confidence.print_seconds(seconds, confidence.weigh(found))
    confidence.print_reliability(pooled)
    values = [_numbers(line) for line in capsys.readouterr().out.splitlines()]
    printed = RANKED.read_text(encoding="utf-8")
    lines = printed[printed.index("\nAUROC by set") :].splitlines()[: len(values)]
    assert len(values) > 90
    assert values == [pytest.approx(_numbers(line), abs=0.01) for line in lines]
    confidence.draw_reliability(pooled, tmp_path / "drawn.svg")
    drawn, kept = (_places(path) for path in (tmp_path / "drawn.svg", confidence.FIGURE))
    assert len(kept) > 40
    assert drawn == [pytest.approx(place, abs=1.0) for place in kept]


def _numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?![\w.])", line)]


def _places(path: Path) -> list[tuple[float, float]]:
    """Where a figure's points stand, in its own units."""
    found = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', path.read_text(encoding="utf-8"))
    return [(float(x), float(y)) for x, y in found]
