"""The review page as people use it: with the keyboard in Chromium, and what leaves it as a file."""

from __future__ import annotations

import csv
import json
import re
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import DESK, PHONE, Visit
from tests.support.fakes import digest, make_png
from tests.support.label_files import read_labels
from tests.support.reported_runs import HOSTILE
from tlac.analysis.review import Correction, ReviewPlan, calibrate_corrections, merge_corrections, read_corrections
from tlac.errors import TlacError, UsageError
from tlac.report import review
from tlac.report.review import write_review
from tlac.results.labels import COLUMNS, Label, write_labels
from tlac.types import Outcome, Sample

CLASSES = tuple(f"{colour} {kind}" for kind in ("car", "lorry", "bicycle") for colour in ("red", "old", "blue", "big"))
PLAN = ReviewPlan(5, 2, 3)


def some_labels() -> tuple[Label, ...]:
    """Five labels by falling confidence, two of them doubtful; and an image that is broken."""
    found = [
        Label(
            f"photos/{number}.png",
            CLASSES[number],
            round(0.9 - 0.15 * number, 6),
            CLASSES[number + 1],
            0.125,
            f"A {CLASSES[number]}, number {number}",
            sha256=digest(f"image {number}"),
            candidates=((CLASSES[number], 0.75), (CLASSES[number + 1], 0.5), (CLASSES[number + 2], 0.25)),
        )
        for number in range(5)
    ]
    return (*found, Label("photos/broken.png", outcome=Outcome.FAILED, reason="the file is empty"))


def some_samples() -> Iterator[Sample]:
    for number, one in enumerate(some_labels()):
        yield Sample(one.path, b"" if one.label is None else make_png(number))


def content_of(path: Path) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="content">(.*)</script>', path.read_text("utf-8"))
    return json.loads(found)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return write_review(some_labels(), CLASSES, tmp_path / "labels.review.html", some_samples(), plan=PLAN)


def downloaded(found: Visit, tmp_path: Path) -> Path:
    with found.page.expect_download() as waited:
        found.page.locator("#download").click()
    assert waited.value.suggested_filename == "labels.corrected.csv"
    waited.value.save_as(tmp_path / "labels.corrected.csv")
    return tmp_path / "labels.corrected.csv"


def heading(found: Visit) -> str:
    return found.page.locator("#sheet h2").inner_text()


def test_a_few_thumbnails_stand_in_the_page_and_many_beside_it(tmp_path: Path, monkeypatch) -> None:
    inside = write_review(some_labels(), CLASSES, tmp_path / "one" / "labels.review.html", some_samples())
    assert [entry.name for entry in inside.parent.iterdir()] == ["labels.review.html"]
    assert len(content_of(inside)["images"]["inline"]) == 5
    monkeypatch.setattr(review, "_MOST_INLINE", 2)
    beside = write_review(some_labels(), CLASSES, tmp_path / "two" / "labels.review.html", some_samples())
    names = sorted(f"{one.sha256}.webp" for one in some_labels() if one.sha256)
    assert sorted(entry.name for entry in (beside.parent / "labels.review").glob("*.webp")) == names
    found = content_of(beside)
    assert (found["images"]["inline"], found["images"]["folder"]) == ([], "labels.review")
    # the broken one has none
    assert found["rows"]["thumbnail"] == [0, 1, 2, 3, 4, -1]
    # what lies there already is not made again: the images may be gone
    again = write_review(some_labels(), CLASSES, beside, [Sample(one.path, b"") for one in some_labels()])
    assert content_of(again)["rows"]["thumbnail"] == [0, 1, 2, 3, 4, -1]


def test_images_are_looked_for_at_the_labels_paths_and_linked(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png(1))
    labels = [Label(str(tmp_path / "a.png"), "red car", 0.5, sha256=digest("a")), Label("none.png", sha256=digest("n"))]
    found = content_of(write_review(labels, CLASSES, tmp_path / "out" / "labels.review.html"))
    assert found["rows"]["thumbnail"] == [0, -1]
    assert found["images"]["originals"] == {"0": "../a.png"}
    # a CSV file has no candidates: the label itself, and the runner-up
    assert found["rows"]["candidates"] == [[[0, None]], []]


