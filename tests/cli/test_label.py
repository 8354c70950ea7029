from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.fakes import FakeLMM, LetterEncoder, Shown, make_png
from tests.support.label_files import read_labels
from tlac.errors import TlacError
from tlac.results.calibration import write_calibration
from tlac.runtime import aio
from tlac.scoring.confidence import Calibration
from tlac.types import LMMRequest, LMMResponse, Outcome, TextPart, Usage

CLASSES = ("--classes", "red car, old car, lorry")


@pytest.fixture
def lmm(monkeypatch: pytest.MonkeyPatch) -> FakeLMM:
    """Says the same of every image; its answers cost what `gemini` would take for them."""
    fake = FakeLMM(lambda request: "an ancient vehicle" if request.stage == "stage1" else "old car")
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: fake)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    return fake


@pytest.fixture
def label(tlac_command: Callable[..., Shown], lmm: FakeLMM) -> Callable[..., Shown]:
    """Labels the four images in `photos`, one of them broken, unless told otherwise."""
    for number in range(3):
        Path(f"photos/{number}").mkdir(parents=True)
        Path(f"photos/{number}/x.png").write_bytes(make_png(number))
    Path("photos/broken.png").write_bytes(b"")

    def run(
        *arguments: object,
        inputs: tuple[str, ...] = ("photos",),
        classes: tuple[str, ...] = CLASSES,
        backends: tuple[str, ...] = ("--backend", "gemini"),
    ) -> Shown:
        return tlac_command("label", *inputs, *classes, *backends, *arguments)

    return run


def test_a_folder_becomes_a_file_with_a_row_for_each_image(label, lmm: FakeLMM) -> None:
    shown = label()
    assert shown.code == 3
    rows = read_labels(Path("labels.csv"))
    assert [row.path for row in rows] == [*(f"photos/{number}/x.png" for number in range(3)), "photos/broken.png"]
    assert [row.label for row in rows] == ["old car"] * 3 + [None]
    assert rows[3].reason == "the file is empty (zero bytes); replace or remove it"
    assert not Path("labels.csv.part").exists()
    assert shown.out.startswith("labels.csv: 3 of 4 images labelled\n  without a label: 1: the file is empty")
    assert "cost: $0.004 now, $0.004 for all answers" in shown.out
    assert shown.err.splitlines()[-1] == "tlac: 1 of 4 images failed"


def test_the_estimate_comes_first_and_leaves_out_what_can_not_be_read(label) -> None:
    lines = label().err.splitlines()
    assert lines[0] == "tlac: 4 images"
    assert lines[1].startswith("stage 1: 3 calls, 0 answers are stored")
    assert lines[3].startswith("cost: $0.0")


def test_the_same_command_again_asks_nobody_and_writes_the_same_bytes(label, lmm: FakeLMM) -> None:
    label()
    before, asked = Path("labels.csv").read_bytes(), len(lmm.asked)
    shown = label("--offline", "--json")
    assert (Path("labels.csv").read_bytes(), len(lmm.asked)) == (before, asked)
    assert json.loads(shown.out) == {
        "output": "labels.csv",
        "images": 4,
        "labelled": 3,
        "unlabelled": {"the file is empty (zero bytes); replace or remove it": 1},
        "cost_usd": 0.0,
        "answers_cost_usd": 0.004,
        "doubtful": json.loads(shown.out)["doubtful"],
        "to_review": 3,
        "review": "labels.review.html",
    }


def test_answers_missing_offline_have_their_rows_and_exit_code(label) -> None:
    shown = label("--offline")
    assert shown.code == 4
    assert "answers for 3 of 4 images are missing" in shown.err
    assert len(read_labels(Path("labels.csv"))) == 4


def test_labels_of_images_that_have_no_link_are_counted(label) -> None:
    address = f"file://{Path('photos/0/x.png').absolute()}"
    shown = label("--format", "folder", inputs=(address, "photos/1/x.png"))
    assert "tlac: 1 labelled images are no files on this machine, and have no link in labels" in shown.err
    assert len(list(Path("labels/old car").iterdir())) == 1


