"""`tlac bench` is killed again and again in the midst of answers, and loses none that it had."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.emulator import Asked, Reply, running_emulator
from tests.support.fakes import Shown, make_png
from tlac.cache.store import Store
from tlac.cache.verify import verify_store

KILLS = int(os.environ.get("TLAC_KILLS", "50"))
CONCURRENCY = 4


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.002)


@pytest.mark.slow
def test_kills_lose_no_answer_and_cost_no_more_than_the_calls_in_flight(
    tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chance = random.Random(7)
    answers = itertools.count()

    def answer(_: Asked) -> Reply:
        time.sleep(chance.uniform(0.005, 0.03))
        return Reply(f"an animal, number {next(answers)}")

    size = 20 * KILLS
    photos = tmp_path / "photos"
    for number in range(size):
        file = photos / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_png(number))
    bench = [
        *("bench", "--backend", "gemini", "--encoder", "minilm", "--dataset", f"folder:{photos}"),
        *("--method", "slac", "--concurrency", str(CONCURRENCY)),
    ]
    known: dict[str, str] = {}
    with running_emulator(answer) as emulator:
        monkeypatch.setenv("GEMINI_API_BASE", emulator.base("gemini"))
        monkeypatch.setenv("GEMINI_API_KEY", "a-key-of-nobody")
        command = [sys.executable, "-m", "tests.support.forked_bench", *bench]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forking:
            assert forking.stdin is not None
            assert forking.stdout is not None
            for _ in range(KILLS):
                before = len(emulator.asked)
                forking.stdin.write("\n")
                forking.stdin.flush()
                fork = int(forking.stdout.readline())
                wait_for(lambda before=before: len(emulator.asked) > before)
                time.sleep(chance.uniform(0, 0.1))
                os.kill(fork, signal.SIGKILL)
                assert os.WTERMSIG(int(forking.stdout.readline())) == signal.SIGKILL
                assert verify_store(Path(os.environ["TLAC_CACHE_DIR"])).problems == ()
                with Store(Path(os.environ["TLAC_CACHE_DIR"])) as store:
                    found = {entry.key: entry.response.text for entry in store.entries()}
                # what was there once is there still, word for word
                assert known.items() <= found.items()
                known = found
            forking.stdin.close()
        assert 0 < len(known) < size
        finished = tlac_command(*bench, "--json")
        (summary,) = json.loads(finished.out)["runs"]
        assert summary["is_complete"]
        assert len(emulator.asked) <= size + KILLS * CONCURRENCY
    with Store(Path(os.environ["TLAC_CACHE_DIR"])) as store:
        found = {entry.key: entry.response.text for entry in store.entries()}
    assert known.items() <= found.items()
    assert len(found) == size
    assert list(Path(os.environ["TLAC_CACHE_DIR"]).rglob(".unfinished-*")) == []
