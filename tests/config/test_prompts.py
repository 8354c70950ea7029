from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tlac.config.prompts import Hints, load_prompts, with_hints
from tlac.errors import ConfigError, TlacError, UsageError
from tlac.types import ChoiceTask, Image, TextPart

SET = """
description: ours
stage1: {default: What is it?, cars: Which car is it?}
stage2:
  prefix: "Classes:\\n{classes}"
  question: "Seen: {answer}"
  prefix_by_index: "Numbered:\\n{classes}"
  question_by_index: "Seen: {answer}. Index?"
"""


def own_set(tmp_path: Path, text: str = SET) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_stage_1_shows_the_image_and_asks_in_the_datasets_words(tmp_path: Path) -> None:
    image = Image("00", b"")
    prompts = load_prompts(own_set(tmp_path))
    (message,) = prompts.stage1_messages(image, "cars")
    assert message.parts == (image, TextPart("Which car is it?"))
    assert prompts.stage1_messages(image, "unheard of")[0].parts[1] == TextPart("What is it?")


def test_hints_are_drawn_by_their_seed_whatever_the_order_of_the_classes() -> None:
    classes = [f"class {number}" for number in range(40)]
    prompts = load_prompts("default:hints=5,seed=3")
    drawn = prompts.draw_hints(classes)
    assert len(set(drawn)) == 5
    assert set(drawn) < set(classes)
    assert prompts.draw_hints(classes[::-1]) == drawn
    assert load_prompts("default:hints=5,seed=4").draw_hints(classes) != drawn
    assert load_prompts("default").draw_hints(classes) == ()


def test_a_name_that_stands_twice_is_shown_once() -> None:
    assert sorted(load_prompts("default:hints=2").draw_hints(["crane", "crane", "owl", "owl", "auk"])) in (
        ["auk", "crane"],
        ["auk", "owl"],
        ["crane", "owl"],
    )


def test_hints_stand_before_the_image_and_the_datasets_words_are_left_out() -> None:
    image = Image("00", b"")
    (message,) = load_prompts("default:hints=2").stage1_messages(image, "food101", ["ramen", "a {soup}"])
    before, shown, question = message.parts
    assert before.is_prefix
    assert "\n\nramen\na {soup}\n\n" in before.text
    assert shown == image
    assert "the words that such a list would use" in question.text
    assert "dish" not in question.text


def test_the_digest_tells_hints_and_seeds_apart_and_is_the_old_one_without() -> None:
    names = ("default", "default:hints=5", "default:hints=6", "default:hints=5,seed=1", "default:hints=5,spread=true")
    assert len({load_prompts(name).digest for name in names}) == 5
    assert load_prompts("default:hints=5,spread=false").digest == load_prompts("default:hints=5").digest
    assert load_prompts("default:hints=5").digest == "c32e7cb7e800dd7f8409e45b3d52b0085ab5978bf04585ffc099e4003a253449"
    assert load_prompts("default").digest == "fb345c8004d20742610a78bdab910248b21ff3466147cb813fc944343d860c8f"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("default:hints=0", "0 class names can't be shown"),
        ("default:hints=ten", "hints and seed are whole numbers"),
        ("default:seed=1", "hints and seed are whole numbers"),
        ("default:hints=3,spread=yes", "spread is true or false, not 'yes'"),
        ("default:hnts=3", "unknown option of a prompt set 'hnts': did you mean 'hints'"),
        ("paper:hints=3", "hints need 'hinted'"),
    ],
)
def test_wrong_hints_are_refused(name: str, complaint: str) -> None:
    with pytest.raises(TlacError, match=complaint):
        load_prompts(name)


def test_hints_that_are_spread_are_shown_once_a_run_has_drawn_them() -> None:
    prompts = load_prompts("default:hints=2,spread=true")
    with pytest.raises(UsageError, match="hints are drawn by a run, with its text encoder"):
        prompts.draw_hints(["auk", "owl", "crane"])
    drawn = replace(prompts, drawn={Hints(2, spread=True): ("owl", "auk"), Hints(2, 1, spread=True): ("crane", "auk")})
    assert drawn.draw_hints(["auk", "owl", "crane"]) == ("owl", "auk")


def test_a_set_that_shows_all_names_has_none_to_spread(tmp_path: Path) -> None:
    hinted = "hinted: {prefix: '{classes}', question: Which?}\nhints: {count: all, spread: true}\n"
    with pytest.raises(ConfigError, match="all class names are shown, so that none can be drawn"):
        load_prompts(own_set(tmp_path, SET + hinted))