def test_the_format_is_the_one_that_is_named_else_the_one_of_the_file(label) -> None:
    label("-o", "labels.jsonl")
    assert len(read_labels(Path("labels.jsonl"))) == 4
    label("--format", "label-studio")
    assert len(json.loads(Path("labels.json").read_text())) == 4
    label("--format", "folder", "-o", "sorted")
    assert len(list(Path("sorted/old car").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--format", "xlsx"), "--format xlsx: known are csv, parquet"),
        (("-o", "labels.xlsx"), "unknown file format 'xlsx'"),
        (("-o", "photos"), "photos: is an input"),
        (("-o", "photos/../photos/"), "photos: is an input"),
        (("-o", "fixed.csv", "--corrections", "./fixed.csv"), "fixed.csv: is an input"),
        (("-o", "photos/0/x.png", "--format", "csv"), "photos/0/x.png: is the name of an image"),
        (("-o", "photos/0", "--format", "csv"), "photos/0: is a folder"),
        (("-o", "..", "--format", "folder"), "-o ..: is a folder of yours"),
        (("--backend", "claude"), "the method tlac asks one backend"),
        (("--method", "clip"), "encoder 'clip-vit-b-16'"),
        (("--limit", "0"), "0 is not in the range"),
        (("--describe", " "), "describe: is empty"),
        (("--max-cost", "nan"), "'nan' is not a number"),
        (("--abstain-below", "nan"), "'nan' is not a number"),
        (("--classes", "red\x1bcar, lorry"), "the class name 'red\\x1bcar' is empty, not UTF-8 or has control"),
    ],
)
def test_what_can_not_be_done_is_one_line_before_anything_is_asked(
    label, lmm: FakeLMM, arguments: tuple[str, ...], complaint: str
) -> None:
    shown = label(*arguments)
    assert (shown.code, lmm.asked) == (2, [])
    assert complaint in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--aliases", "kept.csv"),
        ("--prompts", "kept.csv:hints=2"),
        ("--calibration", "./kept.csv"),
        ("--encoder", "kept.csv"),
        ("--stage2-backend", "pack:kept.csv#gemini"),
        ("--classes", "kept.csv"),
    ],
)
def test_no_file_that_the_command_reads_is_written_over(label, arguments: tuple[str, str]) -> None:
    Path("kept.csv").write_text("kept", encoding="utf-8")
    shown = label(*arguments, "-o", "kept.csv")
    assert (shown.code, Path("kept.csv").read_text(encoding="utf-8")) == (2, "kept")
    assert "kept.csv: is an input, and would be overwritten" in shown.err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_labels_that_a_person_has_corrected_are_not_written_over(label, lmm: FakeLMM, encoding: str) -> None:
    Path("labels.csv").write_text("path;label;corrected_label\nx.png;lorry;old car\n", encoding=encoding)
    shown = label()
    assert (shown.code, lmm.asked) == (2, [])
    assert "labels.csv: holds a person's corrections" in shown.err


def test_labels_are_written_through_no_link(label) -> None:
    Path("another").write_text("kept", encoding="utf-8")
    Path("labels.csv.part").symlink_to("another")
    shown = label()
    assert (shown.code, Path("another").read_text(encoding="utf-8")) == (2, "kept")
    assert "labels.csv.part: is a link" in shown.err


