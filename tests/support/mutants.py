"""Do the tests notice small faults? Puts them into the core modules one at a time (cosmic-ray), in a copy of the tree.

    python -m tests.support.mutants tlac/scoring --sample 40 --seed 0
    python -m tests.support.mutants tlac/images.py tlac/hashing.py --only 3 17

Of the modules named, or all core rooms one after another, a seeded sample of all mutants is tried: first against the
tests named after the module, then against all tests of its room. Those that change annotations alone, or nothing that
runs, are left out. Prints every mutant that no test failed for, with its number, and how many a test did fail for.
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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
CORE = (
    ("tlac/scoring",),
    ("tlac/lmms",),
    ("tlac/lmms/middleware",),
    ("tlac/cache",),
    ("tlac/datasets",),
    ("tlac/images.py", "tlac/hashing.py"),
    ("tlac/engines/batch",),
)
COPIED = ("tlac", "tests", "backends", "prompts", "benchmarks", "cassettes", "docs", "pyproject.toml", "README.md")
_TIMEOUT_S = 300


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


def modules_of(paths: Iterable[str]) -> list[Path]:
    """The modules named, and those of a folder named, without those of folders in it."""
    found: list[Path] = []
    for path in map(Path, paths):
        here = sorted((ROOT / path).glob("[!_]*.py")) if (ROOT / path).is_dir() else [ROOT / path]
        found += [module.relative_to(ROOT) for module in here]
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


def mutants(modules: Sequence[Path], seed: int) -> Iterator[Mutant]:
    """Every mutant that runs otherwise than its module does, in an order that the seed decides."""
    texts = {module: (ROOT / module).read_text("utf-8") for module in modules}
    places = []
    for module, text in texts.items():
        nodes = list(ast_nodes(get_ast(text)))
        for name in sorted(operator_names()):
            kind = get_operator(name)
            if not kind.arguments():
                count = sum(len(list(kind().mutation_positions(node))) for node in nodes)
                places += [(module, name, occurrence) for occurrence in range(count)]
    random.Random(seed).shuffle(places)
    for module, name, occurrence in places:
        changed = mutate_code(texts[module], get_operator(name)(), occurrence)
        if changed is not None and what_runs(changed) not in (what_runs(texts[module]), ""):
            yield Mutant(module, name.partition("/")[2], changed)


def tests_of(module: Path) -> list[list[str]]:
    """Groups of tests that concern a module, the nearest first."""
    # the providers' batch interfaces are tried with the engine that uses them
    is_of_engine = module.match("lmms/batch_*.py")
    folder = Path("tests/engines/batch") if is_of_engine else Path("tests", *module.parts[1:-1])
    named = sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).glob(f"test_{module.stem}*.py"))
    if folder == Path("tests"):
        stem = module.stem.removesuffix("s")
        places = ("tests", f"test_{stem}*.py"), ("tests/security", f"test_*{stem}*.py")
        return [sorted(str(path.relative_to(ROOT)) for place, name in places for path in (ROOT / place).glob(name))]
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
    options = ["-q", "-x", "-m", "not slow", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", "60"]
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


def try_together(modules: Sequence[Path], seed: int, chosen: Sequence[int], workers: int) -> Iterator[str]:
    """The lines about the mutants of these numbers, in the order that the seed decides, as each is known.

    Raises:
        SystemExit: the tests fail without a mutant.
    """
    with copies(workers) as free, ThreadPoolExecutor(workers) as pool:
        tree = free.get()
        for tests in {tuple(tests_of(module)[-1]): None for module in modules}:
            if fails(tree, tests):
                raise SystemExit(f"mutants: {' '.join(tests)} fails without a mutant")
        free.put(tree)
        tried = [one for number, one in enumerate(islice(mutants(modules, seed), max(chosen) + 1)) if number in chosen]
        noticed = 0
        seen_for = pool.map(lambda one: is_noticed(one, free), tried)
        for number, mutant, is_seen in zip(sorted(chosen), tried, seen_for, strict=False):
            noticed += is_seen
            if not is_seen:
                yield "\n".join([f"  {number} {mutant.module} {mutant.operator}", *("    " + s for s in mutant.diff())])
        yield f"{noticed} of {len(tried)} noticed"


def main() -> None:
    """Try the modules, and print what no test noticed. Ends with 1 where the tests fail without a mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mutants", description=__doc__)
    parser.add_argument("paths", nargs="*", help="modules and folders, tried together; default: each core room")
    parser.add_argument("--sample", type=int, default=40, help="how many mutants of what is tried together")
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of those to try again, with the same seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    for paths in [given.paths] if given.paths else CORE:
        chosen = given.only or range(given.sample)
        lines = try_together(modules_of(paths), given.seed, chosen, given.workers)
        for line in chain([" ".join(paths)], lines):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
