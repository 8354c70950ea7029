"""`tlac bench --batch` and `tlac batch` from the command line, and all that docs/batch.md shows."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import click
import pytest

from tests.support.batched import batching_emulator, use_letters
from tests.support.emulated import KEYS, plant_keys
from tests.support.emulator import BatchControls, Emulator, Fault
from tests.support.fakes import Shown, make_png
from tests.support.virtual_time import SkippingClock
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import CallPolicy

DOCUMENT = Path(__file__).parents[2] / "docs" / "batch.md"
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), flags=re.M | re.S)
    for line in block.splitlines()
]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    plant_keys(monkeypatch)
    use_letters(monkeypatch)
    with batching_emulator() as running:
        for variable, provider in (("GEMINI", "gemini"), ("OPENAI", "openai"), ("ANTHROPIC", "anthropic")):
            monkeypatch.setenv(f"{variable}_API_BASE", running.base(provider))
        yield running


@pytest.fixture
def manager(tlac_command: Callable[..., Shown]) -> Callable[..., Shown]:
    """The command line beside a folder of three photos."""
    for number, name in enumerate(("red car", "old car", "red apple")):
        Path("my-photos", name).mkdir(parents=True)
        Path("my-photos", name, "1.png").write_bytes(make_png(number))
    return tlac_command


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SkippingClock:
    """Waits are skipped, both while a run waits and while a lost batch is looked for."""
    clock = SkippingClock()

    def policy(max_cost: float | None, *_: object, **__: object) -> CallPolicy:
        budget = None if max_cost is None else Budget(max_cost)
        return CallPolicy(budget, clock=clock.clock(), on_message=lambda text: click.echo(f"tlac: {text}", err=True))

    monkeypatch.setattr("tlac.cli.bench.open_policy", policy)
    monkeypatch.setattr("tlac.cli.label.open_policy", policy)
    return clock


BENCH = ("bench", "--backend", "gpt-4o", "--dataset", "folder:my-photos", "--batch")


def submit_and_leave(
    manager: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...] = BENCH
) -> Shown:
    """A run that ends while its first batch is under way."""

    async def interrupted(*_: object) -> None:
        # as Ctrl-C does
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("tlac.engines.batch.engine.BatchEngine._wait", interrupted)
        return manager(*command)


def test_labels_come_in_batches_too_and_go_on_after_an_interrupt(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ("--classes", "red car, old car, red apple")
    command = ("label", "my-photos", *classes, "--backend", "gpt-4o", "--batch", "--no-review")
    left = submit_and_leave(manager, monkeypatch, command)
    assert "a day for each stage" in left.err
    assert (left.code, left.err.splitlines()[-1].split(";")[0]) == (
        3,
        "tlac: stopped after 0 of 3 images, whose rows are in labels.csv.part",
    )
    done = manager(*command)
    assert (done.code, done.out.splitlines()[0]) == (0, "labels.csv: 3 of 3 images labelled"), done.err
    assert emulator.shelves["openai"].batches[0].size == 3


def test_what_the_document_shows_works_one_after_the_other(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, estimate, *tending = [line.split() for line in COMMANDS if line.startswith("tlac ")]
    assert tuple(bench[1:]) == BENCH
    left = submit_and_leave(manager, monkeypatch)
    assert left.code == 3
    assert "`tlac batch resume`, goes on" in left.out + left.err
    assert "3 calls" in manager(*estimate[1:]).out
    shown = {}
    for command in tending:
        done = manager(*command[1:])
        # the first look of `resume` finds the batch at work
        assert done.code in (0, 3), done.err
        shown[" ".join(command[2:])] = done.out
    assert "gpt-4o  3 requests" in shown["status"]
    assert json.loads(shown["status --json"])[0]["requests"] == 3
    done = manager(*bench[1:], "--json")
    assert done.code == 0, done.err
    assert len(emulator.shelves["openai"].batches) >= 2


def test_an_interrupt_leaves_an_incomplete_run_that_says_what_goes_on(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = submit_and_leave(manager, monkeypatch)
    (folder,) = Path("runs").iterdir()
    record = json.loads((folder / "run.json").read_bytes())
    assert (record["is_complete"], record["stopped"]) == (False, "interrupted")
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in rows} == {"gpt-4o: no batch brought this answer: interrupted"}
    lines = left.err.splitlines()
    assert "tlac: what is submitted stays so: the same command, or `tlac batch resume`, goes on" in lines
    assert lines[-1].endswith(f"the same command goes on from there; {folder} holds what there is")


def test_resume_stores_what_is_over_and_the_same_command_goes_on(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_leave(manager, monkeypatch)
    working = manager("batch", "resume")
    assert (working.code, "in_progress" in working.out) == (3, True)
    assert "still open" in working.err
    over = manager("batch", "resume")
    assert (over.code, over.out.split(": ")[1]) == (0, "3 answers stored\n")
    assert "no batch is under way" in manager("batch", "resume").out
    assert "collected, 3 answered" in manager("batch", "status").out
    assert manager(*BENCH).code == 0
    assert emulator.shelves["openai"].batches[0].size == 3
    assert len(emulator.shelves["openai"].batches) == 2
    # now all is there: nobody is asked
    assert manager(*BENCH[:-1], "--offline").code == 0


@pytest.mark.parametrize(
    "command", [BENCH, ("label", "my-photos", "--classes", "a, b", "--backend", "gpt-4o", "--batch")]
)
def test_a_batch_that_asks_nobody_is_refused(
    emulator: Emulator, manager: Callable[..., Shown], command: tuple[str, ...]
) -> None:
    shown = manager(*command, "--offline")
    assert (shown.code, shown.err) == (
        2,
        "tlac: --batch asks the provider, and --offline asks nobody: leave one out\n",
    )


def test_a_cancelled_batch_is_collected_and_the_rest_submitted_again(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.batching = BatchControls(polls=3, answered_early=1)
    submit_and_leave(manager, monkeypatch)
    emulator.batching = BatchControls()
    tag = json.loads(manager("batch", "status", "--json").out)[0]["id"]
    assert "stores what was answered before" in manager("batch", "cancel", tag).out
    assert "cancelled already" in manager("batch", "cancel", tag).out
    resumed = manager("batch", "resume")
    assert resumed.code == 0
    assert "1 answers stored" in resumed.out
    assert "2 failed" in resumed.out
    assert "collected already" in manager("batch", "cancel", tag).out
    assert manager(*BENCH).code == 0


def test_a_batch_whose_results_are_gone_is_forgotten_and_asked_anew(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_leave(manager, monkeypatch)
    manager("batch", "resume")
    emulator.batching = BatchControls(faults={"results": [Fault(status=404, message="No such File object")] * 3})
    gone = manager("batch", "resume")
    assert (gone.code, "has no results of batch" in gone.out, "No such File object" in gone.out) == (3, True, True)
    tag = json.loads(manager("batch", "status", "--json").out)[0]["id"]
    assert f"`tlac batch forget {tag}` gives it up" in gone.out
    assert "`forget` gives it up" in manager("batch", "cancel", tag).out
    forgotten = manager("batch", "forget", tag)
    assert (forgotten.code, "may have billed its 3 requests" in forgotten.out) == (0, True)
    assert "dropped already" in manager("batch", "forget", tag).out
    emulator.batching = BatchControls()
    assert manager(*BENCH).code == 0
    assert [batch.size for batch in emulator.shelves["openai"].batches][:2] == [3, 3]


def test_a_batch_past_its_expiry_is_told_in_the_list(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_leave(manager, monkeypatch)
    (batch,) = emulator.shelves["openai"].batches
    batch.created_at -= timedelta(hours=26)
    assert "though the provider was to be done by" in manager("batch", "status").out


def test_wrong_use_is_told_in_one_line(emulator: Emulator, manager: Callable[..., Shown]) -> None:
    for arguments, words in (
        (("batch", "cancel"), "--all"),
        (("batch", "cancel", "nonsense"), "unknown batch"),
        (("batch", "forget", "nonsense"), "unknown batch"),
        (("bench", "--backend", "ollama", "--dataset", "folder:my-photos", "--batch"), "no batch interface"),
        ((*BENCH, "--order-trials", "2"), "--order-trials"),
    ):
        shown = manager(*arguments)
        assert (shown.code, words in shown.err, shown.err.count("\n")) == (2, True, 1), shown.err
    # a mistyped --store is seen
    assert manager("batch", "status", "--store", "elsewhere").out == f"no batches in {Path('elsewhere').absolute()}\n"


def test_a_missing_key_is_told_and_the_batch_stays(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_leave(manager, monkeypatch)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "set the environment variable OPENAI_API_KEY" in manager("batch", "status").out
    assert manager("batch", "resume").code == 3
    cancelled = manager("batch", "cancel", "--all")
    assert (cancelled.code, "1 of 1 batches could not be cancelled" in cancelled.err) == (3, True)
    assert json.loads(manager("batch", "status", "--json").out)[0]["status"] == "submitted"


def test_a_missing_package_is_told_with_how_to_install_it(
    emulator: Emulator, manager: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anthropic", None)
    shown = manager("bench", "--backend", "claude", "--dataset", "folder:my-photos", "--batch")
    assert (shown.code, "pip install 'tlac[batch]'" in shown.err) == (2, True)


def test_the_cost_cap_is_kept_and_a_failed_request_named(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock
) -> None:
    capped = manager(*BENCH, "--max-cost", "0.000001")
    assert (capped.code, "a higher --max-cost continues the run" in capped.err) == (3, True)
    assert emulator.shelves["openai"].batches == []
    emulator.batching = BatchControls(fate=lambda number, asked: "failed")
    failed = manager(*BENCH)
    assert (failed.code, "the server had an error" in failed.err) == (3, True)


def test_no_key_is_shown_or_written(
    emulator: Emulator, manager: Callable[..., Shown], clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [submit_and_leave(manager, monkeypatch), manager("batch", "status"), manager("batch", "resume")]
    for key in KEYS.values():
        assert not any(key in one.out + one.err for one in shown)
        assert [
            path for path in Path.cwd().parent.rglob("*") if path.is_file() and key.encode() in path.read_bytes()
        ] == []