def test_more_than_a_dollar_is_not_spent_unasked(label, lmm: FakeLMM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.cli.label._ASK_ABOVE_USD", 1e-6)
    shown = label()
    assert (shown.code, lmm.asked) == (2, [])
    assert "nobody is there to be asked: add --yes, or a cap such as --max-cost 5" in shown.err
    assert label("--max-cost", "5").code == 3
    assert len(lmm.asked) == 4
    # what is stored costs nothing any more
    assert label().code == 3


def test_on_a_terminal_it_asks_before_it_spends(label, lmm: FakeLMM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.cli.label._ASK_ABOVE_USD", 1e-6)
    monkeypatch.setattr("tlac.cli.label._is_on_terminal", lambda: True)
    questions: list[str] = []

    def refuse(question: str, **_: object) -> None:
        questions.append(question)
        raise click.Abort

    monkeypatch.setattr("click.confirm", refuse)
    assert label().code == 1
    assert questions[0].startswith("this costs about $0.")
    assert lmm.asked == []
    monkeypatch.setattr("click.confirm", lambda question, **_: True)
    assert label().code == 3
    assert len(lmm.asked) == 4


def test_an_unknown_price_is_said_and_not_paid_unasked(label, lmm: FakeLMM) -> None:
    Path("own.yaml").write_text("{adapter: litellm, model: openai/nobody-knows, limits: {concurrency: 2}}")
    shown = label("--backend", "own.yaml", "--method", "vote")
    assert "cost: unknown: it can be estimated of slac, tlac, tlac-shortlist, tlac-cascade" in shown.err
    assert (shown.code, lmm.asked) == (2, [])
    assert "this costs an unknown amount" in shown.err
    assert label("--backend", "own.yaml", "--method", "vote", "--yes").code == 3


def test_what_is_known_to_be_free_needs_no_consent_in_any_method(label, lmm: FakeLMM) -> None:
    own = "{adapter: litellm, model: openai/nobody-knows, prices: {prompt: 0, completion: 0}, limits: {concurrency: 2}}"
    Path("own.yaml").write_text(own)
    for arguments in (("--method", "slac-fused"), ("--method", "vote", "--backend", "embedded")):
        shown = label(*arguments, "--backend", "own.yaml", backends=())
        assert shown.code == 3, shown.err
        assert "tlac: 4 images; cost: $0" in shown.err
    # one that costs something is asked beside it
    assert label("--method", "vote", "--backend", "own.yaml").code == 2


def test_the_cap_is_kept_and_what_is_left_is_told(label, lmm: FakeLMM) -> None:
    def dear(request: LMMRequest) -> LMMResponse:
        usage = Usage(prompt=2000, completion=100)
        return LMMResponse(Outcome.ANSWERED, "old car", usage=usage, cost_usd=0.003)

    lmm._answer = dear
    shown = label("--max-cost", "0.007", "--method", "slac", "--concurrency", "1", "--json")
    found = json.loads(shown.out)
    assert (shown.code, found["labelled"], found["cost_usd"]) == (
        3,
        len(lmm.asked),
        pytest.approx(0.003 * len(lmm.asked)),
    )
    assert 0 < found["cost_usd"] <= 0.007
    assert "the same command asks for what is missing" in shown.err


def test_descriptions_and_aliases_of_classes_reach_the_second_stage_and_matching(label, lmm: FakeLMM) -> None:
    Path("classes.yaml").write_text(
        "red car:\nold car: {description: built before 1950, aliases: [ancient vehicle]}\nlorry:\n"
    )
    label("--matching", "paper", classes=("--classes", "classes.yaml"))
    choice = next(request for request in lmm.asked if request.stage == "stage2")
    part = choice.messages[0].parts[0]
    assert isinstance(part, TextPart)
    assert "old car: built before 1950" in part.text
    lmm.asked.clear()
    # an alias is a name: with the ladder it leaves stage 2 nothing to decide
    label("--yes", classes=("--classes", "classes.yaml"))
    assert [row.label for row in read_labels(Path("labels.csv"))][:3] == ["old car"] * 3
    assert lmm.asked == []


def test_a_description_of_the_images_is_told_in_stage_1_and_asks_anew(label, lmm: FakeLMM) -> None:
    label()
    lmm.asked.clear()
    label("--describe", "vehicles on a conveyor")
    told = [request.messages[0].parts[1].text for request in lmm.asked if request.stage == "stage1"]
    assert len(told) == 3
    assert all(text.startswith("This image is one of a set: vehicles on a conveyor. ") for text in told)


def test_a_page_to_review_lies_beside_the_labels_unless_it_is_not_wanted(label) -> None:
    assert label("-o", "mine.csv").out.splitlines()[-1] == "review: mine.review.html"
    assert "photos/0/x.png" in Path("mine.review.html").read_text(encoding="utf-8")
    shown = label("-o", "other.csv", "--no-review")
    assert "review:" not in shown.out
    assert not Path("other.review.html").exists()


def test_corrections_are_put_in_measured_and_kept_by_the_same_command(label, lmm: FakeLMM) -> None:
    label()
    asked = len(lmm.asked)
    Path("fixed.csv").write_text(
        "path,label,corrected_label,reviewed\nphotos/0/x.png,old car,lorry,yes\nphotos/1/x.png,old car,old car,yes\n"
    )
    shown = label("--corrections", "fixed.csv")
    assert [row.label for row in read_labels(Path("labels.csv"))] == ["lorry", "old car", "old car", None]
    assert "2 of 3 labels reviewed: 50.0 % of these were right, 1 are corrected" in shown.out
    assert len(lmm.asked) == asked
    found = json.loads(label("--corrections", "fixed.csv", "--json").out)["corrections"]
    assert (found["reviewed"], found["right"]) == (2, 1)
    before = Path("labels.csv").read_bytes()
    for row, complaint in (
        ("photos/0/x.png,old car,bicycle", "'bicycle' is none of the classes"),
        ("photos/9/x.png,old car,lorry", "'photos/9/x.png' is none of the labelled images"),
    ):
        Path("fixed.csv").write_text(f"path,label,corrected_label,reviewed\n{row},yes\n")
        shown = label("--corrections", "fixed.csv")
        assert (shown.code, complaint in shown.err) == (2, True)
    assert Path("labels.csv").read_bytes() == before


def test_what_a_labelling_made_among_its_images_is_no_further_image(label, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.report.review._MOST_INLINE", 2)
    for arguments in (("-o", "photos/labels.csv"), ("-o", "photos/links", "--format", "folder")):
        first = label(*arguments)
        again = label(*arguments)
        assert again.out == first.out.replace("$0.004 now", "$0 now")
        assert "3 of 4 images labelled" in again.out
    assert list(Path("photos/labels.review").glob("*.webp"))


def test_a_name_that_is_not_utf_8_costs_one_row(label) -> None:
    name = os.fsdecode(b"photos/\xff.png")
    Path(name).write_bytes(make_png(9))
    for inputs in ((name, "photos/0/x.png"), ("photos/*.png", "photos/0/x.png")):
        assert label(inputs=inputs).code == 3
        rows = {row.path: (row.label, row.reason) for row in read_labels(Path("labels.csv"))}
        assert rows["photos/\\xff.png"] == (None, "its name is not UTF-8: rename it")
        assert rows["photos/0/x.png"] == ("old car", "")


def test_the_page_knows_what_was_corrected_and_whether_confidence_was_learnt(label) -> None:
    def content() -> dict[str, Any]:
        html = Path("labels.review.html").read_text(encoding="utf-8")
        return json.loads(html.partition('id="content">')[2].partition("</script>")[0])

    Path("fixed.csv").write_text("path,label,corrected_label,reviewed\nphotos/0/x.png,old car,lorry,yes\n")
    write_calibration(Path("learnt.json"), Calibration({}, 0.5, None, 9, evidence=2.0))
    label("--corrections", "fixed.csv", "--calibration", "learnt.json")
    page = content()
    assert [page["classes"][index] for index in page["rows"]["label"][:2]] == ["old car", "old car"]
    assert page["rows"]["decided"] == [page["classes"].index("lorry"), None, None, None]
    assert page["is_calibrated"] is True
    label()
    assert (content()["is_calibrated"], content()["rows"]["decided"]) == (False, [None] * 4)


def test_thumbnails_of_runs_among_the_images_are_no_further_images(label) -> None:
    run = Path("photos/runs/one")
    (run / "thumbnails").mkdir(parents=True)
    (run / "thumbnails" / "a.png").write_bytes(make_png(7))
    assert label().out.startswith("labels.csv: 4 of 5 images labelled")
    for name in ("run.json", "predictions.jsonl"):
        (run / name).touch()
    shown = label()
    assert shown.out.startswith("labels.csv: 3 of 4 images labelled")
    assert "skipped: runs/one" in shown.err


def test_a_page_that_can_not_be_written_costs_neither_labels_nor_summary(label, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise TlacError("labels.review.html: can't be written: disk full")

    Path("photos/broken.png").unlink()
    monkeypatch.setattr("tlac.report.review.write_review", fail)
    shown = label()
    assert shown.code == 1
    assert shown.out.startswith("labels.csv: 3 of 3 images labelled")
    assert shown.err.splitlines()[-1] == "tlac: labels.review.html: can't be written: disk full"


def test_a_limit_draws_images_at_random(label, lmm: FakeLMM) -> None:
    label("--limit", "2", "--method", "slac", "--seed", "1")
    assert len(read_labels(Path("labels.csv"))) == 2


def test_an_interrupt_keeps_the_decided_rows_and_says_how_to_go_on(label, lmm: FakeLMM, monkeypatch) -> None:
    main, answer, cancel = threading.main_thread().ident or 0, lmm.ask, aio._Running.cancel
    is_taken = threading.Event()

    def take(running: Any) -> None:
        cancel(running)
        is_taken.set()

    async def interrupted(request: LMMRequest) -> LMMResponse:
        if len(lmm.asked) == 1:
            signal.pthread_kill(main, signal.SIGINT)
            while not is_taken.is_set():
                await asyncio.sleep(0)
            for _ in range(10):  # rounds of the loop, in which it learns of the cancellation
                await asyncio.sleep(0)
        return await answer(request)

    monkeypatch.setattr(aio._Running, "cancel", take)
    monkeypatch.setattr(lmm, "ask", interrupted)
    shown = label("--method", "slac", "--concurrency", "1")
    assert shown.code == 3
    assert shown.err.splitlines()[-1].startswith("tlac: stopped after ")
    assert "of 4 images, whose rows are in labels.csv.part; every answer is stored" in shown.err
    assert not Path("labels.csv").exists()
    rows = read_labels(Path("labels.csv.part"), "csv")
    assert [row.label for row in rows] == ["red car"] * 2
    assert len(lmm.asked) == 2
    assert label("--method", "slac").code == 3
    assert len(lmm.asked) == 3
    assert not Path("labels.csv.part").exists()
