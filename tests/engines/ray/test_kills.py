"""The processes of a run are killed, at any moment: nothing that was logged is asked again, and each end is told."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engines.ray.test_engine import acknowledged_images, questions, say_by_digest
from tests.support.cluster_fixtures import LOOPBACK, ImageFolder, addresses_listened_at, processes_below, wait_for
from tests.support.emulated import KEYS
from tests.support.emulator import Asked, Emulator, Reply, running_emulator

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.slow]

CONCURRENCY = 4
# on a machine that does much else, workers take minutes to start
PATIENCE_S = 300.0
# `TLAC_KILLS=30 TLAC_KILLS_IMAGES=1000` is the long try
KILLS, IMAGES = int(os.environ.get("TLAC_KILLS", "6")), int(os.environ.get("TLAC_KILLS_IMAGES", "200"))
VICTIMS = {"worker": b"ray::MapWorker", "limiter": b"ray::Limiter"}


def slowly(asked: Asked) -> Reply:
    time.sleep(0.05)
    return say_by_digest(asked)


class Bench:
    """One command, to be started again and again: `tlac bench --engine ray` over a folder of pictures."""

    def __init__(self, emulator: Emulator, folder: Path, images: int) -> None:
        self.emulator, self.folder, self.store = emulator, folder, folder / "store"
        pictures = folder / "pictures"
        pictures.mkdir()
        for label, name in enumerate(ImageFolder.classes):
            ImageFolder(pictures / name, images // len(ImageFolder.classes))
            for path in (pictures / name).iterdir():
                path.write_bytes(path.read_bytes() + bytes([label]))

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """The command at work; what is left of it is killed."""
        command = [
            *(sys.executable, "-m", "tlac", "bench", "--engine", "ray", "--parallelism", "2", "--no-report"),
            *("--backend", "gpt-4o", "--encoder", "minilm", "--method", "slac", "--concurrency", str(CONCURRENCY)),
            *("--dataset", f"folder:{self.folder / 'pictures'}", "--store", str(self.store)),
            *("--out", str(self.folder / "runs")),
        ]
        environment = {**os.environ, **KEYS, "OPENAI_API_BASE": self.emulator.base("openai")}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as driver:
            try:
                yield driver
            finally:
                driver.kill()

    def wait_for_calls(self, driver: subprocess.Popen[str], calls: int) -> None:
        """Until so many more calls have come in, or the command has ended."""
        before = len(self.emulator.asked)
        wait_for(lambda: len(self.emulator.asked) >= before + calls or driver.poll() is not None, PATIENCE_S)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # a cluster that the environment names is left alone
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with running_emulator(slowly) as emulator:
        yield Bench(emulator, tmp_path, IMAGES)


@pytest.mark.timeout(3600)
def test_kills_at_random_moments_lose_no_logged_answer_and_cost_the_calls_in_flight_at_most(bench: Bench) -> None:
    draw = random.Random(17)
    logged: set[str] = set()
    seen: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    said = ""
    while kills.total() < KILLS:
        with bench.started() as driver:
            while kills.total() < KILLS and driver.poll() is None:
                bench.wait_for_calls(driver, draw.randrange(1, max(2, IMAGES // KILLS)))
                time.sleep(draw.uniform(0.0, 0.2))
                kind = draw.choice(("driver", *VICTIMS))
                command = VICTIMS.get(kind)
                if not kills and driver.poll() is None:
                    assert_nobody_else_gets_in(driver.pid)
                victims = [driver.pid] if command is None else commanded(driver.pid, command)
                if not victims or driver.poll() is not None:
                    continue
                # what is on disk by now is never asked again
                logged |= acknowledged_images(bench.store)
                seen = questions(bench.emulator)
                os.kill(draw.choice(victims), signal.SIGKILL)
                kills[kind] += 1
                if kind != "worker":
                    said += (end := driver.communicate(timeout=PATIENCE_S)[1])
                if kind == "limiter":
                    # it takes the whole run with it; Ray Data may have a word of its own to add
                    assert driver.returncode == 1, end
                    assert "tlac: Ray gave up: a process of the cluster has died" in end
    with bench.started() as driver:
        said += driver.communicate(timeout=PATIENCE_S)[1]
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    found = questions(bench.emulator)
    twice = found.total() - len(found)
    # shown by -s
    sys.stdout.write(f"\n{dict(kills)} killed: {len(found)} images, {twice} calls made again, {len(logged)} logged\n")
    assert len(found) == IMAGES
    assert {image: found[image] for image in logged} == {image: seen[image] for image in logged}
    assert twice <= KILLS * CONCURRENCY
    # a driver that was killed left its logs to the next one
    assert "answers of a run that was cut short are stored now" in said
    key = KEYS["OPENAI_API_KEY"].encode()
    assert not [path for path in bench.store.rglob("*") if path.is_file() and key in path.read_bytes()]


def assert_nobody_else_gets_in(driver: int) -> None:
    """The Ray below a driver listens on the loopback address alone, and asks for a token."""
    listened_at = addresses_listened_at(processes_below(driver))
    assert listened_at
    assert listened_at <= LOOPBACK
    (server,) = commanded(driver, b"/gcs_server\0")
    settings = Path(f"/proc/{server}/environ").read_bytes().split(b"\0")
    assert b"RAY_AUTH_MODE=token" in settings
    assert [one for one in settings if one.startswith(b"RAY_AUTH_TOKEN=") and len(one) > 60]


def commanded(driver: int, command: bytes) -> list[int]:
    """The processes below a driver in whose command that stands."""
    return [process for process, name in processes_below(driver).items() if command in name]


def test_where_the_cluster_s_head_dies_the_command_says_so_and_ends(bench: Bench) -> None:
    with bench.started() as driver:
        bench.wait_for_calls(driver, 20)
        logged = acknowledged_images(bench.store)
        (head,) = commanded(driver.pid, b"/gcs_server\0")
        os.kill(head, signal.SIGKILL)
        started_s = time.monotonic()
        _, said = driver.communicate(timeout=PATIENCE_S)
    # it took over a minute before it was bounded
    assert time.monotonic() - started_s < 45
    assert driver.returncode == 1
    assert said.splitlines()[-1].startswith("tlac: the cluster is gone; answers so far are kept")
    assert "Traceback" not in said
    assert len(acknowledged_images(bench.store)) >= len(logged) > 0


def test_a_signal_ends_the_run_with_its_calls_in_flight_and_loses_none_of_them(bench: Bench) -> None:
    with bench.started() as driver:
        bench.wait_for_calls(driver, 20)
        driver.terminate()
        _, said = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 3
    (folder,) = (bench.folder / "runs").iterdir()
    lines = said.splitlines()
    assert "tlac: stopping; waiting for the calls in flight (Ctrl-C again gives them up)" in lines
    assert lines[-1].endswith(f"the same command goes on from there; {folder} holds what there is")
    assert "Traceback" not in said
    record = json.loads((folder / "run.json").read_bytes())
    assert (record["is_complete"], record["stopped"]) == (False, "interrupted")
    # each call that was made brought an answer
    assert record["calls"]["stage1"]["asked"] == len(bench.emulator.asked) < IMAGES
