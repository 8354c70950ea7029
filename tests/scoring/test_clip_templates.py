from __future__ import annotations

import pytest

from tlac.errors import UnknownNameError
from tlac.scoring.clip_zero_shot import find_templates


def test_the_papers_is_the_template_that_is_given() -> None:
    assert find_templates("paper", "dtd", "a photo of a {}") == ("a photo of a {}",)


@pytest.mark.parametrize(
    ("prompt", "template"),
    [
        ("dtd", "{} texture."),
        ("oxford_pets", "a photo of a {}, a type of pet."),
        ("eurosat", "a centered satellite photo of {}."),
        ("caltech101", "a photo of a {}."),
    ],
)
def test_coops_go_by_dataset(prompt: str, template: str) -> None:
    assert find_templates("coop", prompt, "x {}") == (template,)


def test_imagenets_are_eighty_with_a_place_each() -> None:
    found = find_templates("imagenet", "imagenet", "x {}")
    assert len(set(found)) == 80
    assert all(template.count("{}") == 1 for template in found)


def test_another_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'coop'"):
        find_templates("coopp", "dtd", "x {}")
