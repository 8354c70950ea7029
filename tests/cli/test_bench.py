from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.emulator import Asked, Reply, running_emulator
from tests.support.fakes import LetterEncoder, Shown, make_png
from tlac.cache.store import Store
from tlac.config import registry
from tlac.results.loggers import open_wandb
from tlac.results.record import Run

SLAC = ("bench", "--backend", "embedded", "--encoder", "minilm", "--dataset", "imagenet-samples", "--method", "slac")
ONE_BY_ONE = (
    *("bench", "--backend", "ollama", "--encoder", "minilm", "--dataset", "cifar10-samples", "--method", "slac"),
    *("--concurrency", "1"),
)
HEAVY = {"torch", "litellm", "sentence_transformers", "open_clip", "transformers"}


def run_apart(*arguments: object) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """The command in a process of its own, and the modules that it had loaded in the end."""
    script = (
        "import sys\nfrom tlac.cli import main\ntry:\n    main(sys.argv[1:])\n"
        "finally:\n    print('modules:', *sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, set(done.stderr.rpartition("modules: ")[2].split())


@pytest.fixture
def only_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_tagger_is_measured_and_a_second_run_asks_nobody(only_run: Path) -> None:
    first, _ = run_apart(*SLAC, "--json")
    assert first.returncode == 0, first.stderr
    (summary,) = json.loads(first.stdout)["runs"]
    assert (summary["n"], summary["coverage"], summary["is_complete"]) == (20, 1.0, True)
    assert summary["calls"]["stage1"] == {"asked": 20, "from_store": 0}
    # the tagger names 18 of the 20 with its best name; told with its doubts, words decide a few otherwise
    lines = (Path(summary["run"]) / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    right = sum(prediction["predicted"] == prediction["label"] for prediction in map(json.loads, lines))
    assert summary["accuracy"] == right / 20
    assert summary["accuracy"] >= 0.8

    second, modules = run_apart(*SLAC, "--json", "--offline")
    assert second.returncode == 0, second.stderr
    (again,) = json.loads(second.stdout)["runs"]
    assert again["calls"]["stage1"] == {"asked": 0, "from_store": 20}
    written = [(Path(found["run"]) / "predictions.jsonl").read_bytes() for found in (summary, again)]
    assert written[0] == written[1]
    assert modules & HEAVY == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "kept"),
    [
        (signal.SIGKILL, -signal.SIGKILL, 3),
        (signal.SIGINT, 3, 4),
        (signal.SIGTERM, 3, 4),
        (signal.SIGHUP, 3, 4),
    ],
)
def test_a_run_that_is_stopped_goes_on_where_it_was(
    tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, code: int, kept: int
) -> None:
    """The fourth of twenty questions is under way. What can be heeded waits for its answer, as that is paid for."""
    ended = threading.Event()
    questions = itertools.count(1)

    def answer(_: Asked) -> Reply:
        if next(questions) > 3:
            ended.wait()
        return Reply("a dog")

    folder = Path(os.environ["TLAC_CACHE_DIR"])
    with running_emulator(answer) as emulator:
        monkeypatch.setenv("OLLAMA_API_BASE", emulator.base("ollama"))
        process = subprocess.Popen([sys.executable, "-m", "tlac", *ONE_BY_ONE], stderr=subprocess.PIPE, text=True)
        while process.poll() is None and count_answers(folder) < 3:
            time.sleep(0.05)
        process.send_signal(sent)
        assert process.stderr is not None
        if sent is not signal.SIGKILL:
            while "waiting for the calls in flight" not in (line := process.stderr.readline()):
                assert line
        else:
            process.wait()
        ended.set()
        _, errors = process.communicate()
        assert process.returncode == code, errors
        if sent is not signal.SIGKILL:
            (record,) = (json.loads(path.read_text(encoding="utf-8")) for path in Path("runs").glob("*/run.json"))
            assert (record["is_complete"], record["stopped"]) == (False, "interrupted")
            assert errors.splitlines()[-1].startswith("tlac: stopped in cifar10-samples ollama slac; every answer")
        assert count_answers(folder) == kept
        finished = tlac_command(*ONE_BY_ONE, "--json")
    (summary,) = json.loads(finished.out)["runs"]
    assert summary["calls"]["stage1"] == {"asked": 20 - kept, "from_store": kept}


