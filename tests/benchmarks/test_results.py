"""The page of results says what scoring its packs gives."""

from __future__ import annotations

import pytest

from benchmarks.accuracy.results import PAGE, ROWS, table

pytestmark = pytest.mark.xdist_group("imagenet")


def test_the_page_holds_the_table_that_its_packs_give() -> None:
    lines = list(table())
    assert len(lines) == len(ROWS) + 2
    assert "".join(f"{line}\n" for line in lines) in PAGE.read_text(encoding="utf-8")
