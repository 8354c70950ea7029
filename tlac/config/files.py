"""Finds the YAML files that describe backends, encoders, prompt sets, datasets and suites, and says whose they are.

Looks, first match wins: a path ending in .yaml; the section of that kind in ./tlac.yaml; the user's config folder; the
files that ship with tlac. A ./tlac.yaml takes the place of the latter two only where it is trusted.

What ships with tlac and what lies in the user's config folder is the user's own. A `tlac.yaml` in the working directory
and a file given by its path may have come with a cloned folder: they are strangers until `tlac trust` has remembered
them, by path and content.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
import platformdirs
import yaml

from tlac.errors import ConfigError, InputError, UnknownNameError
from tlac.runtime.safe_files import naming_failure, parse_json, read_file, read_json, replacing

SpecT = TypeVar("SpecT")
Kind: TypeAlias = Literal["backend", "encoder", "prompts", "dataset", "suite"]

# folder under the repository root (and under tlac/data in a wheel); the last part is its section of tlac.yaml, too
FOLDERS: dict[Kind, str] = {
    "backend": "backends",
    "encoder": "backends/encoders",
    "prompts": "prompts",
    "dataset": "benchmarks/datasets",
    "suite": "benchmarks/suites",
}
SECTIONS: dict[Kind, str] = {kind: folder.rpartition("/")[2] for kind, folder in FOLDERS.items()}
PROJECT_FILE = "tlac.yaml"
_TEXT_TAG = "tag:yaml.org,2002:str"
_NUMBER_TAG = "tag:yaml.org,2002:float"
_MAX_BYTES = 2**22
_MAX_DEPTH = 32
# ImageNet's dataset file has 2,000; what a file's aliases repeat is counted each time
_MAX_NODES = 200_000
_MAX_NUMBER = 100

_log = logging.getLogger(__name__)


# without slots: with them, making one by an alias such as Backend(...) is a TypeError before Python 3.13
@dataclass(frozen=True)
class Config(Generic[SpecT]):
    """What a YAML file, or a section of one, describes: its name, where it stands, and what it says.

    With `is_offline` it is to be had from this machine alone. `stranger` is the path and sha256 of a file that may be
    somebody else's work, None where it is the user's own.
    """

    name: str
    source: str
    spec: SpecT
    is_offline: bool = False
    stranger: tuple[Path, str] | None = None

    @property
    def digest(self) -> str:
        """The sha256 (hex) of all that it says."""
        # here, not above, as it imports numpy: a shell that completes names does not wait for it
        from tlac.hashing import sha256_of

        return sha256_of(msgspec.to_builtins(self.spec))


class UntrustedFileError(ConfigError):
    """A file that somebody else may have written wants what only the user's own may have; `tlac trust` allows it."""

    def __init__(self, complaint: str, path: Path, sha256: str) -> None:
        super().__init__(f"{complaint}: look at it, and run `tlac trust {path}` if it is yours")
        self.path = path
        self.sha256 = sha256


def user_config_folder() -> Path:
    """The user's own configuration: TLAC_CONFIG_DIR, else the platform's place."""
    override = os.environ.get("TLAC_CONFIG_DIR")
    return Path(override) if override else Path(platformdirs.user_config_dir("tlac"))


