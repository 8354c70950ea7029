import re

import pytest

from tlac.config.files import list_names
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_dataset_config
from tlac.errors import UsageError
from tlac.types import ChoiceTask, Image, TextPart

PAPER_DATASETS = (
    *("imagenet", "imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r", "caltech101", "oxford_pets"),
    *("stanford_cars", "flowers102", "food101", "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)
SETS = ("default", "name")


@pytest.mark.parametrize("name", SETS)
def test_each_set_asks_for_every_dataset_of_the_paper_in_words_of_its_own(name: str) -> None:
    stage1 = load_prompts(name).stage1
    assert set(stage1) == {*PAPER_DATASETS, "cifar", "default"}
    assert len(set(stage1.values())) == len(stage1)


@pytest.mark.parametrize("name", SETS)
def test_stage_1_has_no_placeholder_line_break_or_stray_space(name: str) -> None:
    for prompt in load_prompts(name).stage1.values():
        assert not re.search(r"[{}\n]|\s\s|^\s|\s$", prompt)


def test_the_default_set_asks_for_a_sentence_and_the_name_set_for_a_name_alone() -> None:
    assert all("one short sentence" in prompt for prompt in load_prompts("default").stage1.values())
    assert all("Answer with" in prompt for prompt in load_prompts("name").stage1.values())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("by_index", [False, True])
def test_stage_2_shows_every_class_before_the_answer_and_nothing_else_varies(name: str, by_index: bool) -> None:
    task = ChoiceTask(answer='a {classes} "tin"', classes=("red car", "old {answer} car"), by_index=by_index)
    (message,) = load_prompts(name).stage2_messages(task)
    prefix, question = message.parts
    assert isinstance(prefix, TextPart)
    assert isinstance(question, TextPart)
    assert "red car\n" in prefix.text
    assert "old {answer} car\n" in prefix.text
    assert 'What they said: a {classes} "tin"\n' in question.text
    assert ('{"class_index": "<number>"}' in question.text) == by_index


def test_every_shipped_dataset_names_a_prompt_that_the_default_set_has() -> None:
    stage1 = load_prompts("default").stage1
    for name in list_names("dataset"):
        assert load_dataset_config(name).spec.prompt in stage1, name


def test_stage_1_shows_the_image_with_the_named_prompt() -> None:
    prompts = load_prompts("default")
    (message,) = prompts.stage1_messages(Image("0" * 64, b""), "oxford_pets")
    assert message.parts[1] == TextPart(prompts.stage1["oxford_pets"])
    assert "breed" in prompts.stage1["oxford_pets"]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("by_index", [False, True])
def test_a_list_of_some_classes_is_not_called_all_classes(name: str, by_index: bool) -> None:
    prompts = load_prompts(name)
    classes = tuple(f"class {number}" for number in range(1000))
    task = ChoiceTask("a dog", classes, by_index, candidates=(3, 700))
    (text,) = prompts.stage2_messages(task)
    shown = " ".join(part.text for part in text.parts if isinstance(part, TextPart))
    assert "some classes" in shown
    assert not re.search("all classes|exactly one", shown)
    assert "class 700" in shown
    (again,) = prompts.relook_messages(Image("0" * 64, b""), task)
    assert not any("exactly one" in part.text for part in again.parts if isinstance(part, TextPart))
    (whole,) = prompts.stage2_messages(ChoiceTask("a dog", classes, by_index))
    assert any("all classes" in part.text for part in whole.parts if isinstance(part, TextPart))


@pytest.mark.parametrize("name", [*SETS, "paper"])
def test_no_prompt_holds_two_blank_lines_in_a_row(name: str) -> None:
    prompts = load_prompts(name)
    for candidates in (None, (0, 1)):
        task = ChoiceTask("a dog", ("cat", "dog", "emu"), candidates=candidates)
        (message,) = prompts.stage2_messages(task)
        assert "\n\n\n" not in "".join(part.text for part in message.parts if isinstance(part, TextPart))


def test_the_papers_set_asks_stage_2_in_free_text_over_a_list_in_line() -> None:
    prompts = load_prompts("paper")
    assert prompts.stage1 == load_prompts("default").stage1
    (message,) = prompts.stage2_messages(ChoiceTask("A dog.\nIt barks.", ("cat", "old_dog")))
    shown = "".join(part.text for part in message.parts if isinstance(part, TextPart))
    assert "cat, old_dog\n" in shown
    assert "A dogIt barks\n" in shown


def test_answers_that_were_asked_in_the_first_words_are_still_found() -> None:
    first, now = load_prompts("default-1"), load_prompts("default")
    assert (first.stage1, first.spec.stage2) == (now.stage1, now.spec.stage2)
    (message,) = first.stage2_messages(ChoiceTask("a dog", ("cat", "dog", "emu"), candidates=(0, 1)))
    assert message.parts[0] == TextPart(now.spec.stage2.prefix.replace("{classes}", "cat\ndog"))


def test_a_set_that_lists_all_classes_lists_them_in_their_order_and_takes_no_number() -> None:
    listed = load_prompts("listed")
    assert listed.draw_hints(("b", "a", "b")) == ("b", "a")
    with pytest.raises(UsageError, match="--prompts listed shows all class names: leave the number of hints out"):
        load_prompts("listed:hints=3")
