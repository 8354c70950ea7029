"""docs/quickstart.ipynb: its cells, run in order in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
# what a reader would look at afterwards
LOOK = """
import json
print(json.dumps({
    "accuracy": board.accuracy.tolist(),
    "wrong": wrong["sample"].tolist(),
    "coverage": coverage[["share_answered", "accuracy"]].iloc[-1].tolist(),
    "is_one_of_them": found.class_name in classes,
    "match": match.class_name,
}))
"""


def test_no_output_stands_in_the_notebook_that_nobody_can_check() -> None:
    assert [cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"] == [[]] * len(CODE)
    assert NOTEBOOK["nbformat"] == 4
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])


@pytest.mark.slow
def test_the_cells_run_one_after_the_other(tmp_path: Path) -> None:
    script = "\n".join([*CODE, LOOK])
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        cwd=tmp_path,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["accuracy"] == [0.85]
    assert len(found["wrong"]) == 3
    assert found["coverage"] == [1.0, 0.85]
    assert (found["is_one_of_them"], found["match"]) == (True, "red car")