def trust(path: Path, sha256: str | None = None) -> None:
    """Remember a YAML file with the content of this digest (hex), else as it is now, as the user's own.

    Raises ConfigError for what is no such file, and where that can't be written.
    """
    if sha256 is None:
        content = _read(path)
        _parse_yaml(path, content)
        sha256 = hashlib.sha256(content).hexdigest()
    trusted = {**_read_trusted(), str(path.resolve()): sha256}
    target = _trusted_file()
    with naming_failure(target, kind=ConfigError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(json.dumps(trusted, indent=2).encode())


def _trusted_file() -> Path:
    return user_config_folder() / "trusted.json"


def _read_trusted() -> dict[str, str]:
    path = _trusted_file()
    if not path.exists():
        return {}
    try:
        found: dict[str, str] = read_json(path, dict[str, str], _MAX_BYTES)
    except InputError as error:
        raise ConfigError(f"{error}; remove it, and trust your files anew") from error
    return found


class _StrictLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe loader, which also refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=node.start_mark)
                seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError naming the file, and the line where there is one."""
    return _parse_yaml(path, _read(path))


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """The names in a file of aliases. Raises InputError naming file and key, ConfigError for what is no YAML."""
    try:
        return msgspec.convert(read_yaml(path), dict[str, tuple[str, ...]], strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: expected `class name: [name, ...]`: {error}") from error


def read_document(path: Path) -> Any:
    """What a YAML or JSON file holds, in any form. Raises ConfigError naming the file, and the line where it can."""
    content = _read(path)
    # YAML refuses some of JSON: tabs before a line, and emoji as Python writes them, in two escapes
    return _load_json(path, content) if path.suffix.lower() == ".json" and _is_json(content) else _parse(path, content)


def _is_json(content: bytes) -> bool:
    try:
        parse_json(content, object, max_depth=_MAX_DEPTH)
    except InputError:
        return False
    return True


def _load_json(path: Path, content: bytes) -> Any:
    def refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ConfigError(f"{path}: key {twin!r} stands twice")
        return found

    return json.loads(content, object_pairs_hook=refuse_twins)


def _read(path: Path) -> bytes:
    if not path.exists():
        raise ConfigError(f"{path}: no such file")
    try:
        return read_file(path, _MAX_BYTES)
    except InputError as error:
        raise ConfigError(str(error)) from error


def _parse(path: Path, content: bytes) -> Any:
    try:
        text = content.decode("utf-8")
        _check_shape(text)
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derives from the safe loader
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {_yaml_complaint(error)}") from error


def _parse_yaml(path: Path, content: bytes) -> dict[str, Any]:
    parsed = _parse(path, content)
    if isinstance(parsed, dict) and (unlike := [key for key in parsed if not isinstance(key, str)]):
        raise ConfigError(f"{path}: the key {unlike[0]!r} is no text to YAML: put it into quotes")
    if not isinstance(parsed, dict):
        raise ConfigError(f"{path}: expected keys with values at the top, such as 'description: ...'")
    return parsed


def _check_shape(text: str) -> None:
    """Raise YAMLError for text that a few lines make deep, endless or huge: by nesting, aliases, or one long number.

    What follows the parser (schemas, digests, messages) would run out of stack or memory.
    """
    depth = 0
    # events first, which are made without recursion
    for event in yaml.parse(text, Loader=_StrictLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _complain(f"nested more than {_MAX_DEPTH} deep", event)
    nodes = [(yaml.compose(text, Loader=_StrictLoader), 1)]
    count = 0
    while nodes:
        node, depth = nodes.pop()
        count += 1
        if count > _MAX_NODES or depth > _MAX_DEPTH:
            # only aliases get here: to a collection that holds itself, or many times over
            raise _complain("aliases that grow without bound", node)
        if isinstance(node, yaml.MappingNode):
            nodes += [(one, depth + 1) for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += [(one, depth + 1) for one in node.value]
        elif isinstance(node, yaml.ScalarNode):
            _check_number(node)


def _check_number(node: yaml.ScalarNode) -> None:
    if node.tag != _TEXT_TAG and len(node.value) > _MAX_NUMBER:
        raise _complain("a number of too many digits", node)
    if node.tag == _NUMBER_TAG and node.value.strip("+-.").lower() in ("inf", "nan"):
        # neither a digest nor a request can hold it
        raise _complain(f"{node.value} is no number that can be used here", node)


def _complain(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _yaml_complaint(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"


@lru_cache(maxsize=1)
def shipped_root() -> Path:
    """Where the shipped YAML lies: tlac/data in an installed wheel, the repository root in a checkout."""
    package = Path(__file__).parents[1]
    return package / "data" if (package / "data").is_dir() else package.parent


def _project_section(kind: Kind) -> tuple[dict[str, Any], tuple[Path, str] | None]:
    """A section of the working directory's tlac.yaml, and that file where it is not trusted."""
    path = Path(PROJECT_FILE)
    if not path.is_file():
        return {}, None
    content = _read(path)
    project = _parse_yaml(path, content)
    unknown = set(project) - set(SECTIONS.values())
    if unknown:
        raise ConfigError(f"{path}: unknown key {min(unknown)!r}: known: {', '.join(SECTIONS.values())}")
    section = project.get(SECTIONS[kind]) or {}
    if not isinstance(section, dict) or not all(isinstance(value, dict) for value in section.values()):
        raise ConfigError(f"{path}: {SECTIONS[kind]!r} must hold names, each with its own keys below it")
    return section, _stranger(path, content)


def _stranger(path: Path, content: bytes) -> tuple[Path, str] | None:
    sha256 = hashlib.sha256(content).hexdigest()
    return None if _read_trusted().get(str(path.resolve())) == sha256 else (path, sha256)


def _search_folders(kind: Kind) -> list[Path]:
    return [user_config_folder() / SECTIONS[kind], shipped_root() / FOLDERS[kind]]


def list_names(kind: Kind) -> list[str]:
    """All known names of a kind, sorted."""
    names = set(_project_section(kind)[0])
    for folder in _search_folders(kind):
        names.update(path.stem for path in folder.glob("*.yaml"))
    return sorted(names)


def find(kind: Kind, name: str) -> Config[dict[str, Any]]:
    """The description with that name, or in the file of that path.

    Raises UnknownNameError with the nearest name, ConfigError for a broken file, and UntrustedFileError where the
    working directory's tlac.yaml would take the place of another description.
    """
    found = _find(kind, name)
    _log.debug("%s %r is described in %s", _noun(kind), name, found.source)
    return found


def _find(kind: Kind, name: str) -> Config[dict[str, Any]]:
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        content = _read(path)
        return Config(path.stem, name, _parse_yaml(path, content), stranger=_stranger(path, content))
    paths = [folder / f"{name}.yaml" for folder in _search_folders(kind)] if name == Path(name).name else []
    own = next((path for path in paths if path.is_file()), None)
    section, stranger = _project_section(kind)
    if name in section:
        source = f"{PROJECT_FILE}:{SECTIONS[kind]}.{name}"
        if own is not None and stranger is not None:
            raise UntrustedFileError(f"{source} would take the place of the {_noun(kind)} in {own}", *stranger)
        return Config(name, source, section[name], stranger=stranger)
    if own is not None:
        return Config(name, str(own), read_yaml(own))
    raise UnknownNameError(_noun(kind), name, list_names(kind), remedy="a path to a .yaml file works too")


def _noun(kind: Kind) -> str:
    return "prompt set" if kind == "prompts" else kind
