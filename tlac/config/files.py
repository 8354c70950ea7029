"""Finds the YAML files that describe backends, encoders, prompt sets, datasets and suites.

Looks, first match wins: a path ending in .yaml; the section of that kind in ./tlac.yaml; the user's config
folder; the files that ship with tlac. Does not know what the files mean.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import platformdirs
import yaml

from tlac.errors import ConfigError, UnknownNameError

Kind: TypeAlias = Literal["backend", "encoder", "prompts", "dataset", "suite"]

# folder under the repository root (and under tlac/data in a wheel), and section of tlac.yaml
FOLDERS: dict[Kind, str] = {
    "backend": "backends",
    "encoder": "backends/encoders",
    "prompts": "prompts",
    "dataset": "benchmarks/datasets",
    "suite": "benchmarks/suites",
}
SECTIONS: dict[Kind, str] = {
    "backend": "backends",
    "encoder": "encoders",
    "prompts": "prompts",
    "dataset": "datasets",
    "suite": "suites",
}
PROJECT_FILE = "tlac.yaml"


@dataclass(frozen=True, slots=True)
class Resource:
    """A named description and the file it came from."""

    name: str
    source: str
    content: dict[str, Any]


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe loader, which also refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming the file, and the line where there is one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derives from the safe loader
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {_yaml_complaint(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected keys with values at the top, such as 'description: ...'")
    return content


def _yaml_complaint(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"


@lru_cache(maxsize=1)
def shipped_root() -> Path:
    """Where the shipped YAML lies: tlac/data in an installed wheel, the repository root in a checkout."""
    package = Path(__file__).parents[1]
    return package / "data" if (package / "data").is_dir() else package.parent


def user_config_folder() -> Path:
    """The user's own configuration: TLAC_CONFIG_DIR, else the platform's place."""
    override = os.environ.get("TLAC_CONFIG_DIR")
    return Path(override) if override else Path(platformdirs.user_config_dir("tlac"))


def _project_section(kind: Kind) -> dict[str, Any]:
    path = Path(PROJECT_FILE)
    if not path.is_file():
        return {}
    project = read_yaml(path)
    unknown = set(project) - set(SECTIONS.values())
    if unknown:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}: known: {', '.join(SECTIONS.values())}")
    section = project.get(SECTIONS[kind]) or {}
    if not isinstance(section, dict) or not all(isinstance(value, dict) for value in section.values()):
        raise ConfigError(f"{path}: {SECTIONS[kind]!r} must hold names, each with its own keys below it")
    return section


def _search_folders(kind: Kind) -> list[Path]:
    return [user_config_folder() / SECTIONS[kind], shipped_root() / FOLDERS[kind]]


def list_names(kind: Kind) -> list[str]:
    """All known names of a kind, sorted."""
    names = set(_project_section(kind))
    for folder in _search_folders(kind):
        names.update(path.stem for path in folder.glob("*.yaml"))
    return sorted(names)


def find(kind: Kind, name: str) -> Resource:
    """The description with that name, or in the file of that path.

    Raises UnknownNameError with the nearest name, ConfigError for a broken file.
    """
    if name.endswith((".yaml", ".yml")):
        return Resource(Path(name).stem, name, read_yaml(Path(name)))
    section = _project_section(kind)
    if name in section:
        return Resource(name, f"{PROJECT_FILE}:{SECTIONS[kind]}.{name}", section[name])
    if name == Path(name).name:
        for folder in _search_folders(kind):
            path = folder / f"{name}.yaml"
            if path.is_file():
                return Resource(name, str(path), read_yaml(path))
    noun = "prompt set" if kind == "prompts" else kind
    raise UnknownNameError(noun, name, list_names(kind), remedy="a path to a .yaml file works too")
