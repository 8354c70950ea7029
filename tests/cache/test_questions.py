"""Answers that somebody gives by hand, from the questions to a run that needs nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tlac.cache.questions import read_answers
from tlac.errors import InputError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BENCH = ("--backend", "gemini", "--dataset", "cifar10-samples")


@pytest.fixture
def asked(tlac_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[dict]]:
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    path = tmp_path / "questions.jsonl"
    shown = tlac_command("cache", "missing", *BENCH, "-o", path)
    assert (shown.code, shown.out) == (0, f"20 questions: {path}\n"), shown.err
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, answers: list[dict]) -> Path:
    path.write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    return path


def test_both_stages_answered_by_hand_make_a_whole_run_offline(tlac_command, tmp_path: Path, asked) -> None:
    path, questions = asked
    assert all(Path(question["image"]).is_file() for question in questions)
    assert {question["stage"] for question in questions} == {"stage1"}
    given = [
        {"key": question["key"], "answer": "cat" if number else "a furry thing"}
        for number, question in enumerate(questions)
    ]
    answers = write(tmp_path / "answers.jsonl", given)
    assert tlac_command("cache", "answer", path, answers, "--by", "me").out.startswith("20 answers added to ")
    # one first answer is no class name
    assert tlac_command("cache", "missing", *BENCH, "-o", path).out == f"1 questions: {path}\n"
    (second,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert second["image"] is None
    assert "a furry thing" in second["text"]
    write(answers, [{"key": second["key"], "answer": "dog"}])
    assert tlac_command("cache", "answer", path, answers, "--by", "me").code == 0
    shown = tlac_command("bench", *BENCH, "--encoder", "minilm", "--offline", "--json", "--no-report")
    assert shown.code == 0, shown.err
    (run,) = json.loads(shown.out)["runs"]
    assert (run["answered"], run["cost_usd"]) == (20, 0.0)
    assert run["by_decision"]["exact"]["n"] == 19


def test_a_shortlist_is_asked_about_by_hand_too(tlac_command, tmp_path: Path, asked) -> None:
    path, questions = asked
    given = [{"key": question["key"], "answer": "a furry thing"} for question in questions]
    tlac_command("cache", "answer", path, write(tmp_path / "answers.jsonl", given), "--by", "me")
    shortlist = ("--method", "tlac-shortlist:k=3", "--encoder", "minilm")
    shown = tlac_command("cache", "missing", *BENCH, *shortlist, "-o", path)
    assert (shown.code, shown.out) == (0, f"1 questions: {path}\n"), shown.err
    assert sum(f": {name}\n" in json.loads(path.read_text())["text"] for name in CIFAR10) == 3


def test_questions_are_those_of_a_run_with_the_same_hints_and_class_order(tlac_command, tmp_path: Path, asked) -> None:
    path, plain = asked
    given = (*BENCH, "--encoder", "minilm", "--hints", "4", "--shuffle-classes", "1")
    stages = []
    for _ in range(2):
        assert tlac_command("cache", "missing", *given, "-o", path).code == 0
        questions = [json.loads(line) for line in path.read_text().splitlines()]
        stages.append([question["stage"] for question in questions])
        assert not {question["key"] for question in questions} & {question["key"] for question in plain}
        write(tmp_path / "answers.jsonl", [{"key": one["key"], "answer": "a furry thing"} for one in questions])
        assert tlac_command("cache", "answer", path, tmp_path / "answers.jsonl", "--by", "me").code == 0
    assert stages == [["stage1"] * 20, ["stage2"]]
    shown = tlac_command("bench", *given, "--offline", "--json", "--no-report")
    assert (shown.code, json.loads(shown.out)["runs"][0]["answered"]) == (0, 20), shown.err


def test_a_part_is_what_a_run_of_that_part_would_ask(tlac_command, tmp_path: Path, asked) -> None:
    _, questions = asked
    part = tmp_path / "part.jsonl"
    shown = tlac_command("cache", "missing", *BENCH, "--limit", "3", "-o", part)
    assert (shown.code, shown.out) == (0, f"3 questions: {part}\n")
    drawn = [json.loads(line) for line in part.read_text().splitlines()]
    assert len({one["key"] for one in drawn} & {one["key"] for one in questions}) == 3
    write(tmp_path / "answers.jsonl", [{"key": one["key"], "answer": "cat"} for one in drawn])
    tlac_command("cache", "answer", part, tmp_path / "answers.jsonl", "--by", "me")
    same = ("bench", *BENCH, "--encoder", "minilm", "--offline", "--json", "--no-report", "--limit", "3")
    assert tlac_command(*same).code == 0
    assert tlac_command(*same, "--seed", "1").code != 0


def test_what_is_there_stays_as_it_is(tlac_command, tmp_path: Path, asked) -> None:
    path, questions = asked
    for answer, told in (("cat", "1 answers added"), ("dog", "0 answers added")):
        answers = write(tmp_path / "answers.jsonl", [{"key": questions[0]["key"], "answer": answer}])
        assert tlac_command("cache", "answer", path, answers, "--by", "me").out.startswith(told)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{"key": "0" * 64, "answer": "cat"}], "line 1: 000000000000 is the key of no question in"),
        ([{"key": None, "answer": "cat"}, {"key": None, "answer": "dog"}], "line 2: a second answer to"),
        ([{"key": None, "answr": "cat"}], "line 1: not as expected: Object contains unknown field `answr`"),
        ([{"key": None}], "line 1: not as expected: Object missing required field `answer`"),
    ],
)
def test_wrong_answers_are_named_by_line_and_none_is_kept(
    tlac_command, tmp_path: Path, asked, lines: list[dict], complaint: str
) -> None:
    path, questions = asked
    given = [{**line, "key": line["key"] or questions[0]["key"]} for line in lines]
    shown = tlac_command("cache", "answer", path, write(tmp_path / "answers.jsonl", given), "--by", "me")
    assert shown.code == 2
    assert complaint in shown.err
    assert tlac_command("cache", "missing", *BENCH, "-o", path).out.startswith("20 questions")


def test_answers_of_nobody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is not said who gave the answers"):
        read_answers(tmp_path / "questions.jsonl", tmp_path / "answers.jsonl", " ")


def test_a_question_that_was_changed_is_refused(tlac_command, tmp_path: Path, asked) -> None:
    path, questions = asked
    questions[0]["request"]["params"] = {"temperature": 2}
    write(path, questions)
    answers = write(tmp_path / "answers.jsonl", [{"key": questions[0]["key"], "answer": "cat"}])
    shown = tlac_command("cache", "answer", path, answers, "--by", "me")
    assert (shown.code, "line 1: its key is not the digest of its request" in shown.err) == (2, True)
