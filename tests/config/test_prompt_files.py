import re

import pytest

from tlac.config.files import list_names
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_dataset_config
from tlac.types import ChoiceTask, Image, TextPart

PAPER_DATASETS = (
    *("imagenet", "imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r", "caltech101", "oxford_pets"),
    *("stanford_cars", "flowers102", "food101", "fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)
SETS = ("default", "name")


@pytest.mark.parametrize("name", SETS)
def test_each_set_asks_for_every_dataset_of_the_paper_in_words_of_its_own(name: str) -> None:
    stage1 = load_prompts(name).spec.stage1
    assert set(stage1) == {*PAPER_DATASETS, "cifar", "default"}
    assert len(set(stage1.values())) == len(stage1)


@pytest.mark.parametrize("name", SETS)
def test_stage_1_has_no_placeholder_line_break_or_stray_space(name: str) -> None:
    for prompt in load_prompts(name).spec.stage1.values():
        assert not re.search(r"[{}\n]|\s\s|^\s|\s$", prompt)


def test_the_default_set_asks_for_a_sentence_and_the_name_set_for_a_name_alone() -> None:
    assert all("one short sentence" in prompt for prompt in load_prompts("default").spec.stage1.values())
    assert all("Answer with" in prompt for prompt in load_prompts("name").spec.stage1.values())


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
    stage1 = load_prompts("default").spec.stage1
    for name in list_names("dataset"):
        assert load_dataset_config(name).spec.prompt in stage1, name


def test_stage_1_shows_the_image_with_the_named_prompt() -> None:
    prompts = load_prompts("default")
    (message,) = prompts.stage1_messages(Image("0" * 64, b""), "oxford_pets")
    assert message.parts[1] == TextPart(prompts.spec.stage1["oxford_pets"])
    assert "breed" in prompts.spec.stage1["oxford_pets"]
