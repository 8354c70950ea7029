"""The page of results says what scoring its packs gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.results import PAGE, ROWS, doubts, replay, table
from tlac.cache.store import Store

pytestmark = pytest.mark.xdist_group("imagenet")


def test_the_page_holds_the_table_that_its_packs_give() -> None:
    lines = list(table())
    assert len(lines) == len(ROWS) + 2
    assert "".join(f"{line}\n" for line in lines) in PAGE.read_text(encoding="utf-8")


def test_the_page_says_how_often_a_cascade_would_look_again_and_what_that_could_gain(tmp_path: Path) -> None:
    cascades = [row for row in ROWS if row.method == "tlac-cascade"]
    with Store(tmp_path / "store") as store:
        found = [doubts(row, store) for row in cascades]
        wrong = [one for row in cascades for one in replay(row, store).predictions if one.predicted != one.label]
    second, doubted, right = (sum(counts) for counts in zip(*found, strict=True))
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"the image again for {doubted} of {second} second stages" in text
    assert doubted == right
    named = sum(one.decided_by == "exact" for one in wrong)
    assert f"Of the rows' {len(wrong)} errors {named} are class names" in text
    assert f"and {len(wrong) - named} are the nearest class too" in text