def test_a_number_of_hints_becomes_an_option_of_the_set() -> None:
    names = [with_hints("name", hints) for hints in ("0", "30", "30:spread")]
    assert names == ["name", "name:hints=30", "name:hints=30,spread=true"]
    for wrong in ("-3", "many", "30:", "30:random", "", "3.5"):
        with pytest.raises(UsageError, match="such as 30, or 30:spread"):
            with_hints("name", wrong)
    with pytest.raises(UsageError, match="has options already"):
        with_hints("name:hints=3", "30")


def test_no_more_hints_are_shown_than_there_are_other_classes() -> None:
    with pytest.raises(UsageError, match="3 of 3 class names would be shown; show fewer"):
        load_prompts("default:hints=3").draw_hints(["a", "b", "c", "c"])


def test_stage_2_lists_each_name_once_and_keeps_braces(tmp_path: Path) -> None:
    task = ChoiceTask("a {thing}", ("b", "{a}", "b"))
    (message,) = load_prompts(own_set(tmp_path)).stage2_messages(task)
    assert message.parts == (TextPart("Classes:\nb\n{a}", is_prefix=True), TextPart("Seen: a {thing}"))


def test_stage_2_by_index_numbers_every_class(tmp_path: Path) -> None:
    task = ChoiceTask("x", ("b", "a", "b"), by_index=True)
    (message,) = load_prompts(own_set(tmp_path)).stage2_messages(task)
    assert message.parts[0].text == "Numbered:\n0: b\n1: a\n2: b"


def test_the_digest_is_of_the_words_alone(tmp_path: Path) -> None:
    first = load_prompts(own_set(tmp_path)).digest
    assert load_prompts(own_set(tmp_path, SET.replace("ours", "mine"))).digest == first
    assert load_prompts(own_set(tmp_path, SET.replace("Which", "What"))).digest != first


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("{classes}", "", r"stage2.prefix must hold \{classes\}"),
        ("default:", "other:", "stage1 needs a prompt named 'default'"),
        ("stage2:", "stage3:", "unknown key 'stage3': did you mean 'stage"),
    ],
)
def test_a_set_that_lacks_something_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_prompts(own_set(tmp_path, SET.replace(old, new)))


def test_what_class_names_mean_stands_behind_their_list_for_those_that_are_listed(tmp_path: Path) -> None:
    prompts = replace(load_prompts(own_set(tmp_path)), descriptions={"bolt": "has a thread", "nut": "goes on a bolt"})
    (message,) = prompts.stage2_messages(ChoiceTask("x", ("bolt", "washer", "nut"), candidates=(0, 1)))
    assert message.parts[0] == TextPart("Classes:\nbolt\nwasher\n\nWhat is meant by them:\n\nbolt: has a thread")
    (message,) = prompts.stage2_messages(ChoiceTask("x", ("washer", "screw")))
    assert message.parts[0] == TextPart("Classes:\nwasher\nscrew", is_prefix=True)
    assert prompts.digest != load_prompts(own_set(tmp_path)).digest


def test_ones_own_domain_stands_before_every_stage_1_prompt(tmp_path: Path) -> None:
    prompts = load_prompts(own_set(tmp_path))
    told = prompts.about("parts on a conveyor.")
    assert told.stage1 == {
        "default": "This image is one of a set: parts on a conveyor. What is it?",
        "cars": "This image is one of a set: parts on a conveyor. Which car is it?",
    }
    assert told.digest != prompts.digest


RELOOK = """
relook:
  prefix: "Left:\\n{classes}"
  question: "Seen: {answer}\\n\\nWhich?"
  prefix_by_index: "Left:\\n{classes}"
  question_by_index: "Seen: {answer}\\n\\nNumber?"
"""


def test_an_image_is_shown_again_with_the_first_words_or_without(tmp_path: Path) -> None:
    image, prompts = Image("00", b""), load_prompts(own_set(tmp_path, SET + RELOOK))
    for answer, by_index, question in (
        ("a car", False, "Seen: a car\n\nWhich?"),
        ("", False, "Which?"),
        ("", True, "Number?"),
    ):
        (message,) = prompts.relook_messages(image, ChoiceTask(answer, ("a", "b"), by_index, (1,)))
        assert message.parts[0] == image
        assert message.parts[2] == TextPart(question)
    with pytest.raises(ConfigError, match="needs 'relook'"):
        load_prompts(own_set(tmp_path)).relook_words(has_answer=True)
    joined = load_prompts(own_set(tmp_path, SET + RELOOK.replace("\\n\\nWhich", " Which")))
    with pytest.raises(ConfigError, match=r"needs \{answer\} in a paragraph of its own"):
        joined.relook_words(has_answer=False)
    assert joined.relook_words(has_answer=True).question == "Seen: {answer} Which?"
