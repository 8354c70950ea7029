from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fakes import digest
from tests.support.made_runs import confidence_of
from tlac.analysis.review import calibrate_corrections, draw_order, merge_corrections, read_corrections
from tlac.errors import InputError, UsageError
from tlac.results.labels import Label
from tlac.types import Outcome, Prediction

CLASSES = ("red car", "old car", "=1+1")
LABELS = (
    *(
        Label(f"{number}.jpg", "red car", 0.9, "old car", 0.2, "A car", sha256=digest(str(number)))
        for number in range(5)
    ),
    Label("broken.jpg", outcome=Outcome.FAILED, reason="the file is empty"),
)


def write(path: Path, *rows: dict[str, str]) -> Path:
    """A file of corrections; what a row does not say is as in LABELS, and not reviewed."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file,
            ("path", "label", "confidence", "sha256", "note", "corrected_label", "reviewed", "drawn", "calibrated"),
            restval="",
        )
        writer.writeheader()
        writer.writerows({"label": "red car", "confidence": "0.9", **row} for row in rows)
    return path


def test_corrections_are_merged_and_what_was_right_is_measured(tmp_path: Path) -> None:
    corrected = write(
        tmp_path / "corrected.csv",
        {"path": "0.jpg", "corrected_label": "red car", "reviewed": "yes"},
        {"path": "1.jpg", "corrected_label": "old car", "reviewed": "TRUE"},
        {"path": "2.jpg", "reviewed": "yes"},
        {"path": "3.jpg"},
        {"path": "broken.jpg", "label": "", "corrected_label": "'=1+1"},
    )
    merged = merge_corrections(LABELS, corrected, CLASSES)
    assert merged.labels == (
        replace(LABELS[0], confidence=1.0, reason="reviewed"),
        replace(
            LABELS[1], label="old car", confidence=1.0, runner_up=None, margin=None, reason="reviewed: was red car"
        ),
        replace(
            LABELS[2],
            label=None,
            confidence=None,
            runner_up=None,
            margin=None,
            reason="reviewed: no class fits, was red car",
        ),
        *LABELS[3:5],
        replace(LABELS[5], label="=1+1", confidence=1.0, reason="reviewed: had no label"),
    )
    assert (merged.labelled, merged.reviewed, merged.right, merged.found) == (5, 3, 1, 1)
    assert str(merged) == (
        "3 of 5 labels reviewed: 33.3 % of these were right, 2 are corrected; 1 without a label got one. "
        "They are no random sample (the doubtful come first), so this does not hold for "
        "the others: review those drawn at random to know about all."
    )


def test_what_a_whole_random_sample_says_holds_for_all_labels(tmp_path: Path) -> None:
    labels = [replace(LABELS[0], path=f"{number}.jpg", sha256=None) for number in range(50)]
    order = draw_order([label.path for label in labels])
    rows = [
        {"path": labels[place].path, "corrected_label": "old car" if rank < 2 else "red car", "drawn": "yes"}
        for rank, place in enumerate(order[:20])
    ]
    doubtful = {"path": labels[order[30]].path, "corrected_label": "old car"}
    merged = merge_corrections(labels, write(tmp_path / "whole.csv", *rows, doubtful))
    assert (merged.reviewed, merged.right, merged.drawn, merged.drawn_right) == (21, 18, 20, 18)
    assert str(merged).endswith(
        "Of the 20 drawn at random 90.0 % were right: by these and all that is known, 74.0 to 94.0 % of all labels are "
        "(95 %)."
    )
    unfinished = write(tmp_path / "part.csv", *rows[1:], {**rows[0], "corrected_label": ""})
    assert merge_corrections(labels, unfinished).drawn == 0
    # drawn from other labels: these are five more
    more = [*labels, *(replace(LABELS[0], path=f"new {number}.jpg") for number in range(50))]
    assert merge_corrections(more, tmp_path / "whole.csv").drawn == 0


@pytest.mark.parametrize(
    ("wrong_beside", "shares"),
    # 24 of 25 drawn speak for 98 to 119 of 120; one and 3 others that are wrong leave 116, one and 60 others 59
    [(3, (98 / 120, 116 / 120)), (60, (24 / 120, 59 / 120))],
)
def test_what_was_reviewed_beside_the_sample_bounds_what_it_says(
    tmp_path: Path, wrong_beside: int, shares: tuple[float, float]
) -> None:
    labels = [replace(LABELS[0], path=f"{number}.jpg", sha256=None) for number in range(120)]
    order = draw_order([label.path for label in labels])
    rows = [
        {"path": labels[place].path, "corrected_label": "red car" if 0 < rank < 25 else "old car"}
        | ({"drawn": "yes"} if rank < 25 else {})
        for rank, place in enumerate(order[: 25 + wrong_beside])
    ]
    merged = merge_corrections(labels, write(tmp_path / "c.csv", *rows))
    assert (merged.drawn, merged.drawn_right, merged.right) == (25, 24, 24)
    assert merged.share_right() == pytest.approx(shares)


def test_of_labels_that_were_all_reviewed_nothing_is_inferred(tmp_path: Path) -> None:
    rows = [{"path": label.path, "corrected_label": "red car"} for label in LABELS[:5]]
    rows[0]["corrected_label"] = "old car"
    merged = merge_corrections(LABELS, write(tmp_path / "all.csv", *rows))
    assert str(merged) == "all 5 labels reviewed: 80.0 % were right, 1 are corrected."
    assert str(merge_corrections(LABELS, write(tmp_path / "none.csv"))) == "no label was reviewed"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"path": "other.jpg"}, "line 3: 'other.jpg' is none of the labelled images: .* write in the column path"),
        ({"path": "1.jpg", "corrected_label": "lorry"}, "line 3: corrected_label 'lorry' is none of the classes"),
        ({"path": "1.jpg", "reviewed": "maybe"}, "line 3: reviewed is 'maybe': write yes, or nothing"),
        ({"path": "1.jpg", "reviewed": "no", "corrected_label": "old car"}, "line 3: .* is not reviewed"),
        ({"path": "1.jpg", "reviewed": "yes", "sha256": digest("other")}, "line 3: '1.jpg' is another image now"),
        (
            {"path": "0.jpg", "corrected_label": "old car"},
            "line 3: '0.jpg' stands in line 2 as well, with another class",
        ),
        ({"path": "1.jpg", "confidence": "high"}, "line 3: confidence is 'high', no number from 0 to 1"),
        ({"path": "1.jpg", "confidence": "nan"}, "line 3: confidence is 'nan', no number from 0 to 1"),
        ({"path": "1.jpg", "drawn": "12"}, "line 3: drawn is '12': write yes, or nothing"),
    ],
)
def test_a_row_that_can_not_be_used_is_named(tmp_path: Path, row: dict[str, str], complaint: str) -> None:
    corrected = write(tmp_path / "corrected.csv", {"path": "0.jpg", "corrected_label": "red car"}, row)
    with pytest.raises(InputError, match=complaint):
        merge_corrections(LABELS, corrected, CLASSES)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_is_read_as_spreadsheets_save_it(tmp_path: Path, encoding: str) -> None:
    text = "sha256;Reviewed;path;corrected_label;label\r\n;;;;\r\n\r\n;WAHR?;x;;\r\n".replace("WAHR?", "TRUE")
    (tmp_path / "c.csv").write_bytes(f"{text};yes;'=né.jpg;old car;red car\r\n;;;;\r\n".encode(encoding))
    rows = read_corrections(tmp_path / "c.csv", CLASSES)
    assert {name: (row.line, row.corrected) for name, row in rows.items()} == {
        "x": (4, None),
        "=né.jpg": (5, "old car"),
    }


def test_of_several_rows_about_an_image_the_reviewed_ones_count(tmp_path: Path) -> None:
    no_class_fits = {"path": "0.jpg", "reviewed": "yes"}
    for rows in (({"path": "0.jpg"}, no_class_fits), (no_class_fits, {"path": "0.jpg"})):
        assert read_corrections(write(tmp_path / "c.csv", *rows))["0.jpg"].is_reviewed


def test_a_file_without_the_two_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n0.jpg,red car\n", encoding="utf-8")
    with pytest.raises(InputError, match="no columns corrected_label and reviewed"):
        read_corrections(tmp_path / "labels.csv")


def test_corrections_teach_how_often_a_confidence_is_right(tmp_path: Path, tlac_command) -> None:
    chance, rows = random.Random(0), []
    for number in range(4_000):
        confidence = round(chance.uniform(0.05, 0.5), 6)
        log_odds = math.log(confidence / (1 - confidence))
        is_right = chance.random() < 1 / (1 + math.exp(-(1.0 + 2.0 * log_odds)))
        rows.append({"path": f"{number}", "confidence": str(confidence), "corrected_label": CLASSES[not is_right]})
    # labels that a person has given before teach nothing about the others
    rows += [{"path": f"reviewed {number}", "confidence": "1.0", "corrected_label": CLASSES[0]} for number in range(99)]
    path = write(tmp_path / "corrected.csv", *rows)
    found = calibrate_corrections(path)
    assert (found.default_level, found.evidence) == pytest.approx((1.0, 2.0), abs=0.15)
    assert (found.n, found.runs, found.encoder) == (4_000, ("corrected.csv",), "")
    # the lead of 0.1 speaks for the class, that similarity alone decided against it
    one = Prediction(
        "1", None, None, Outcome.ANSWERED, "a", None, "similarity", 3, 0.8, 0.1, ((3, 0.8), (1, 0.7)), None, None
    )
    log_odds = found.default_level + (found.evidence or 0) * (0.1 / 0.11 - 1)
    assert confidence_of(one, found) == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-5)
    shown = tlac_command("calibrate", path, "-o", tmp_path / "learnt.json")
    assert shown.code == 0, shown.err
    assert "learnt from 4,000 labels" in shown.out
    assert json.loads((tmp_path / "learnt.json").read_text(encoding="utf-8"))["evidence"] == found.evidence
    both = tlac_command("calibrate", path, path)
    assert (both.code, "by itself" in both.err) == (2, True)


def test_corrections_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0 reviewed labels teach nothing"):
        calibrate_corrections(write(tmp_path / "none.csv"))
    against = [
        {"path": f"{number}", "confidence": str(0.9 if wrong else 0.1), "corrected_label": CLASSES[wrong]}
        for number, wrong in enumerate([0, 1] * 20)
    ]
    calibrated = [{**row, "calibrated": "yes"} for row in against]
    with pytest.raises(UsageError, match="come from a calibration already"):
        calibrate_corrections(write(tmp_path / "again.csv", *calibrated))
    with pytest.raises(UsageError, match=r"40 reviewed labels teach nothing"):
        calibrate_corrections(write(tmp_path / "against.csv", *against))
