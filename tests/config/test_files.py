from __future__ import annotations

from pathlib import Path

import pytest

from tlac.config.files import find, list_names, read_yaml, trust
from tlac.errors import ConfigError, UnknownNameError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_files_are_found_by_name() -> None:
    assert {"gemini", "gpt-4o", "claude", "ollama", "vllm", "embedded"} <= set(list_names("backend"))
    assert find("backend", "gemini").spec["adapter"] == "litellm"


def test_a_trusted_working_directory_comes_before_the_users_folder_and_that_before_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("backend", "gemini").spec["model"].startswith("gemini/")
    mine = write(tmp_path / "config" / "backends" / "gemini.yaml", "adapter: litellm\nmodel: mine\n")
    found = find("backend", "gemini")
    assert (found.spec["model"], found.source) == ("mine", str(mine))
    write(tmp_path / "tlac.yaml", "backends:\n  gemini:\n    adapter: litellm\n    model: project\n")
    trust(Path("tlac.yaml"))
    found = find("backend", "gemini")
    assert (found.spec["model"], found.source) == ("project", "tlac.yaml:backends.gemini")


def test_a_path_is_a_name_too(tmp_path: Path) -> None:
    path = write(tmp_path / "own.yaml", "adapter: litellm\nmodel: m\n")
    assert find("backend", str(path)).name == "own"


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown backend 'gemni': did you mean 'gemini'\?"):
        find("backend", "gemni")


def test_a_name_is_not_a_way_out_of_the_folder() -> None:
    with pytest.raises(UnknownNameError):
        find("prompts", "../backends/gemini")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1, 2", "line 2"),
        ("a: 1\nb: 2\na: 3\n", "'a' stands twice"),
        ("bolt: 1\nno: 2\n", "the key False is no text to YAML: put it into quotes"),
        ("- a\n- b\n", "expected keys"),
        ("", "expected keys"),
        ("1: a\n", "the key 1 is no text to YAML: put it into quotes"),
        ("a: !!python/object/apply:os.system [true]\n", "line 1"),
        ("? [a, b]\n: c\n", ":"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_broken_yaml_is_one_line_that_names_the_file(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path / "broken.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert complaint in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_a_project_file_with_an_unknown_section_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tlac.yaml", "backend:\n  a: {}\n")
    with pytest.raises(ConfigError, match=r"tlac.yaml: unknown key 'backend': known: backends"):
        find("backend", "gemini")
