"""Thousands of images with faults, killed and resumed: one row each, asked once each, the cap kept, memory flat.

LABEL_IMAGES=10000 and LABEL_KILLS=50 run it at the size of the promise.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.emulator.replies import Asked, Fault, Reply
from tests.support.emulator.server import Emulator, running_emulator
from tests.support.fakes import make_png
from tests.support.label_files import read_labels
from tlac.results.labels import Label
from tlac.types import Outcome

IMAGES = int(os.environ.get("LABEL_IMAGES", "1500"))
BROKEN = IMAGES // 100
KILLS = int(os.environ.get("LABEL_KILLS", "8"))
CLASSES = "red car, old car, lorry, bicycle"
WORDS = ("an ancient car", "a car in red", "something with two wheels", "a big truck", "red car")
FAULTS = (Fault(status=500), Fault(status=429, retry_after="0"), Fault("dropped"))
IN_FLIGHT = 16


class Provider:
    """Says one of five things of each image, fails one time in twenty, and counts what it has answered."""

    def __init__(self, fault_rate: float = 0.05) -> None:
        self.answered: Counter[str] = Counter()
        self._chance, self._rate, self._lock = random.Random(0), fault_rate, threading.Lock()

    def __call__(self, asked: Asked) -> Reply | Fault:
        with self._lock:
            if self._chance.random() < self._rate:
                return self._chance.choice(FAULTS)
            if not asked.images:
                self.answered[asked.text] += 1
                return Reply('{"class_index": "1"}')
            (image,) = asked.images
            digest = hashlib.sha256(image).hexdigest()
            self.answered[digest] += 1
            return Reply(WORDS[int(digest[:8], 16) % len(WORDS)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(IMAGES):
        content = make_png(number) if number % 100 else b"no image at all"
        (tmp_path / "photos" / f"{number:06d}.png").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more: str, inputs: Sequence[str] = ("photos",)) -> list[str]:
    who = ("--backend", "gemini", "--encoder", "minilm", "--concurrency", str(IN_FLIGHT))
    return [sys.executable, "-m", "tlac", "label", *inputs, "--classes", CLASSES, *who, "--no-review", "--yes", *more]


def start(emulator: Emulator, *more: str, inputs: Sequence[str] = ("photos",)) -> subprocess.Popen[str]:
    own = {**os.environ, "GEMINI_API_BASE": emulator.base("gemini"), "GEMINI_API_KEY": "not-a-key"}
    return subprocess.Popen(command(*more, inputs=inputs), env=own, stdout=-1, stderr=-1, text=True)


def peak_mib(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has held, watched to its end."""
    found = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
            found = int(peak[1]) // 1024
        time.sleep(0.1)
    return found


def count_rows(path: str) -> int:
    try:
        return Path(path).read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return -1


def rows_of(path: str) -> list[Label]:
    return read_labels(Path(path))


def images_answered(provider: Provider) -> Iterator[int]:
    return (count for key, count in provider.answered.items() if re.fullmatch("[0-9a-f]{64}", key))


@pytest.mark.slow
def test_thousands_with_faults_are_labelled_once_each_though_killed_twice(folder: Path) -> None:
    provider = Provider()
    with running_emulator(provider) as emulator:
        for share in (0.3, 0.6):
            process = start(emulator)
            # a row waits for all before it, and so for the tries that a fault costs
            while process.poll() is None and count_rows("labels.csv.part") < share * IMAGES:
                time.sleep(0.01)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not Path("labels.csv").exists()
        process = start(emulator)
        memory = peak_mib(process)
        shown, errors = process.communicate()
        assert process.returncode == 3, errors
        assert emulator.refused == []

        rows = rows_of("labels.csv")
        assert [row.path for row in rows] == [f"photos/{number:06d}.png" for number in range(IMAGES)]
        failed = {row.path for row in rows if row.outcome is Outcome.FAILED}
        assert failed == {f"photos/{number:06d}.png" for number in range(0, IMAGES, 100)}
        assert all(row.label is not None for row in rows if row.path not in failed)
        # what was under way at a kill had no row and was not stored: it alone may be asked twice
        assert sum(images_answered(provider)) <= IMAGES - BROKEN + 2 * (IN_FLIGHT + IN_FLIGHT // 4)
        assert len(list(images_answered(provider))) == IMAGES - BROKEN

        # again: nobody is asked, and every byte is the same
        before, asked = Path("labels.csv").read_bytes(), provider.answered.total()
        again = start(emulator)
        few = start(emulator, "-o", "few.csv", inputs=("photos/00000*.png",))
        memory_of_few = peak_mib(few)
        few.communicate()
        _, errors = again.communicate()
        assert again.returncode == 3, errors
        assert (Path("labels.csv").read_bytes() == before, provider.answered.total()) == (True, asked)
    print(f"{IMAGES:,} images: peak {memory} MiB, of ten images {memory_of_few} MiB\n{shown}")  # noqa: T201
    assert memory - memory_of_few < 60


@pytest.mark.slow
def test_the_cap_is_kept_to_the_cent(folder: Path) -> None:
    cap, most_of_a_call = 0.015, 0.004
    with running_emulator(Provider(fault_rate=0.0)) as emulator:
        process = start(emulator, "--method", "slac", "--max-cost", str(cap), "--json")
        shown, errors = process.communicate()
    assert process.returncode == 3, errors
    rows = rows_of("labels.csv")
    assert len(rows) == IMAGES
    spent = json.loads(shown)["cost_usd"]
    assert spent == pytest.approx(sum(row.cost_usd or 0.0 for row in rows))
    assert cap - most_of_a_call < spent <= cap
    assert any(f"the budget of {cap:g} USD is used up" in row.reason for row in rows)
    print(f"spent {spent:.6f} of {cap} USD on {sum(row.label is not None for row in rows)} labels")  # noqa: T201


@pytest.mark.slow
def test_no_kill_loses_an_answer_that_was_acknowledged(folder: Path) -> None:
    """An answer has been acknowledged once its row can be read: it is stored by then, and never asked for again."""
    provider, chance = Provider(fault_rate=0.0), random.Random(1)
    acknowledged: Counter[str] = Counter()
    with running_emulator(provider) as emulator:
        for _ in range(KILLS):
            Path("labels.csv.part").unlink(missing_ok=True)
            process = start(emulator, "--method", "slac", "--concurrency", "2")
            while process.poll() is None and count_rows("labels.csv.part") <= len(acknowledged) + 2:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.05)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            # the last row may be half written
            lines = Path("labels.csv.part").read_text(encoding="utf-8").splitlines()[1:-1]
            for sha256 in (line[-64:] for line in lines if ",answered," in line):
                acknowledged.setdefault(sha256, provider.answered[sha256])
        process = start(emulator, "--method", "slac")
        _, errors = process.communicate()
        assert process.returncode == 3, errors
    print(f"{KILLS} kills, {len(acknowledged):,} answers acknowledged before them")  # noqa: T201
    assert len(acknowledged) > KILLS
    assert {sha256: provider.answered[sha256] for sha256 in acknowledged} == dict(acknowledged)