@pytest.mark.slow
def test_a_second_signal_ends_a_run_at_once(
    tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    questions = itertools.count(1)

    def answer(_: Asked) -> Reply:
        if next(questions) > 3:
            ended.wait()
        return Reply("a dog")

    folder = Path(os.environ["TLAC_CACHE_DIR"])
    with running_emulator(answer) as emulator:
        monkeypatch.setenv("OLLAMA_API_BASE", emulator.base("ollama"))
        process = subprocess.Popen([sys.executable, "-m", "tlac", *ONE_BY_ONE], stderr=subprocess.PIPE, text=True)
        while process.poll() is None and count_answers(folder) < 3:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "waiting for the calls in flight" not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        ended.set()
        process.communicate()
    assert count_answers(folder) == 3


def test_it_ends_with_where_the_report_lies_and_opens_it(
    tlac_command: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    pack = Path(__file__).parents[2] / "cassettes" / "packs" / "samples40.jsonl.zst"
    asked = ("bench", "--backend", f"pack:{pack}", "--dataset", "cifar10-samples", "--encoder", "minilm")
    shown = tlac_command(*asked, "--method", "slac", "--open")
    assert shown.code == 0, shown.err
    (page,) = Path("runs").glob("*/report.html")
    assert f"\nreport: {page}\n" in shown.out
    assert opened == [str(page)]


def test_debug_shows_the_traceback_of_a_failed_sample(tlac_command: Callable[..., Shown], tmp_path: Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "dog").mkdir()
    (tmp_path / "pets" / "cat" / "broken.png").write_bytes(b"")
    (tmp_path / "pets" / "dog" / "good.png").write_bytes(make_png(2))
    asked = ("bench", "--backend", "gemini", "--dataset", f"folder:{tmp_path / 'pets'}", "--encoder", "minilm")
    plain, debugged = (tlac_command(*asked, "--offline", *more).err for more in ((), ("--debug",)))
    assert "Traceback" not in plain
    assert "cat/broken.png failed" in debugged
    assert "Traceback" in debugged
    assert "tlac.errors.InputError" in debugged


def count_answers(folder: Path) -> int:
    if not (folder / "responses" / "cache.db").exists():
        return 0
    with Store(folder) as store:
        return sum(1 for _ in store.entries())


def test_without_a_key_the_variable_is_named_and_litellm_is_not_imported(only_run: Path) -> None:
    done, modules = run_apart("bench", "--backend", "gemini", "--dataset", "cifar10-samples")
    assert done.returncode == 2
    (line,) = done.stderr.rpartition("modules: ")[0].splitlines()
    assert "GEMINI_API_KEY" in line
    assert "--backend embedded" in line
    assert modules & HEAVY == set()


def test_offline_with_an_empty_store_counts_what_is_missing(only_run: Path) -> None:
    done, modules = run_apart("bench", "--backend", "gemini", "--dataset", "cifar10-samples", "--offline")
    assert done.returncode == 4
    error = done.stderr.rpartition("modules: ")[0].splitlines()[-1]
    assert "answers for 20 of 20 samples are missing: cifar10_00_3.png" in error
    assert modules & HEAVY == set()
    assert not (only_run / "runs").exists()


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--backend", "embeded", "unknown backend 'embeded': did you mean 'embedded'?"),
        ("--stage2-backend", "gemmini", "unknown backend 'gemmini': did you mean 'gemini'?"),
        ("--dataset", "cifar10-sample", "unknown dataset 'cifar10-sample': did you mean 'cifar10-samples'?"),
        ("--encoder", "minilmm", "unknown encoder 'minilmm': did you mean 'minilm'?"),
        ("--method", "slak", "unknown method 'slak': did you mean 'slac'?"),
        ("--matching", "papper", "unknown matching rule 'papper': did you mean 'paper'?"),
        ("--prompts", "defaults", "unknown prompt set 'defaults': did you mean 'default'?"),
        ("--split", "old", "unknown split 'old'"),
        ("--template", "a photo", "must hold {}"),
        ("--dataset", "floder:x", "unknown dataset loader 'floder': did you mean 'folder'?"),
        ("--dataset", "folder:nowhere", "nowhere"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(tlac_command, option: str, value: str, complaint: str) -> None:
    given = {"--backend": "embedded", "--dataset": "cifar10-samples", "--encoder": "minilm", option: value}
    shown = tlac_command("bench", *(word for pair in given.items() for word in pair))
    assert shown.code == 2
    assert complaint in shown.err
    assert "Traceback" not in shown.err


def test_a_store_that_can_not_be_written_is_named(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shown = tlac_command(*SLAC, "--store", tmp_path / "file")
    assert shown.code == 1
    assert str(tmp_path / "file") in shown.err
    assert "--store" in shown.err
    assert shown.err.count("\n") == 1


def test_one_broken_image_leaves_the_run_incomplete_and_names_the_file(tlac_command, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.png").write_bytes(make_png())
    (tmp_path / "pets" / "dog" / "2.jpg").write_bytes(b"")
    shown = tlac_command(
        "bench", "--backend", "embedded", "--encoder", "minilm", "--dataset", f"folder:{tmp_path / 'pets'}"
    )
    assert shown.code == 3
    assert "1 of 3 samples failed" in shown.err
    assert "2.jpg" in shown.err
    (run,) = (tmp_path / "here" / "runs").iterdir()
    assert json.loads((run / "run.json").read_text())["is_complete"] is False


def test_one_cell_that_fails_leaves_the_others_intact(tlac_command, tmp_path: Path) -> None:
    (tmp_path / "here" / "tlac.yaml").write_text(
        "encoders: {}\nbackends:\n  broken: {adapter: pack, model: m, options: {path: none.jsonl}}\n"
    )
    shown = tlac_command(*SLAC[:1], "--backend", "broken", *SLAC[1:])
    assert shown.code == 2
    assert "none.jsonl" in shown.err


PACK = Path(__file__).parents[2] / "cassettes" / "packs" / "samples40.jsonl.zst"
REPLAY = ("bench", "--backend", f"pack:{PACK}", "--dataset", "cifar10-samples", "--encoder", "minilm", "--limit", "2")


def plant_trackers(monkeypatch: pytest.MonkeyPatch, **openers: Callable[[], Callable[[Run], None]]) -> None:
    """Let these be the trackers that are installed."""
    real = registry._entry_points
    points = {name: SimpleNamespace(value="a test", load=lambda one=one: one) for name, one in openers.items()}
    monkeypatch.setattr(registry, "_entry_points", lambda group: points if group == "tlac.loggers" else real(group))


def test_a_tracker_is_given_each_run_and_its_failure_harms_none(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    given = []

    def keep(run: Run) -> None:
        sys.stdout.write("* a tracker says hello\n")
        given.append((run.record.method, (run.folder / "report.html").is_file()))

    def fail(run: Run) -> None:
        raise SystemExit("the server says no to hf_0123456789abcdefghijkl")

    plant_trackers(monkeypatch, good=lambda: keep, bad=lambda: fail)
    shown = tlac_command(*REPLAY, "--method", "slac", "--method", "tlac", "--log", "bad", "--log", "good", "--json")
    assert shown.code == 0
    # what it prints is none of our results
    runs = json.loads(shown.out)["runs"]
    assert given == [("slac", True), ("tlac", True)]
    for run in runs:
        assert f"tlac: {Path(run['run']).name}: not logged to bad: the server says no to [secret]\n" in shown.err


def test_a_tracker_that_is_not_known_or_not_installed_is_said_before_anything_is_asked(
    tlac_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    plant_trackers(monkeypatch, wandb=open_wandb)
    for name, complaint in (("wandbb", "unknown experiment tracker 'wandbb'"), ("wandb", r"pip install 'tlac[wandb]'")):
        shown = tlac_command(*REPLAY, "--log", name)
        assert (shown.code, shown.err.count("\n")) == (2, 1)
        assert complaint in shown.err
    assert not Path("runs").exists()
