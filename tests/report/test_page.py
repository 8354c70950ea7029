from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace

import pytest

from tests.support.reported_runs import HOSTILE, RECORD, hostile_run, some_predictions, some_run
from tlac.config.prompts import load_prompts
from tlac.report.comparison import render_comparison
from tlac.report.page import embed_json
from tlac.report.run_page import describe_prompts, render_run
from tlac.types import Outcome


class Elements(html.parser.HTMLParser):
    """Every element that the page's own markup opens, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def pages() -> list[str]:
    hostile = hostile_run()
    return [render_run(hostile, "images")[0], render_comparison([hostile, some_run()], "images")[0]]


def test_hostile_text_opens_no_element_in_any_page() -> None:
    usual = [
        render_run(some_run(), "images")[0],
        render_comparison([some_run(), some_run(method="slac", is_complete=False)], "images")[0],
    ]
    for page, harmless in zip(pages(), usual, strict=True):
        found, expected = (Elements(text).found for text in (page, harmless))
        assert sum(tag == "script" for tag, _ in found) == sum(tag == "script" for tag, _ in expected)
        assert {tag for tag, _ in found} - {tag for tag, _ in expected} <= {"p", "strong", "section", "span", "div"}
        assert not [name for _, attributes in found for name in attributes if name.startswith("on")]


def test_the_content_comes_back_as_it_went_in_whatever_it_holds() -> None:
    given = [*HOSTILE, "\ud800", "\u2028"]
    embedded = str(embed_json(given))
    assert json.loads(embedded) == given
    assert embedded.isascii()
    assert not set("<>&") & set(embedded)


def test_a_page_names_no_address_and_its_policy_forbids_every_request() -> None:
    for page in (render_run(some_run(), "images")[0], render_comparison([some_run()], "images")[0]):
        attributes = [value for _, given in Elements(page).found for value in given.values() if value]
        assert not [value for value in attributes if re.search(r"https?:|//", value) and "default-src" not in value]
        (policy,) = [value for value in attributes if "default-src" in value]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'sha256-" in policy


def test_long_text_is_cut_and_says_how_long_it_was() -> None:
    page = render_run(hostile_run(), "images")[0]
    assert "[... 100,000 characters in all]" in page
    assert len(page) < 1_500_000


@pytest.mark.parametrize(
    "shown", [RECORD.dataset, RECORD.backend, RECORD.protocol, "8 of 12", "66.7\N{NO-BREAK SPACE}%", "$0.25"]
)
def test_the_headline_and_the_facts_stand_in_the_markup_itself(shown: str) -> None:
    page = render_run(some_run(), "images")[0]
    head = page.partition('<script type="application/json"')[0]
    assert shown.replace("8 of 12", "11 of 12") in head


def test_an_incomplete_run_says_so_first() -> None:
    page = render_run(some_run(is_complete=False, stopped="the key was refused"), "images")[0]
    assert "They count as wrong below; the same command" in page
    assert page.index("Incomplete:") < page.index("<h2>Settings")
    assert "the key was refused" in page


def test_a_run_without_an_answer_shows_no_number() -> None:
    failed = [
        replace(one, outcome=Outcome.FAILED, predicted=None, decided_by=None, score=None, margin=None, top5=())
        for one in some_predictions()
    ]
    page = render_run(some_run(failed, is_complete=False), "images")[0].partition('<script type="application/json"')[0]
    assert "No sample has an answer: there is nothing to measure." in page
    assert "count as wrong" not in page
    assert "The same command asks for what is missing." in page
    assert "0.0\N{NO-BREAK SPACE}%</strong> top-1 accuracy" not in page
    assert render_comparison([some_run(failed, is_complete=False)], "images")


def test_the_page_tells_how_well_confidence_is_calibrated() -> None:
    run = some_run()
    html = render_run(run, "images")[0]
    assert run.metrics.confidence is not None
    assert f"expected calibration error {run.metrics.confidence.calibration_error:.3f}" in html


@pytest.mark.parametrize(
    ("name", "asked", "unasked"),
    [
        ("default:hints=2", "some of the classes, one a line:\n\nlorry\nzebra\n", "In one short sentence"),
        ("listed", "the names of all classes, one a line:\n\nlorry\njeep\nzebra\n", "In one short sentence"),
        ("default", "In one short sentence", "one a line:\n\nlorry"),
    ],
)
def test_the_words_of_stage_1_are_those_that_were_asked(name: str, asked: str, unasked: str) -> None:
    prompts = load_prompts(name)
    classes = ("lorry", "jeep", "zebra")
    record = replace(RECORD, prompts=name, classes=classes, digests={**RECORD.digests, "prompts": prompts.digest})
    (words,) = [text for title, text in describe_prompts(record).items() if title.startswith("stage 1")]
    assert (asked in words, unasked in words) == (True, False)
