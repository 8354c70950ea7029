"""Files of labels, read with what other people read them with."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas
import pyarrow.parquet

from tlac.results.labels import Label
from tlac.types import Outcome

_NUMBERS = ("confidence", "margin", "cost_usd")


def read_labels(path: Path, kind: str | None = None) -> list[Label]:
    """The labels in a file, of the kind that its name ends in if none is given; further columns are passed over."""
    return [_label(row) for row in _READERS[kind or path.suffix[1:]](path)]


def _label(row: dict[str, Any]) -> Label:
    pairs = tuple((one["class"], one["score"]) if isinstance(one, dict) else tuple(one) for one in row["candidates"])
    known = {one.name: row[one.name] for one in fields(Label)}
    return Label(**{**known, "outcome": Outcome(row["outcome"]), "reason": row["reason"] or "", "candidates": pairs})


def _read_csv(path: Path) -> list[dict[str, Any]]:
    table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    # a spreadsheet hides the sign before what would be a formula
    shown = [
        {name: re.sub(r"^'(?=[=+\-@\t\r'])", "", cell) for name, cell in row.items()}
        for row in table.to_dict("records")
    ]
    return [
        {name: (float(cell) if name in _NUMBERS else cell) if cell else None for name, cell in row.items()}
        | {"candidates": ()}
        for row in shown
    ]


_READERS = {
    "csv": _read_csv,
    "jsonl": lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line],
    "parquet": lambda path: pyarrow.parquet.read_table(path).to_pylist(),
}
