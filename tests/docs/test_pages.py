"""The commands of docs/bench.md and docs/compare.md, one after the other as they stand there; the site's navigation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.documents import ROOT, blocks_of, run

DOCS = ROOT / "docs"
BENCH, COMPARE = ((DOCS / name).read_text(encoding="utf-8") for name in ("bench.md", "compare.md"))


@pytest.mark.slow
def test_the_commands_of_bench_and_compare_work(working_folder: Path, environment: dict[str, str]) -> None:
    run(["bash", "-e", "-c", "\n".join(blocks_of(BENCH, "sh"))], working_folder, environment)
    (code,) = blocks_of(BENCH, "python")
    shown = run([sys.executable, "-c", code], working_folder, environment)
    assert shown.split()[:5] == ["sample", "true_class", "predicted_class", "confidence", "cost_usd"]
    shown = run(["bash", "-e", "-c", "\n".join(blocks_of(COMPARE, "sh"))], working_folder, environment)
    assert "p of McNemar's exact test" in shown
    assert "for 5,000 images: the most accurate of" in shown
    assert (working_folder / "comparison.html").is_file()
    assert len(list((working_folder / "figures").glob("*.tex"))) >= 2


def test_the_site_has_its_pages_in_the_order_in_which_they_are_needed() -> None:
    found = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    order = [title for entry in found["nav"] for title in entry]
    assert order == ["tlac", "Label", "Bench", "Compare", "Methods", "Extend", "Scale", "Reproduce", "Security"]
    named = re.findall(r"\S+\.md", str(found["nav"]).replace("'", " "))
    assert [name for name in named if not (DOCS / name).is_file()] == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_file_that_a_page_links_is_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (DOCS / target).exists()] == []
