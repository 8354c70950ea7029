from __future__ import annotations

from pathlib import Path

import pytest

from tlac.config.files import read_aliases
from tlac.errors import ConfigError, InputError
from tlac.scoring.matching import ClassIndex

CLASSES = ("hot dog", "sports car", "missile", "missile")


def test_a_file_names_further_names(tmp_path: Path) -> None:
    path = tmp_path / "aliases.yaml"
    path.write_text("hot dog: [frankfurter, red hot]\nsports car: [sport car]\n")
    assert read_aliases(path) == {"hot dog": ("frankfurter", "red hot"), "sports car": ("sport car",)}


def test_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "aliases.yaml"
    path.write_text("hot dog: frankfurter\n")
    with pytest.raises(InputError, match=r"expected `class name: \[name, \.\.\.\]`"):
        read_aliases(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_aliases(tmp_path / "none.yaml")


def test_an_alias_is_found_as_the_class() -> None:
    index = ClassIndex(CLASSES, {"Hot_Dog": ("frankfurter", "red hot")})
    assert index.find("A Frankfurter") == 0
    assert index.find_words("a big red hot on a plate") == (0,)
    assert index.names[:3] == ((0, "hot dog"), (0, "frankfurter"), (0, "red hot"))


def test_an_alias_that_tells_nothing_apart_is_left_out() -> None:
    aliases = {"hot dog": ("sports car", "thing", "!"), "missile": ("thing", "rocket"), "tench": ("fish",)}
    index = ClassIndex(CLASSES, aliases)
    assert index.find("sports car") == 1
    assert index.find("thing") is None
    assert index.find("fish") is None
    # a class whose name stands twice: both have the alias, the lower index is found
    assert index.find("rocket") == 2
    assert [name for _, name in index.names].count("rocket") == 2
