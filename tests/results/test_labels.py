from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.support.fakes import digest
from tests.support.label_files import read_labels
from tlac.errors import TlacError, UnknownNameError, UsageError
from tlac.results.labels import COLUMNS, Label, write_labels
from tlac.types import Outcome

LABELS = (
    Label(
        "photos/a.jpg",
        "red car",
        0.75,
        "old car",
        -0.125,
        'An "old" car,\nred, größer 🚗',
        Outcome.ANSWERED,
        "",
        0.0025,
        digest("a"),
        (("red car", 0.5), ("old car", 0.25)),
    ),
    Label("photos/b.jpg", outcome=Outcome.FAILED, reason="photos/b.jpg: the file is empty"),
)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"labels.{kind}"
    # longer than a cell that csv reads by itself
    labels = [*LABELS, replace(LABELS[0], path="photos/c.jpg", answer="word " * 40_000)]
    write_labels(labels, path)
    expected = [replace(label, candidates=()) for label in labels] if kind == "csv" else labels
    assert read_labels(path) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_equal_labels_give_equal_bytes_in_every_format(tmp_path: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        for name in ("first", "second"):
            write_labels(LABELS, tmp_path / name, kind)
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_csv_has_the_columns_that_are_documented(tmp_path: Path) -> None:
    write_labels(LABELS[1:], tmp_path / "labels.csv")
    first, second = (tmp_path / "labels.csv").read_text(encoding="utf-8").split("\n")[:2]
    assert first == "path,label,confidence,runner_up,margin,answer,outcome,reason,cost_usd,sha256"
    assert second == "photos/b.jpg,,,,,,failed,photos/b.jpg: the file is empty,,"


def test_candidates_stand_in_parquet_as_a_list_of_classes_and_scores(tmp_path: Path) -> None:
    write_labels(LABELS, tmp_path / "labels.parquet")
    (row, _) = pyarrow.parquet.read_table(tmp_path / "labels.parquet").to_pylist()
    assert row["candidates"] == [{"class": "red car", "score": 0.5}, {"class": "old car", "score": 0.25}]
    assert row["margin"] == -0.125


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "''", "'tis", '=HYPERLINK("x","y")']
)
def test_no_text_in_a_csv_is_a_formula_and_none_is_changed(tmp_path: Path, text: str) -> None:
    label = Label(text, text, answer=text, runner_up=text, reason=text)
    write_labels([label], tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert read_labels(tmp_path / "labels.csv") == [label]


def test_a_format_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown file format 'xlsx': known: csv, jsonl, parquet"):
        write_labels([], tmp_path / "labels.xlsx")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_labels_that_end_too_early_leave_the_file_alone_and_a_part_that_can_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"labels.{kind}"
    write_labels(LABELS[1:], path)

    def interrupted() -> Iterator[Label]:
        yield LABELS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_labels(interrupted(), path)
    assert read_labels(path) == [LABELS[1]]
    assert [label.path for label in read_labels(tmp_path / f"labels.{kind}.part", kind)] == ["photos/a.jpg"]


def test_a_row_is_in_the_part_file_as_soon_as_it_is_there(tmp_path: Path) -> None:
    path, lines = tmp_path / "labels.csv", []

    def watched() -> Iterator[Label]:
        for label in LABELS:
            yield label
            lines.append((tmp_path / "labels.csv.part").read_text(encoding="utf-8").count("photos/"))

    write_labels(watched(), path)
    # the reason of the second names its path too
    assert lines == [1, 3]


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"

    def second() -> Iterator[Label]:
        yield LABELS[0]
        with pytest.raises(UsageError, match="another process is writing it"):
            write_labels(LABELS, path)

    write_labels(second(), path)
    assert [label.path for label in read_labels(path)] == ["photos/a.jpg"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TlacError, match=r"labels.csv: can't be written"):
        write_labels(LABELS, tmp_path / "labels.csv")
    tmp_path.chmod(0o700)


def test_a_file_in_a_folder_that_is_not_there_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(TlacError, match=r"labels.csv: can't be written: No such file"):
        write_labels(LABELS, tmp_path / "none" / "labels.csv")


def test_every_column_is_a_field() -> None:
    assert all(hasattr(LABELS[0], name) for name in COLUMNS)
