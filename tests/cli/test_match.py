from __future__ import annotations

import json
from pathlib import Path

import pytest

OPTIONS = ("--classes", "Groenendael dog, strawberry, deck chair", "--encoder", "minilm")


def test_a_warning_is_one_line(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("crane\n", encoding="utf-8")
    shown = tlac_command("match", tmp_path / "answers.txt", "--classes", "crane, stork, crane", "--encoder", "minilm")
    assert shown.code == 0
    assert shown.err.startswith("tlac: classes: 'crane' stands more than once")
    assert shown.err.count("\n") == 1


def test_what_is_found_goes_into_a_file(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("The strawberry.\n", encoding="utf-8")
    shown = tlac_command("match", tmp_path / "answers.txt", *OPTIONS, "-o", tmp_path / "matched.jsonl")
    assert (shown.code, shown.out) == (0, "")
    assert json.loads((tmp_path / "matched.jsonl").read_text(encoding="utf-8"))["class_name"] == "strawberry"


@pytest.mark.parametrize("name", ["answers.txt", "names.txt"])
def test_neither_answers_nor_class_names_are_written_over(tlac_command, tmp_path: Path, name: str) -> None:
    texts = {"answers.txt": "The strawberry.\n", "names.txt": "strawberry\ndeck chair\n"}
    for one, text in texts.items():
        (tmp_path / one).write_text(text, encoding="utf-8")
    named = ("--classes", tmp_path / "names.txt", "--encoder", "minilm")
    shown = tlac_command("match", tmp_path / "answers.txt", *named, "-o", tmp_path / name)
    assert (shown.code, (tmp_path / name).read_text(encoding="utf-8")) == (2, texts[name])
    assert "is an input, and would be overwritten" in shown.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("answers.txt", "a Groenendael lying on a rug\n\nThe strawberry.\n"),
        ("answers.csv", "id,answer\n1,a Groenendael lying on a rug\n2,The strawberry.\n"),
        (
            "answers.jsonl",
            '{"answer": "a Groenendael lying on a rug"}\n{"answer": "The strawberry.", "choice": null}\n',
        ),
    ],
)
def test_answers_are_mapped_onto_classes(tlac_command, tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    shown = tlac_command("match", path, *OPTIONS)
    assert shown.code == 0, shown.err
    first, *blank, second = map(json.loads, shown.out.splitlines())
    # a blank line is an answer of no words, so that every later one keeps its place
    assert [(one["answer"], one["predicted"]) for one in blank] == ([("", None)] if name == "answers.txt" else [])
    assert (first["class_name"], first["rung"], first["predicted"]) == ("Groenendael dog", "similarity", 0)
    assert (second["class_name"], second["rung"]) == ("strawberry", "exact")
    assert second["margin"] > 0


def test_a_choice_decides_and_other_columns_stay(tlac_command, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("answer,choice,who\nsome red thing,Deck chair,me\n", encoding="utf-8")
    (line,) = map(json.loads, tlac_command("match", path, *OPTIONS).out.splitlines())
    assert (line["class_name"], line["rung"], line["who"]) == ("deck chair", "choice", "me")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.txt", "", "holds no answers"),
        ("a.csv", "text\nhello\n", "no column answer"),
        ("a.tsv", "text\twho\nhello\tme\n", "no column answer"),
        ("a.json", '["hello"]', "give .jsonl, with an object a line"),
        ("a.csv", 'answer\n"open\n', "not valid CSV"),
        ("a.csv", "answer\na,b\n", "line 2: 2 cells"),
        ("a.jsonl", '{"answer": "x"}\n{\n', "line 2: not valid JSON"),
        ("a.jsonl", "[1]\n", "line 1: needs a key 'answer'"),
        ("a.jsonl", '{"answer": "x", "choice": 3}\n', "'choice' must be text"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(
    tlac_command, tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    shown = tlac_command("match", path, *OPTIONS)
    assert (shown.code, shown.out) == (2, "")
    assert str(path) in shown.err
    assert complaint in shown.err
    assert shown.err.count("\n") == 1


def test_a_missing_file_and_one_that_is_no_text_are_named(tlac_command, tmp_path: Path) -> None:
    assert "no such file" in tlac_command("match", tmp_path / "none.txt", *OPTIONS).err
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in tlac_command("match", tmp_path / "a.txt", *OPTIONS).err
