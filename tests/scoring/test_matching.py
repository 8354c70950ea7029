from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlac.errors import UnknownNameError
from tlac.scoring.matching import RULES, ClassIndex, LadderMatching, Paper, apply_template, find_rule, normalise
from tlac.types import LMMResponse, Outcome

CLASSES = ("tench", "missile", "great_white_shark", "missile", "T-shirt", "lion")


def answered(text: str) -> LMMResponse:
    return LMMResponse(Outcome.ANSWERED, text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A Great White Shark.", "great_white_shark"),
        ("the **Tench**", "tench"),
        ("t shirt", "T-shirt"),
        ("  LION\n", "lion"),
        ("\ufb01sh", "fish"),
        ("Stra\u00dfe", "strasse"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u202aTen\u00adch\u200b", "\ufefftench"),
    ],
)
def test_names_are_compared_without_case_articles_punctuation_and_unicode_form(text: str, name: str) -> None:
    assert normalise(text) == normalise(name)


def test_an_article_alone_is_a_name() -> None:
    assert normalise("The") == "the"


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    # stripping one article may bare another name only if the whole text were articles
    assert normalise(once) == once


def test_a_name_that_stands_twice_means_its_lower_index() -> None:
    assert ClassIndex(CLASSES).find("Missile") == 1


def test_whole_words_are_found_and_parts_of_words_are_not() -> None:
    index = ClassIndex(CLASSES)
    assert index.find_words("A tench beside a great white shark, no lioness") == (0, 2)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("tench", 0),
        ("Great white shark.", 2),
        ('{"class_index": "5"}', 5),
        ('{"class_index": 0}', 0),
        ('{"class_index": "6"}', None),
        ('{"class_index": -1}', None),
        ('{"class_index": true}', None),
        ('{"class_index": "\u00b2"}', None),
        ('{"class_index": "99999999999999999999"}', None),
        ('{"class_index"', None),
        ("{" * 100_000, None),
        ("I think it is a tench", None),
        ("", None),
    ],
)
def test_a_choice_is_valid_only_when_it_names_a_listed_class(text: str, chosen: int | None) -> None:
    assert ClassIndex(CLASSES).read_choice(text) == chosen


def test_ladder_takes_an_exact_answer_before_any_choice() -> None:
    verdict = LadderMatching().judge(answered("A lion."), answered("tench"), ClassIndex(CLASSES))
    assert (verdict.index, verdict.decided_by) == (5, "exact")


def test_ladder_takes_the_choice_when_the_answer_is_no_class_name() -> None:
    verdict = LadderMatching().judge(answered("A big cat with a mane."), answered("Lion"), ClassIndex(CLASSES))
    assert (verdict.index, verdict.decided_by, verdict.choice) == (5, "choice", "lion")


@pytest.mark.parametrize("choice", [answered("a cat"), LMMResponse(Outcome.REFUSED, "")])
def test_ladder_falls_to_the_similarity_of_the_first_answer_when_the_choice_is_invalid(choice: LMMResponse) -> None:
    verdict = LadderMatching().judge(answered("A big cat."), choice, ClassIndex(CLASSES))
    assert (verdict.outcome, verdict.index, verdict.decided_by, verdict.text) == (
        Outcome.ANSWERED,
        None,
        "similarity",
        "A big cat",
    )


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.EMPTY, Outcome.TRUNCATED])
def test_no_rule_makes_a_class_of_a_non_answer(rule: LadderMatching, outcome: Outcome) -> None:
    verdict = rule.judge(LMMResponse(outcome, "lion", reason="blocked"), None, ClassIndex(CLASSES))
    assert (verdict.outcome, verdict.text, verdict.index, verdict.reason) == (outcome, None, None, "blocked")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_an_answer_without_words_is_unparsed(rule: LadderMatching) -> None:
    assert rule.judge(answered("...!"), None, ClassIndex(CLASSES)).outcome is Outcome.UNPARSED


def test_paper_rule_scores_the_last_answer_without_full_stops_and_line_breaks() -> None:
    verdict = Paper().judge(answered("A lion."), answered("great_white\n_shark."), ClassIndex(CLASSES))
    assert (verdict.text, verdict.index, verdict.decided_by) == ("great white shark", 2, "similarity")
    assert Paper().judge(answered("A lion.\nIt rests."), None, ClassIndex(CLASSES)).text == "A lionIt rests"


