"""The commands of the pages about methods and results: all are what the command line takes, and whole ones work."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from tests.support.documents import ROOT
from tlac.cli import cli

NAMES = ("methods.md", "confidence.md", "ablations.md", "results.md")
PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in NAMES]
WHOLE = [
    found.replace("\\\n", " ")
    for page in PAGES
    for found in re.findall(r"^    (tlac (?:.*\\\n)*.*)$", page, re.MULTILINE)
]
INLINE = [" ".join(found.split()) for page in PAGES for found in re.findall(r"`(tlac [a-z][^`]+)`", page)]
# a dataset and a model that are here
AT_HAND = {"caltech101": "imagenet-samples", "gemini": "embedded"}


@pytest.mark.parametrize("text", dict.fromkeys([*WHOLE, *INLINE]))
def test_every_command_that_is_shown_names_options_that_there_are(text: str) -> None:
    _, name, *arguments = shlex.split(text)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.get_command(click.Context(command), name)
        assert command is not None
    context = click.Context(command, info_name=name)
    given, _, _ = command.make_parser(context).parse_args(arguments)
    for param in command.params:
        if isinstance(param, click.Option) and given.get(param.name or "") is not None:
            param.type_cast_value(context, given[param.name or ""])


@pytest.mark.slow  # the ablation is eight runs
@pytest.mark.parametrize("text", [text for text in WHOLE if "pack:" not in text])
def test_whole_commands_work_on_images_at_hand(tlac_command, text: str) -> None:
    words = [AT_HAND.get(word, word) for word in shlex.split(text)[1:]]
    shown = tlac_command(*words, "--encoder", "minilm", "--limit", "2")
    assert shown.code == 0, shown.err


def test_the_pages_show_commands() -> None:
    assert len(WHOLE) == 3
    assert len(INLINE) > 10
