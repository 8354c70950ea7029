"""What people install: the wheel, in an environment that has no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel; the wheel is made from the sdist, as a release is."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


def test_an_index_would_take_wheel_and_sdist(dist: Path) -> None:
    pytest.importorskip("twine")
    files = sorted(map(str, dist.iterdir()))
    assert [Path(file).name.partition("-")[0] for file in files] == ["tlac", "tlac"]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout.count("PASSED")) == (0, 2), checked.stdout


def test_the_wheel_holds_every_yaml_file_of_the_checkout(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("backends", "prompts", "benchmarks/datasets", "benchmarks/suites"):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert f"tlac/data/{path.relative_to(ROOT).as_posix()}" in names
    assert "tlac/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]


def test_backends_are_listed_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = next((environment / "lib").glob("python*")) / "site-packages"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    # the dependencies come from this environment, behind the wheel: its own files must be its own
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])

    def tlac(*arguments: str) -> str:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(environment / "bin" / "tlac"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables, check=True).stdout

    listed = tlac("backends", "list")
    expected = {path.stem for path in (ROOT / "backends").glob("*.yaml")}
    assert {line.split()[0] for line in listed.splitlines()} == expected
    assert str(site / "tlac" / "data" / "backends" / "embedded.yaml") in tlac("backends", "show", "embedded")
