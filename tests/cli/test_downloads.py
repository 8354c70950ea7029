from __future__ import annotations

import io

import pytest
from rich.console import Console

from tlac.cli.progress import show_downloads


def shown(is_terminal: bool, is_quiet: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
    with show_downloads(is_quiet, console) as on_bytes:
        if on_bytes:
            for done in (10_000_000, 20_000_000, 85_000_000):
                on_bytes("dtd.tar.gz", done, 85_000_000)
            on_bytes("list.txt", 1_000, None)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_a_bar_a_file() -> None:
    text = shown(is_terminal=True)
    assert "dtd.tar.gz" in text
    assert "85.0/85.0 MB" in text
    assert "list.txt" in text


def test_elsewhere_there_are_a_few_plain_lines() -> None:
    assert shown(is_terminal=False).splitlines() == [
        "dtd.tar.gz: 10.0 MB of 85.0 MB",
        "dtd.tar.gz: 85.0 MB of 85.0 MB",
        "list.txt: 1.0 kB",
    ]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_quiet_is_quiet(is_terminal: bool) -> None:
    assert shown(is_terminal, is_quiet=True) == ""
