"""The commands of docs/reproduce.md, run as they stand there against a hub on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import FakeHub
from tests.support.file_server import FileServer, running_file_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
REPRODUCE, PUBLISH = re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
PACK = (ROOT / "cassettes" / "packs" / "samples40.jsonl.zst").read_bytes()
REPO = "your-lab/tables"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running_file_server() as told:
        told.files["/"] = b"the hub"
        hub = FakeHub(told)
        hub.publish(REPO, "a" * 40, {"samples40.jsonl.zst": PACK})
        hub.take_uploads(REPO)
        yield told


def run(command: str, folder: Path, server: FileServer) -> str:
    """A command of a user's who has no token but the one of the environment."""
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "HF_ENDPOINT": server.base,
        "HF_TOKEN": "hf_0123456789abcdefghijkl",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", command], cwd=folder, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_table_comes_out_as_it_stands_there_and_goes_back_to_the_hub(server: FileServer, tmp_path: Path) -> None:
    install, *commands = REPRODUCE.splitlines()
    assert install == "pip install 'tlac[embedded]'"
    assert len(commands) == 2
    shown = run("\n".join(commands), tmp_path, server)
    table = shown[shown.index("| rank |") :]
    assert table in PAGE
    # from the copy that was fetched
    scored = run("tlac score runs/*-tlac --matching paper --out scored", tmp_path, server)
    assert re.search(r"imagenet-samples +pack:samples40 +tlac +20", scored), scored
    address = re.findall(r"pack:(hf://\S+)'", commands[0])[0]
    # without a digest too, the copy is what an offline run takes
    asked = server.ranges.copy()
    offline = commands[0].replace(address, address.partition("#")[0]) + " --offline --out offline"
    assert "pack:samples40" in run(offline, tmp_path, server)
    assert server.ranges == asked
    imported = run(f"tlac cache import '{address}'", tmp_path, server)
    assert re.match(r"80 answers and 0 text embeddings added", imported), imported
    first = server.files[f"/datasets/{REPO}/resolve/main/samples40.jsonl.zst"]
    printed = run(PUBLISH, tmp_path, server)
    second = server.files[f"/datasets/{REPO}/resolve/main/samples40.jsonl.zst"]
    assert second != first
    (place,) = re.findall(r"--backend '(pack:hf://\S+#sha256=[0-9a-f]{64})' replays", printed)
    again = run(commands[0].replace(f"pack:{address}", place).replace("--method slac", ""), tmp_path, server)
    assert re.search(r"imagenet-samples +pack:samples40 +tlac +20 +95\.0", again), again