def test_images_do_not_pile_up_while_thumbnails_are_made(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(review, "_MOST_INLINE", 10)
    labels = [replace(some_labels()[0], path=f"{number}.png", sha256=digest(str(number))) for number in range(200)]
    folder, ahead = tmp_path / "labels.review", []

    def samples() -> Iterator[Sample]:
        for number in range(200):
            ahead.append(number - (len(list(folder.glob("*.webp"))) if folder.is_dir() else 0))
            yield Sample(str(number), make_png(number))

    write_review(labels, CLASSES, tmp_path / "labels.review.html", samples())
    assert max(ahead) <= 32
    assert len(list(folder.glob("*.webp"))) == 200


def test_of_too_many_labels_the_doubtful_and_the_drawn_are_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(review, "MOST", 50)
    labels = [Label(f"{number}.png", "red car", number / 1_000) for number in range(1_000)]
    path = write_review(labels, CLASSES, tmp_path / "labels.review.html", plan=ReviewPlan(1_000, 500, 20))
    rows = content_of(path)["rows"]
    assert {f"{number}.png" for number in range(50)} <= set(rows["path"])
    assert (sum(rows["drawn"]), 50 < len(rows["path"]) <= 70) == (20, True)
    assert f"{1_000 - len(rows['path'])} of the least doubtful images are not on this page." in path.read_text("utf-8")


def test_a_page_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TlacError, match=r"labels.review.html: the page can't be written"):
        write_review(some_labels(), CLASSES, tmp_path / "file" / "labels.review.html")


def test_labels_are_accepted_chosen_searched_and_undone_by_keys(visit, page: Path, tmp_path: Path) -> None:
    found = visit(page)
    keys = found.page.keyboard
    # the doubtful first: 0.3, 0.45
    assert heading(found) == CLASSES[4]
    keys.press("Space")
    assert heading(found) == CLASSES[3]
    keys.press("2")
    # what has no label comes after the doubtful
    assert heading(found) == "no label"
    keys.press("Space")
    assert heading(found) == "no label"
    keys.type("big b")
    assert found.page.locator(".search li").all_inner_texts()[0].split("\n")[-1] == "big bicycle"
    keys.press("Enter")
    assert heading(found) == CLASSES[2]
    keys.press("0")
    keys.press("u")
    assert heading(found) == CLASSES[2]
    keys.press("0")
    assert found.page.locator("#progress").inner_text().startswith("4 of 6 reviewed")
    with downloaded(found, tmp_path).open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert list(rows["photos/0.png"]) == [*COLUMNS, "corrected_label", "reviewed", "drawn", "calibrated"]
    decided = {path: (row["corrected_label"], row["reviewed"]) for path, row in rows.items()}
    assert decided == {
        "photos/0.png": ("", ""),
        "photos/1.png": ("", ""),
        "photos/2.png": ("", "yes"),
        "photos/3.png": (CLASSES[4], "yes"),
        "photos/4.png": (CLASSES[4], "yes"),
        "photos/broken.png": ("big bicycle", "yes"),
    }
    assert sum(row["drawn"] == "yes" for row in rows.values()) == 3
    assert {row["calibrated"] for row in rows.values()} == {""}
    merged = merge_corrections(some_labels(), tmp_path / "labels.corrected.csv", CLASSES)
    assert (merged.reviewed, merged.right, merged.found) == (3, 1, 1)
    assert found.complaints == []


