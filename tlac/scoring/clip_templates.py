"""The prompt templates that zero-shot CLIP is measured with, by name.

Does not know encoders nor datasets: those of CoOp go by the stage-1 prompt that fits a dataset's images.
"""

from __future__ import annotations

from tlac.errors import UnknownNameError

NAMES = ("paper", "coop", "imagenet")
# https://github.com/KaiyangZhou/CoOp, trainers/zsclip.py
_COOP = {
    "oxford_pets": "a photo of a {}, a type of pet.",
    "flowers102": "a photo of a {}, a type of flower.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "food101": "a photo of {}, a type of food.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}
_COOP_DEFAULT = "a photo of a {}."


def find_templates(name: str, prompt: str, template: str) -> tuple[str, ...]:
    """The templates of that name, each with {} where the class goes.

    "paper" is `template` alone, by default the paper's; "coop" CoOp's for the stage-1 prompt `prompt`;
    "imagenet" the 80 that CLIP's authors chose for ImageNet. Raises UnknownNameError.
    """
    if name == "paper":
        return (template,)
    if name == "coop":
        return (_COOP.get(prompt, _COOP_DEFAULT),)
    if name == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(make("{}") for make in OPENAI_IMAGENET_TEMPLATES)
    raise UnknownNameError("set of CLIP templates", name, NAMES)
