"""The report as people use it: in Chromium, from disk, without a network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.browser import DESK, PHONE, Visit
from tests.support.reported_runs import (
    HOSTILE,
    hostile_pair,
    hostile_run,
    prediction,
    refusal,
    some_run,
    write_reported_run,
)
from tlac.report.comparison import render_comparison
from tlac.report.run_page import render_run
from tlac.results.record import Run
from tlac.scoring.metrics import measure
from tlac.scoring.predictions import Predictions
from tlac.types import Outcome


@pytest.fixture(scope="module")
def run_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_reported_run(tmp_path_factory.mktemp("runs"), some_run())
    return (folder / "report.html").read_text(encoding="utf-8")


def comparison_html() -> str:
    worse = Predictions.of(replace(one, predicted=3) if one.predicted == 0 else one for one in some_run().predictions)
    other = replace(some_run(backend="other", answers_cost_usd=0.5), predictions=worse, metrics=measure(worse))
    return render_comparison([some_run(), other], "images")[0]


# not wait_for_function: it evaluates text in the page, which the page's policy forbids
ALL_IMAGES_SHOWN = """() => new Promise((resolve, reject) => {
    const look = () => {
        if ([...document.images].every((image) => image.complete && image.naturalWidth > 0)) resolve();
        else requestAnimationFrame(look);
    };
    setTimeout(() => reject(new Error("an image is not shown")), 20000);
    look();
})"""


def test_a_run_of_one_sample_opens_without_a_complaint(visit) -> None:
    found = visit(render_run(some_run([prediction(0, 0, 0)]), "images")[0])
    assert "AREA" in found.page.locator("#certainty").inner_text().upper()
    assert found.complaints == []


def test_a_run_without_an_answer_has_labels_and_no_figure(visit) -> None:
    failed = replace(
        prediction(0, 0, 0), outcome=Outcome.FAILED, predicted=None, decided_by=None, score=None, margin=None, top5=()
    )
    found = visit(render_run(some_run([failed], is_complete=False), "images")[0])
    assert found.page.locator("#class-table").inner_text() == "No labelled sample has an answer."


def test_a_run_opens_without_a_complaint_and_asks_for_nothing(visit, run_html: str) -> None:
    found = visit(run_html)
    found.page.locator("#gallery").scroll_into_view_if_needed()
    found.page.evaluate(ALL_IMAGES_SHOWN)
    assert found.page.locator("#samples .card img").count() == 12
    assert found.page.locator("#certainty svg").count() >= 3
    assert found.page.locator("#calls svg").count() == 2
    assert found.complaints == []
    asked = [url for url in found.requests if not url.startswith("data:")]
    assert [url.rpartition("/")[2] for url in asked] == ["page0.html"]


def test_filters_and_search_show_what_they_say(visit, run_html: str) -> None:
    found = visit(run_html)
    assert len(found.names()) == 12
    found.choose("verdict", "wrong")
    assert len(found.names()) == 3
    found.choose("true class", "lorry")
    assert [text.split("\n")[0] for text in found.names()] == ["✗ old car", "✗ old car"]
    found.page.get_by_role("button", name="Reset").click()
    found.choose("outcome", "refused")
    assert [text.split("\n")[0] for text in found.names()] == ["– refused"]
    found.page.get_by_role("button", name="Reset").click()
    found.choose("decided by", "exact")
    assert len(found.names()) == 6
    found.page.get_by_role("button", name="Reset").click()
    found.page.get_by_label("find", exact=True).fill("LIKE A BICYCLE")
    assert len(found.names()) == 3
    found.page.get_by_label("find", exact=True).fill("no such words")
    assert found.names() == []
    assert found.page.locator("#samples .pager").inner_text() == "none"


def test_the_filters_stand_in_the_address_and_come_from_it(visit, run_html: str) -> None:
    found = visit(run_html)
    found.choose("verdict", "wrong")
    found.choose("true class", "lorry")
    address = found.page.url
    assert address.endswith("#gallery&verdict=wrong&true=2")
    found.page.goto("about:blank")
    found.page.goto(address)
    assert len(found.names()) == 2
    # the page scrolls with its next frame
    found.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert found.page.evaluate("window.scrollY") > 500
    found.page.get_by_role("button", name="Reset").click()
    assert found.page.url.endswith("#gallery")
    assert len(found.names()) == 12


def test_the_confusion_matrix_of_sixteen_classes_is_whole_at_1400_px(visit) -> None:
    given = [prediction(0, label, (label + shift) % 16) for label in range(16) for shift in range(3)]
    run = some_run(
        [replace(one, top5=()) for one in given], classes=tuple(f"class number {i} of them" for i in range(16))
    )
    page = visit(render_run(run, "images")[0], viewport={"width": 1400, "height": 900}).page
    matrix = page.locator("#confusion .scroll").first
    assert page.locator("#confusion .matrix tbody tr").count() == 16
    assert matrix.evaluate("scroll => scroll.scrollWidth - scroll.clientWidth") == 0


def test_the_least_certain_and_the_surest_mistakes_come_first(visit, run_html: str) -> None:
    found = visit(run_html)
    found.choose("order", "most certain mistakes first")
    assert [text[0] for text in found.names()] == ["✗"] * 3 + ["✓"] * 8 + ["–"]
    found.choose("margin", "lowest 10 %")
    assert len(found.names()) == 2


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(visit, run_html: str) -> None:
    found = visit(run_html)
    first = found.page.locator("#class-table tbody tr td:first-child")
    heading = found.page.locator("#class-table th", has_text="class").first
    heading.get_by_role("button").click()
    assert first.all_inner_texts() == ["bicycle", "lorry", "old car", "red car"]
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert first.all_inner_texts() == ["red car", "old car", "lorry", "bicycle"]


def test_a_confused_pair_leads_to_its_samples(visit, run_html: str) -> None:
    found = visit(run_html)
    found.page.locator("#confusion td", has_text="lorry").first.get_by_role("button").click()
    assert [text.split("\n")[0] for text in found.names()] == ["✗ old car", "✗ old car"]


def test_a_card_opens_with_all_that_is_known_and_keys_turn_to_the_next(visit, run_html: str) -> None:
    found = visit(run_html)
    found.page.locator("#samples .card").nth(8).focus()
    found.page.keyboard.press("Enter")
    card = found.page.locator("dialog")
    shown = card.inner_text()
    for wanted in ("008.png", "It looks like a old car to me", "old car", "lorry", "0.892", "exact", "$0.009", "0.9 s"):
        assert wanted in shown
    one = some_run().predictions[8]
    assert one.stage1_key in shown
    assert one.stage2_key in shown
    assert card.locator("li").count() == 4
    found.page.keyboard.press("ArrowRight")
    assert "009.png" in card.inner_text()
    found.page.keyboard.press("Escape")
    assert not card.is_visible()


def test_refusals_stand_in_a_list_of_their_own_with_the_reason(visit, run_html: str) -> None:
    found = visit(run_html)
    row = found.page.locator("#unanswered tbody tr")
    assert row.count() == 1
    assert "blocked: SAFETY" in row.inner_text()
    row.get_by_role("button").click()
    assert "blocked: SAFETY" in found.page.locator("dialog").inner_text()


def test_dark_follows_the_system_and_the_button_turns_it(visit, run_html: str) -> None:
    def background(found: Visit) -> int:
        color = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(","))

    light, dark = visit(run_html, color_scheme="light"), visit(run_html, color_scheme="dark")
    assert background(light) > 600
    assert background(dark) < 150
    dark.page.get_by_role("button", name="Switch between light and dark").click()
    assert background(dark) == background(light)


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_is_wider_than_the_window(visit, run_html: str, viewport: dict[str, int]) -> None:
    hostile = render_run(hostile_run(), "images")[0]
    for html in (run_html, comparison_html(), hostile, render_comparison(hostile_pair(), "images")[0]):
        found = visit(html, viewport=viewport)
        assert found.sideways_px() == 0
        found.page.locator("#samples .card").first.click()
        assert (
            found.page.evaluate("(card => card.scrollWidth - card.clientWidth)(document.querySelector('dialog'))") <= 0
        )


def test_print_leaves_the_controls_away_and_is_light(visit, run_html: str) -> None:
    found = visit(run_html, color_scheme="dark")
    found.page.emulate_media(media="print")
    assert not found.page.locator("#samples .controls").is_visible()
    assert found.page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"


def test_a_comparison_opens_and_its_disagreements_can_be_filtered(visit) -> None:
    found = visit(comparison_html())
    assert found.page.locator("#forest-plots svg").count() == 1
    assert found.page.locator("#cost-charts svg").count() == 1
    assert found.page.locator("#pair-table tbody tr").count() == 1
    assert len(found.names()) == 2
    found.choose("correct", "none of them")
    assert found.names() == []
    found.choose("correct", "fake, tlac")
    assert len(found.names()) == 2
    found.page.locator("#samples .card").first.click()
    assert "other, tlac" in found.page.locator("dialog").inner_text()
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith(("data:", "file:"))] == []


def priced(backend: str, cost_usd: float | None, right: int = 20) -> Run:
    given = [prediction(number, 0, 0 if number < right else 1) for number in range(40)]
    return some_run(given, backend=backend, answers_cost_usd=cost_usd)


def test_runs_are_sorted_by_accuracy_cost_and_time_and_an_unknown_cost_stands_last(visit) -> None:
    runs = [priced("cheap", 0.04, 20), priced("unpriced", None, 39), priced("dear", 4.0, 30)]
    found = visit(render_comparison(runs, "images")[0])

    def backends() -> list[str]:
        return [text.split(",")[0] for text in found.page.locator("#run-table td:nth-child(2)").all_inner_texts()]

    assert backends() == ["unpriced", "dear", "cheap"]
    assert "unknown" in found.page.locator("#run-table tbody tr").first.inner_text()
    heading = found.page.locator("#run-table th", has_text="cost of 1,000").get_by_role("button")
    heading.click()
    assert backends() == ["dear", "cheap", "unpriced"]
    heading.click()
    assert backends() == ["cheap", "dear", "unpriced"]


def test_what_is_said_of_cost_covers_the_runs_that_have_one_and_names_the_others(visit) -> None:
    runs = [priced("cheap", 0.04, 30), priced("dear", 4.0, 20), priced("unpriced", None, 39)]
    said = visit(render_comparison(runs, "images")[0]).page.locator("#cost-charts p").inner_text()
    assert "Of the 2 configurations with a known cost, cheap, tlac is both the cheapest and the most accurate." in said
    assert "Left out, as their cost is unknown: unpriced, tlac." in said
    assert "More accurate than all that are shown: unpriced, tlac." in said


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_ticks_of_equal_accuracies_and_costs_stay_short_apart_and_inside(visit, viewport: dict[str, int]) -> None:
    for costs in ((0.04, 0.4, 4.0), (0.1, 0.2, 0.3)):
        runs = [priced(f"backend {place}", cost) for place, cost in enumerate(costs)]
        page = visit(render_comparison(runs, "images")[0], viewport=viewport).page
        card = page.locator("#cost-charts .panel").bounding_box()
        ticks = page.locator("#cost-charts [aria-label$='tick label'] text")
        boxes = [(one.text_content(), one.bounding_box()) for one in ticks.all()]
        assert len(boxes) >= 4
        for text, box in boxes:
            assert len(text) <= 6
            assert card["x"] <= box["x"]
            assert box["x"] + box["width"] <= card["x"] + card["width"]
        for place, (_, one) in enumerate(boxes):
            for _, other in boxes[place + 1 :]:
                is_apart = (
                    one["x"] + one["width"] <= other["x"]
                    or other["x"] + other["width"] <= one["x"]
                    or one["y"] + one["height"] <= other["y"]
                    or other["y"] + other["height"] <= one["y"]
                )
                assert is_apart


# opens every card, folds out and sorts everything, and passes the mouse over every element
TOUCH_EVERYTHING = """() => {
  const dialog = document.querySelector("dialog");
  const passOver = (place) =>
    place.querySelectorAll("*").forEach((one) => one.dispatchEvent(new MouseEvent("mouseover")));
  for (const card of document.querySelectorAll("#samples .card")) { card.click(); passOver(dialog); dialog.close(); }
  for (const button of document.querySelectorAll("th button, summary")) button.click();
  passOver(document);
}"""


@pytest.mark.slow
def test_hostile_text_shows_as_text_and_nothing_runs(visit) -> None:
    for html in (
        render_run(hostile_run(), "images")[0],
        render_comparison(hostile_pair(), "images")[0],
    ):
        found = visit(html)
        found.page.locator("#samples .card").first.hover()
        found.page.evaluate(TOUCH_EVERYTHING)
        assert found.page.evaluate("window.ran") is None
        assert found.complaints == []
        assert [url for url in found.requests if not url.startswith(("data:", "file:"))] == []
        assert (
            found.page.locator("a[href^='http'], [onload], [onerror], [onmouseover], iframe, object, embed").count()
            == 0
        )


def test_each_hostile_answer_reads_as_it_was_given(visit) -> None:
    found = visit(render_run(hostile_run(), "images")[0])
    for place, text in enumerate(HOSTILE[:-1]):
        found.page.locator("#samples .card").nth(2 * place).click()
        said = found.page.locator("dialog blockquote").first.evaluate("quote => quote.textContent")
        assert said == text
        found.page.keyboard.press("Escape")


def test_the_policy_stops_a_script_that_got_in_all_the_same(visit, run_html: str) -> None:
    broken_into = run_html.replace(
        "</main>", "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'></main>"
    )
    found = visit(broken_into)
    found.page.wait_for_timeout(50)
    assert found.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in found.complaints)


def test_many_samples_are_shown_one_page_at_a_time(visit) -> None:
    given = tuple(prediction(number % 900, number % 4, (number // 7) % 4) for number in range(5_000))
    many = Predictions.of(replace(one, sample=f"{place:05}.png") for place, one in enumerate((*given, refusal(1, 0))))
    found = visit(render_run(replace(some_run(), predictions=many, metrics=measure(many)), "images")[0])
    assert len(found.names()) == 48
    pager = found.page.locator("#samples .pager")
    assert "1–48 of 5,001" in pager.inner_text()
    pager.get_by_role("button", name="Next").click()
    assert "49–96 of 5,001" in pager.inner_text()
    found.page.get_by_label("find", exact=True).fill("04999.png")
    assert len(found.names()) == 1
