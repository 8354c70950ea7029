"""docs/errors.md lists what the code knows: every outcome, error, exit code, kind and rule, and no other."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tlac
from tlac import errors
from tlac.errors import TlacError
from tlac.lmms.litellm_errors import _RULES
from tlac.types import Outcome

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its first two lines."""
    lines = [line for line in TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def raised() -> Iterator[type[TlacError]]:
    """Every public error of tlac's modules."""
    for module in pkgutil.walk_packages(tlac.__path__, "tlac."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    left = [TlacError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith("tlac.") and not kind.__name__.startswith("_"):
            yield kind


def test_every_outcome_is_listed() -> None:
    assert [row[0] for row in rows("Outcomes")] == [f"`{outcome}`" for outcome in Outcome]


def test_every_error_is_listed_with_its_exit_code() -> None:
    listed = {row[0].strip("`"): int(row[1]) for row in rows("Errors")}
    assert listed == {
        kind.__name__ if kind.__module__ == errors.__name__ else f"{kind.__module__}.{kind.__name__}": kind.exit_code
        for kind in raised()
    }


def test_every_exit_code_is_listed() -> None:
    assert {int(row[0]) for row in rows("Exit codes")} == {0, *(kind.exit_code for kind in raised())}


def test_every_kind_that_retries_are_counted_by_is_listed() -> None:
    calls = [
        node
        for file in (ROOT / "tlac").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "super().__init__"))
    ]
    kinds = {keyword.value for call in calls for keyword in call.keywords if keyword.arg == "kind"}
    found = {str(value.value) for value in kinds if isinstance(value, ast.Constant)}
    listed = TEXT.split("counts retries by kind: ")[1].split(". After")[0]
    assert set(re.findall(r"`([^`]+)`", listed)) == found | {"HTTP 503"}


@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule.text[:30])
def test_every_lasting_fault_of_a_provider_is_listed(rule: object) -> None:
    says = re.split(r"[:;]", rule.text)[0]  # type: ignore[attr-defined]
    says = re.sub(r".*\{\w+(?:!r)?\} ", "", says)
    assert any(row[0].startswith(says) for row in rows("What a provider says")), says
