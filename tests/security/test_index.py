"""The index of attacks is true: every test that it names is there, and no file of this folder is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (Path(__file__).parent / "README.md").read_text(encoding="utf-8"))


def test_every_test_that_is_named_is_there() -> None:
    defined = {
        (file, node.name)
        for file in {file for file, _ in NAMED}
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert len(NAMED) > 30
    assert [pair for pair in NAMED if pair not in defined] == []


def test_every_file_of_this_folder_is_named() -> None:
    files = {f"tests/security/{path.name}" for path in Path(__file__).parent.glob("test_*.py")}
    assert files - {file for file, _ in NAMED} == {"tests/security/test_index.py"}
