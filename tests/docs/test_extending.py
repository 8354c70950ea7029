"""The package of docs/extending.md, as it stands there: built, installed and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "extending.md"


def files_of(document: Path) -> dict[str, str]:
    """The files in a document: fenced blocks whose first line is a comment with the file's path."""
    blocks = re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S)
    assert len(dict(blocks)) == len(blocks)
    return dict(blocks)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's source in `source` and what pip installed from it in `site`."""
    place = tmp_path_factory.mktemp("extending")
    for name, content in files_of(DOCUMENT).items():
        (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "source" / name).write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", place / "site", place / "source"], check=True, capture_output=True)
    return place


def run_with(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{installed / 'site'}{os.pathsep}{ROOT}",
        "TLAC_CACHE_DIR": str(installed / "store"),
    }
    command = [sys.executable, "-m", "tlac", *arguments]
    return subprocess.run(
        command, cwd=installed / "source", env=environment, capture_output=True, text=True, check=False
    )


def test_the_documented_package_runs_as_the_document_says(installed: Path) -> None:
    (command,) = re.findall(r"^tlac (bench .+)$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    done = run_with(installed, *command.split(), "--json")
    assert done.returncode == 0, done.stderr
    slac, twice = json.loads(done.stdout)["runs"]
    assert [run["method"] for run in (slac, twice)] == ["slac", "twice:times=3"]
    assert [run["accuracy"] for run in (slac, twice)] == [1.0, 1.0]
    # the first of the three answers is stored already
    assert [run["calls"]["stage1"]["asked"] for run in (slac, twice)] == [9, 18]
    again = run_with(installed, *command.split(), "--json", "--offline", "--no-report")
    assert [run["calls"]["stage1"]["asked"] for run in json.loads(again.stdout)["runs"]] == [0, 0]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (("--dataset", "colours:many"), "expected a number of pictures"),
        (("--method", "twice:time=3"), "unknown option of the method twice 'time': did you mean 'times'?"),
        (("--method", "twise"), "unknown method 'twise': did you mean 'twice'?"),
    ],
)
def test_its_errors_are_one_line_as_ours_are(installed: Path, changed: tuple[str, str], complaint: str) -> None:
    given = {"--backend": "colour-namer.yaml", "--dataset": "colours:3", "--encoder": "letters:27"} | dict([changed])
    done = run_with(installed, "bench", *(word for pair in given.items() for word in pair))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