def test_paper_rule_scores_the_name_behind_a_constrained_choice() -> None:
    verdict = Paper().judge(answered("A fish"), answered('{"class_index": "2"}'), ClassIndex(CLASSES))
    assert (verdict.text, verdict.choice) == ("great white shark", "great_white_shark")


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ladder'"):
        find_rule("lader")


def test_a_template_keeps_braces_of_the_text() -> None:
    assert apply_template("a photo of a {}", "{x} {0}") == "a photo of a {x} {0}"


@given(st.text(st.characters(categories=("L", "Nd", "Mn", "Mc")), min_size=1))
def test_letters_digits_and_marks_of_every_script_are_kept(text: str) -> None:
    whole = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())
    assert normalise(text).replace(" ", "") == whole.replace(" ", "")


@pytest.mark.parametrize(
    "names",
    [
        ("C", "C#", "C++", "Java"),
        ("T-shirt", "t shirt"),
        ("A", "a"),
        ("A-10", "10", "a 10"),
        ("A+", "A-", "A"),
        ("\u0e40\u0e2a\u0e37\u0e2d", "\u0e40\u0e2a\u0e37\u0e49\u0e2d"),
        ("\u0915\u0932", "\u0915\u093e\u0932", "\u0915\u0941\u0932"),
        ("caf\u00e9", "cafe"),
        ("R&D", "R D"),
        (".NET", "NET"),
        ("7", "seven", "-7"),
        ("St. Bernard", "St Bernard"),
    ],
)
def test_every_verbatim_name_means_its_own_class_under_both_rules_and_in_both_stages(names: tuple[str, ...]) -> None:
    index = ClassIndex(names)
    for own, name in enumerate(names):
        assert index.find(name) == own
        assert index.read_choice(f'"{name}"') == own
        assert LadderMatching().judge(answered(name), None, index).index == own
        assert Paper().judge(answered("?"), answered(name), index).index in (own, None)


def test_a_normalised_name_means_a_class_only_where_no_other_shares_it() -> None:
    index = ClassIndex(("T-shirt", "t shirt", "Maine Coon"))
    assert (index.find("T SHIRT"), index.find("the maine-coon.")) == (None, 2)
    assert ClassIndex(("C++", "Java")).find("C") is None
    assert index.find_words("a T shirt and a maine coon") == (2,)


def test_composed_and_decomposed_names_are_one() -> None:
    assert ClassIndex(("cafe\u0301", "tea")).find("caf\u00e9") == 0


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ('```json\n{"class_index": 2}\n```', 2),
        ('{"class_index": 2.0}', 2),
        ('{"class_index": " 2 "}', 2),
        ('{"class_index": "3"} since it has long fur', 3),
        ('The picture shows it: {"class": "Maine Coon"}', 3),
        ('{"class_index": "Maine Coon"}', 3),
        ("2", 2),
        ("3: Maine Coon", 3),
        ("0) Maine Coon", 3),
        ("5: crane", 5),
        ("4. crane", 4),
        ("Class: Maine Coon", 3),
        ("The best matching class is `Maine Coon`.", 3),
        ("**Answer: 3**", 3),
        ("\u201cMaine Coon\u201d", 3),
        ("1984", 1),
        ('{"class_index": true}', None),
        ('{"class_index": 2.5}', None),
        ('{"class_index": 6}', None),
        ('{"class_index": -1}', None),
        ("6", None),
        ("2: a dog", None),
        ("none of them", None),
        ("", None),
    ],
)
def test_a_choice_is_read_in_every_form_in_which_it_names_a_class(text: str, index: int | None) -> None:
    names = ("Siamese", "1984", "Manx", "Maine Coon", "crane", "crane")
    assert ClassIndex(names).read_choice(text) == index


@pytest.mark.parametrize(
    ("text", "by_name", "by_number"),
    [
        ("2", 1, 2),
        (" **2**.", 1, 2),
        ("Class: 2", 1, 2),
        ("3", 2, 2),
        ("0", 0, 0),
        ("2: 3", 2, 2),
        ('{"class_index": "2"}', 2, 2),
        ('{"class_name": "2"}', 1, 1),
        ('{"answer": "2"}', 1, 2),
    ],
)
def test_a_number_that_is_a_class_name_is_read_as_it_was_asked_for(text: str, by_name: int, by_number: int) -> None:
    names = ("1", "2", "3")
    assert ClassIndex(names).read_choice(text) == by_name
    assert ClassIndex(names, by_number=True).read_choice(text) == by_number