def test_the_file_holds_what_the_labels_file_holds_and_no_formula(visit, tmp_path: Path) -> None:
    names = ("=SUM(A1)", "'quoted", '"two" words, a comma', "größer", "-1", "@x", "+y")
    labels = [
        Label(f"{name}.png", name, 1e-7, names[0], -0.25, f"{name}\nline", reason=name, cost_usd=0.0001)
        for name in names
    ]
    write_labels(labels, tmp_path / "labels.csv")
    found = visit(write_review(labels, names, tmp_path / "labels.review.html"))
    for _ in names:
        found.page.keyboard.press("Space")
    corrected = downloaded(found, tmp_path)
    assert read_labels(corrected) == read_labels(tmp_path / "labels.csv") == labels
    with corrected.open(encoding="utf-8", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert {cell for cell in cells if cell.startswith(("=", "+", "-", "@"))} == {"-0.25"}
    merged = merge_corrections(labels, corrected, names)
    assert (merged.reviewed, merged.right) == (7, 7)


def test_what_was_decided_is_there_when_the_page_is_opened_again(visit, page: Path, tmp_path: Path) -> None:
    found = visit(page)
    found.page.keyboard.press("2")
    found.page.reload()
    assert found.page.locator("#progress").inner_text().startswith("1 of 6 reviewed")
    assert heading(found) == CLASSES[3]
    # other labels of the same name begin anew
    write_review(some_labels()[::-1], CLASSES, page, list(some_samples())[::-1])
    found.page.reload()
    assert found.page.locator("#progress").inner_text().startswith("0 of 6 reviewed")


def test_what_a_file_of_corrections_says_is_decided_already(visit, page: Path, tmp_path: Path) -> None:
    found = visit(page)
    found.page.keyboard.press("2")
    found.page.keyboard.press("Space")
    corrections = read_corrections(downloaded(found, tmp_path))
    # decided after the download, in the browser alone
    found.page.keyboard.press("0")
    # somebody changes the file by hand
    corrections["photos/4.png"] = replace(corrections["photos/4.png"], corrected=CLASSES[0])
    write_review(some_labels(), CLASSES, page, some_samples(), plan=PLAN, corrections=corrections)

    def decided() -> dict[str, str]:
        with downloaded(found, tmp_path).open(encoding="utf-8", newline="") as file:
            return {row["path"]: row["corrected_label"] for row in csv.DictReader(file) if row["reviewed"]}

    found.page.reload()
    assert decided() == {"photos/4.png": CLASSES[0], "photos/3.png": CLASSES[3], "photos/broken.png": ""}
    # what is decided on this page is newer than the file
    found.page.locator("#rows .row").first.click()
    found.page.keyboard.press("3")
    found.page.reload()
    assert decided()["photos/4.png"] == CLASSES[6]
    fresh = visit(page)
    fresh.page.locator("#progress strong").get_by_text("2 of 6").wait_for()


def test_what_was_decided_before_is_on_the_page_however_many_there_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(review, "MOST", 1)
    labels = some_labels()
    corrections = {labels[0].path: Correction(2, labels[0].label, None, 0.9, None, True, False, False)}
    rows = content_of(
        write_review(
            labels, CLASSES, tmp_path / "labels.review.html", plan=ReviewPlan(5, 2, 0), corrections=corrections
        )
    )["rows"]
    assert (rows["path"], rows["decided"]) == (["photos/0.png", "photos/4.png"], [-1, None])


def test_a_browser_that_keeps_nothing_is_named(visit, page: Path) -> None:
    html = page.read_text("utf-8")
    # a page in a sandbox has no storage
    found = visit(
        f'<iframe sandbox="allow-scripts" style="width:100%;height:90vh" src="data:text/html,{_quoted(html)}">'
    )
    frame = found.page.frame_locator("iframe")
    frame.get_by_role("button", name="Accept").click()
    assert "keeps nothing for this page" in frame.locator("#notices").inner_text()


def _quoted(html: str) -> str:
    return urllib.parse.quote(html)


def test_what_was_calibrated_is_not_learnt_from_again(visit, tmp_path: Path) -> None:
    path = tmp_path / "labels.review.html"
    found = visit(write_review(some_labels(), CLASSES, path, some_samples(), plan=PLAN, is_calibrated=True))
    found.page.keyboard.press("Space")
    with pytest.raises(UsageError, match="come from a calibration already"):
        calibrate_corrections(downloaded(found, tmp_path))


def test_filters_show_what_they_say(visit, page: Path) -> None:
    found = visit(page)
    found.page.keyboard.press("2")

    def shown() -> list[str]:
        return found.page.locator("#rows .names > :first-child").all_inner_texts()

    expected = {
        "doubtful": [CLASSES[5], CLASSES[3]],
        "without a label": ["failed"],
        "reviewed": [CLASSES[5]],
        "corrected": [CLASSES[5]],
        "not reviewed": [CLASSES[3], "failed", *CLASSES[2::-1]],
    }
    for state, names in expected.items():
        found.choose("show", state)
        assert shown() == names, state
    found.choose("show", "random sample")
    assert len(shown()) == 3
    found.choose("show", "all")
    found.choose("order", "as given")
    assert shown() == [*CLASSES[:4], CLASSES[5], "failed"]
    found.choose("label", CLASSES[1])
    assert shown() == [CLASSES[1]]
    found.choose("label", "any")
    found.choose("outcome", "failed")
    assert shown() == ["failed"]
    found.choose("outcome", "any")
    found.page.get_by_label("find", exact=True).fill("NUMBER 2")
    assert shown() == [CLASSES[2]]
    found.page.get_by_label("find", exact=True).fill("nowhere")
    assert shown() == []
    # no image is there to decide about
    found.page.keyboard.press("Tab")
    found.page.keyboard.press("Space")
    assert found.page.locator("#progress").inner_text().startswith("1 of 6")


def test_where_all_labels_are_to_be_reviewed_there_is_no_sample(visit, tmp_path: Path) -> None:
    found = visit(write_review(some_labels(), CLASSES, tmp_path / "labels.review.html", some_samples()))
    assert "2 of 5 labels are doubtful (confidence below 0.5)" in found.page.locator("h1").inner_text()
    assert found.page.get_by_text("random sample").count() == 0


def test_a_few_classes_always_have_the_same_keys(visit, tmp_path: Path) -> None:
    labels = [replace(one, label="lorry", candidates=(("lorry", 0.5), ("car", 0.25))) for one in some_labels()[:3]]
    found = visit(write_review(labels, ("car", "lorry", "bicycle"), tmp_path / "labels.review.html"))
    assert [text.split("\n")[1] for text in found.page.locator("ol.choices li").all_inner_texts()] == [
        "car", "lorry", "bicycle"
    ]  # fmt: skip
    for key in "132":
        found.page.keyboard.press(key)
    with downloaded(found, tmp_path).open(encoding="utf-8", newline="") as file:
        # the least certain stands last
        assert [row["corrected_label"] for row in csv.DictReader(file)] == ["lorry", "bicycle", "car"]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_asks_for_nothing(visit, page: Path, viewport: dict[str, int], scheme: str) -> None:
    found = visit(page, viewport=viewport, color_scheme=scheme)
    found.page.get_by_role("button", name="Keys").click()
    assert "accept the label" in found.page.locator("dialog").inner_text()
    found.page.keyboard.press("Escape")
    found.page.get_by_role("button", name="Accept").click()
    assert found.sideways_px() <= 0
    # what decides is in sight without scrolling
    box = found.page.get_by_role("button", name="Accept").bounding_box()
    assert box["y"] + box["height"] <= viewport["height"]
    assert [url for url in found.requests if not url.startswith("data:")] == [page.as_uri()]
    assert found.complaints == []


def test_hostile_text_shows_as_text_and_nothing_runs(visit, tmp_path: Path) -> None:
    labels = [
        Label(text, text, 0.1, text, 0.1, text, reason=text, candidates=((text, 0.5), (HOSTILE[0], 0.25)))
        for text in HOSTILE
    ]
    found = visit(write_review(labels, HOSTILE, tmp_path / f"{HOSTILE[2].replace('/', '')}.review.html"))
    for place in range(len(HOSTILE)):
        assert heading(found)
        assert found.sideways_px() <= 0, place
        found.page.keyboard.press("Space")
    assert found.page.evaluate("window.ran") is None
    assert found.complaints == []
    with pytest.raises(Exception, match="Content Security Policy"):
        found.page.add_script_tag(content="window.ran = 9")


@pytest.mark.slow  # makes and shows 10,000 pictures
def test_ten_thousand_images_are_reviewed_as_fast_as_ten(visit, tmp_path: Path) -> None:
    png, count = make_png(1, 64), 10_000
    labels = [
        Label(
            f"photos/{number:05}.png",
            CLASSES[number % 12],
            0.05 + 0.9 * number / count,
            CLASSES[(number + 1) % 12],
            0.1,
            f"A picture, number {number}",
            sha256=digest(str(number)),
            candidates=tuple((CLASSES[(number + step) % 12], 0.9 - step / 10) for step in range(5)),
        )
        for number in range(count)
    ]
    page = write_review(labels, CLASSES, tmp_path / "labels.review.html", (Sample(one.path, png) for one in labels))
    assert page.stat().st_size < 8_000_000
    assert len(list((tmp_path / "labels.review").glob("*.webp"))) == count
    found = visit(page)
    assert found.page.locator("#rows .row").count() < 60
    started = time.perf_counter()
    for _ in range(50):
        found.page.keyboard.press("Space")
    # a key is answered at once: most of it is the way to the browser and back
    assert (time.perf_counter() - started) / 50 < 0.25
    assert found.page.locator("#progress").inner_text().startswith("50 of 10,000 reviewed")
    found.page.locator("#rows").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    found.page.get_by_text("photos/09999.png").or_(found.page.get_by_text("09999.png")).first.wait_for()
    assert found.page.locator("#rows .row").count() < 60
    assert found.page.locator("#sheet img").evaluate("image => image.naturalWidth") == 64
    with downloaded(found, tmp_path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), sum(row["reviewed"] == "yes" for row in rows)) == (count, 50)
    assert found.complaints == []
