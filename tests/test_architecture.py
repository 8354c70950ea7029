"""The layers of DESIGN: a module imports only from layers below its own; what is public is a decision."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tlac

PACKAGE = Path(tlac.__file__).parent

# from the ground up; a name stands for a module or a package of modules
LAYERS = (
    ("errors", "http_clients", "loop", "versions"),
    ("types", "redaction", "litellm_runtime"),
    ("interfaces", "batch_interface", "hub_client", "images", "keys", "resources", "spool"),
    ("digests", "documents", "identity"),
    ("packs", "store"),
    ("config", "exchange"),
    ("prices", "prompts", "registry", "scoring"),
    ("datasets", "encoders", "lmms", "calls", "method_names", "preparing"),
    ("run_spec",),
    ("asking",),
    ("batches", "cluster", "methods", "runs"),
    ("comparing",),
    ("report",),
    ("bench", "rescore"),
    ("classifier",),
    ("cli",),
)
ADAPTERS = ("lmms", "encoders", "datasets", "methods")
HEAVY = (
    "torch",
    "open_clip",
    "sentence_transformers",
    "litellm",
    "datasets",
    "matplotlib",
    "scipy",
    "sklearn",
    "statsmodels",
    "transformers",
    "ray",
    "pyarrow",
)


def _modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "data" not in path.relative_to(PACKAGE).parts]


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _layer(part: str) -> int:
    for height, parts in enumerate(LAYERS):
        if part in parts:
            return height
    raise AssertionError(f"tlac.{part} has no layer: give it one in {Path(__file__).name}")


def _imports(path: Path, top_level_only: bool) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" if node.module == "tlac" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_only(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ("__init__", "__main__"):
        return
    for module in _imports(path, top_level_only=False):
        if module.startswith("tlac.") and _part(module) != own:
            assert _layer(_part(module)) < _layer(own), f"{own} imports {module}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {".".join(("tlac", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in _modules()}
    graph = {name: set(_imports(path, top_level_only=False)) & set(modules) for name, path in modules.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_adapters_are_reached_through_entry_points_alone(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    for module in _imports(path, top_level_only=False):
        if module.startswith("tlac.") and _part(module) in ADAPTERS:
            assert _part(module) == own, f"{path.name} imports the adapter {module}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    heavy = [module for module in _imports(path, top_level_only=True) if module.split(".")[0] in HEAVY]
    assert heavy == []


def test_the_public_names_are_these() -> None:
    assert tlac.__all__ == ["Classification", "Classifier", "Match", "Outcome", "TlacError", "match"]
    for name in tlac.__all__:
        assert getattr(tlac, name).__name__ == name


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import tlac", (*HEAVY, "numpy", "click", "diskcache")),
        ("import tlac.cli", (*HEAVY, "numpy", "diskcache", "rich.console", "msgspec")),
        ("import tlac.bench, tlac.classifier, tlac.cli.bench, tlac.cli.tables, tlac.cli.progress", HEAVY),
    ],
)
def test_an_import_loads_no_more_than_its_budget(statement: str, forbidden: tuple[str, ...]) -> None:
    script = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "tlac" in loaded
    assert sorted(set(loaded) & set(forbidden)) == []
