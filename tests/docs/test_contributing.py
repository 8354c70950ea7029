"""CONTRIBUTING.md is true of the tree: its paths, its rooms, its commands, its words."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_architecture import FLOORS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_path_that_is_named_is_there() -> None:
    paths = re.findall(r"`((?:tlac|tests|backends|prompts|benchmarks|cassettes|docs)/[\w./-]*)`", TEXT)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_rooms_are_listed_in_the_order_of_imports() -> None:
    rooms = re.findall(r"^    tlac/(\w+)(\.py|/) ", TEXT, re.M)
    assert [name for name, _ in rooms] == FLOORS
    assert [name for name, ending in rooms if not (ROOT / "tlac" / f"{name}{ending}").exists()] == []


def test_every_make_target_that_is_named_is_one() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = set(re.findall(r"`make ([\w-]+)", TEXT))
    assert named >= {"test", "test-slow", "test-all", "fuzz", "mutants"}
    assert named <= targets


def test_the_glossary_has_at_most_fifteen_words() -> None:
    glossary = TEXT.partition("## Words that are ours")[2].partition("\n## ")[0]
    assert 5 <= len(re.findall(r"^\| (?!word|---)", glossary, re.M)) <= 15
