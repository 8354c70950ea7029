"""Do the tests notice small faults? Puts them into the core modules one at a time (cosmic-ray), in a copy of the tree.

    python -m tests.support.mutants tlac/scoring/metrics.py --sample 40 --seed 0

Of each module a seeded sample of all mutants is tried: first against the tests named after it, then against all tests
of its room. Those that change annotations alone, or nothing that runs, are left out. Prints each module's share of
mutants that a test failed for, and every one that none did.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
ROOMS = ("scoring", "lmms", "lmms/middleware", "cache", "datasets", "engines/batch")
COPIED = ("tlac", "tests", "backends", "prompts", "benchmarks", "cassettes", "docs", "pyproject.toml", "README.md")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Mutant:
    """One fault: the module, what makes it, and its whole text with the fault in it."""

    module: Path
    operator: str
    text: str

    def diff(self) -> list[str]:
        """The lines that differ, as in a patch, after a line that says where."""
        lines = difflib.unified_diff((ROOT / self.module).read_text("utf-8").splitlines(), self.text.splitlines(), n=0)
        return [line for line in lines if not line.startswith(("---", "+++"))]


def core_modules() -> list[Path]:
    """The modules that are tried where none is named."""
    found = [Path("tlac/images.py"), Path("tlac/hashing.py")]
    for room in ROOMS:
        found += sorted(path.relative_to(ROOT) for path in (ROOT / "tlac" / room).glob("[!_]*.py"))
    return found


def what_runs(text: str) -> str:
    """A module without its annotations, which are never evaluated here; empty where it is no Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def mutants(module: Path) -> Iterator[Mutant]:
    """Every mutant of a module that runs otherwise than the module does."""
    text = (ROOT / module).read_text("utf-8")
    original, nodes = what_runs(text), list(ast_nodes(get_ast(text)))
    for name in sorted(operator_names()):
        kind = get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        for occurrence in range(count):
            changed = mutate_code(text, operator, occurrence)
            if changed is not None and what_runs(changed) not in (original, ""):
                yield Mutant(module, name.partition("/")[2], changed)


def tests_of(module: Path) -> list[list[str]]:
    """Groups of tests that concern a module, the nearest first."""
    folder = Path("tests", *module.parts[1:-1])
    named = sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(f"test_{module.stem}*.py"))
    if folder == Path("tests"):
        stem = module.stem.removesuffix("s")
        return [sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(f"test_{stem}*.py"))]
    return [*([named] if named else []), [str(folder)]]


@contextmanager
def copies(count: int) -> Iterator[queue.Queue[Path]]:
    """So many copies of the tree, to be taken and put back."""
    free: queue.Queue[Path] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for number in range(count):
            tree = Path(folder, str(number), "tree")
            for name in COPIED:
                source, target = ROOT / name, tree / name
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
            if (ROOT.parent / "shared").is_dir():
                (tree.parent / "shared").symlink_to(ROOT.parent / "shared")
            free.put(tree)
        yield free


def fails(tree: Path, tests: Sequence[str]) -> bool:
    """Whether one of these tests fails in a copy of the tree, or none comes to an end in time."""
    options = ["-q", "-x", "-m", "not slow", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", "120"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "HYPOTHESIS_STORAGE_DIRECTORY": str(tree / ".hypothesis")}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def is_noticed(mutant: Mutant, free: queue.Queue[Path]) -> bool:
    """Whether a test fails for a mutant."""
    tree = free.get()
    try:
        (tree / mutant.module).write_text(mutant.text, "utf-8")
        return any(fails(tree, tests) for tests in tests_of(mutant.module))
    finally:
        shutil.copy(ROOT / mutant.module, tree / mutant.module)
        free.put(tree)


def main() -> None:
    """Try the modules, and print what no test noticed. Ends with 1 where the tests fail without a mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", type=Path, help="paths below tlac/; default: the core modules")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    with copies(given.workers) as free, ThreadPoolExecutor(given.workers) as pool:
        for module in given.modules or core_modules():
            tree = free.get()
            if any(fails(tree, tests) for tests in tests_of(module)):
                raise SystemExit(f"mutants: the tests of {module} fail without a mutant")
            free.put(tree)
            possible = list(mutants(module))
            tried = random.Random(given.seed).sample(possible, min(given.sample, len(possible)))
            noticed = list(pool.map(lambda one: is_noticed(one, free), tried))
            lines = [f"{module}: {sum(noticed)} of {len(tried)} noticed ({len(possible)} possible)"]
            for mutant in (one for one, is_seen in zip(tried, noticed, strict=True) if not is_seen):
                lines += [f"  {mutant.operator}", *(f"    {line}" for line in mutant.diff())]
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
