"""Kills a writing process again and again, and counts what the store lost of what it had acknowledged.

    python benchmarks/perf/sigkill_store.py [ROUNDS]      default 50

Each round starts a process that puts answers and says so after each; it is killed with SIGKILL at a random
moment, also while it opens the store. Prints one line of JSON; exits with 1 when anything was lost, wrong, or
found by verification.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.hashing import response_key
from tlac.types import LMMRequest, LMMResponse, Message, Outcome, TextPart

CLASSES = ", ".join(f"class number {number}" for number in range(100))


def request_of(number: int) -> LMMRequest:
    """The request of a number: a question after a class list that all share."""
    parts = (TextPart(CLASSES, is_prefix=True), TextPart(f"Which is answer {number}?"))
    return LMMRequest("stage2", "fake/model", (Message("user", parts),))


def write(folder: Path, start: int) -> None:
    """Put answers for ever, and print the number of each once it is stored; before the first, that it begins."""
    print("begins", flush=True)  # noqa: T201 - what the killer waits for
    with Store(folder) as store:
        number = start
        while True:
            response = LMMResponse(Outcome.ANSWERED, f"is {number}")
            store.put_entries([StoredAnswer.of(request_of(number), response, "fake")])
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            number += 1


def kill_once(folder: Path, start: int, lines: int, delay_s: float) -> list[int]:
    """Kill a writer some time after so many lines of it; the numbers that it acknowledged.

    The clock starts with a line: how long a process takes to start says nothing about the store.
    """
    command = [sys.executable, __file__, "--write", str(folder), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:  # noqa: S603 - this very file
        assert writer.stdout is not None
        output = "".join(writer.stdout.readline() for _ in range(lines))
        timer = threading.Timer(delay_s, writer.kill)
        timer.start()
        output += writer.stdout.read()
        timer.join()
    # the last line may have been cut by the kill
    return [int(line) for line in output.split("\n")[1:-1]]


def main(rounds: int) -> int:
    """Kill as many writers; 0 when nothing was lost."""
    chance = random.Random(20250101)  # noqa: S311 - a repeatable choice of moments
    acknowledged: list[int] = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "store"
        for turn in range(rounds):
            # every other writer is killed while it opens the store, or shortly after
            acknowledged += kill_once(folder, turn * 1_000_000, 1 + turn % 2, chance.uniform(0.0, 0.5))
        lost, wrong = 0, 0
        with Store(folder) as store:
            for number in acknowledged:
                response = store.get_response(response_key(request_of(number)))
                lost += response is None
                wrong += response is not None and response.text != f"is {number}"
        verification = verify_store(folder)
    found = {
        "kills": rounds,
        "acknowledged": len(acknowledged),
        "stored": verification.answers,
        "lost": lost,
        "wrong": wrong,
        "problems": len(verification.problems),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if lost or wrong or verification.problems or not acknowledged else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]))
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
