"""The house: a module imports only from rooms below its own; what is public is a decision."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import tlac

PACKAGE = Path(tlac.__file__).parent
REPOSITORY = PACKAGE.parent

# from the ground up
FLOORS = [
    "errors",
    "types",
    "interfaces",
    "hashing",
    "runtime",
    "images",
    "cache",
    "config",
    "lmms",
    "encoders",
    "datasets",
    "scoring",
    "methods",
    "results",
    "analysis",
    "report",
    "evaluation",
    "engines",
    "api",
    "cli",
]
ADAPTERS = ("lmms", "encoders", "datasets", "methods")
HEAVY = frozenset(
    [
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
        "pandas",
        "fsspec",
    ]
)


def modules(root: Path = PACKAGE) -> dict[str, Path]:
    """Every module below a folder by its dotted name, packages' own `__init__` left out."""
    paths = [path for path in sorted(root.rglob("*.py")) if path.stem not in ("__init__", "__main__")]
    return {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in paths}


def imported(path: Path, top_level_only: bool = False) -> list[str]:
    """What a module imports, as dotted names of modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def floor_of(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def test_imports_go_downward_only_and_in_no_circle() -> None:
    upward = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in set(imported(path)) & set(modules())
        if other.split(".")[1] != name.split(".")[1] and floor_of(other) >= floor_of(name)
    ]
    assert upward == []
    for root in (PACKAGE, REPOSITORY / "benchmarks"):
        known = modules(root)
        graph = {name: set(imported(path)) & set(known) for name, path in known.items()}
        assert len(list(TopologicalSorter(graph).static_order())) == len(known)


def test_adapters_are_reached_through_entry_points_and_heavy_packages_where_they_are_used() -> None:
    """`base`, `text_files`, `prepare` are what a room gives to others; the rest is found by its entry point."""
    reached, heavy = [], []
    for name, path in modules().items():
        room = name.split(".")[1]
        for other in set(imported(path)) & set(modules()):
            parts = other.split(".")
            is_open = parts[2:3] in (
                ["middleware"],
                ["prepare"],
                ["base"],
                ["prices"],
                ["served"],
                ["cached"],
                ["text_files"],
                ["unlabelled"],
            )
            if parts[1] in ADAPTERS and parts[1] != room and not is_open:
                reached.append(f"{name} imports the adapter {other}")
        heavy += [f"{name} imports {one}" for one in imported(path, True) if one.split(".")[0] in HEAVY]
    assert reached == []
    assert heavy == []


def test_the_public_names_are_these() -> None:
    kinds = ["Classification", "Classifier", "Match", "Outcome", "Run", "TlacError"]
    assert tlac.__all__ == [*kinds, "load_run", "load_runs", "match"]
    assert [getattr(tlac, name).__name__ for name in tlac.__all__] == tlac.__all__


def test_an_import_loads_no_more_than_its_budget() -> None:
    budgets = {
        "import tlac": {*HEAVY, "numpy", "click", "diskcache"},
        "import tlac.cli": {*HEAVY, "numpy", "diskcache", "rich.console", "msgspec"},
        "import tlac.evaluation.runner, tlac.api, tlac.cli.bench, tlac.cli.tables, tlac.cli.progress": HEAVY,
    }
    for statement, forbidden in budgets.items():
        script = f"import sys; {statement}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        assert "tlac" in loaded.split()
        assert sorted(set(loaded.split()) & set(forbidden)) == [], statement
