"""Whole runs against the emulator: every fault and its outcome, outages, the cost cap, secrets."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from tests.support.emulated import CLASSES, KEYS, PROVIDERS, Pictures, backend_at, plant_keys
from tests.support.emulator import Asked, Emulator, Fault, Reply, Script, random_faults, script_of
from tests.support.fakes import LetterEncoder
from tests.support.virtual_time import SkippingClock
from tlac.cache.store import Store
from tlac.cli import main
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, EncoderConfig, EncoderSpec, Prices
from tlac.evaluation.runner import RunConfig, Runner
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import CallPolicy
from tlac.results.record import Run
from tlac.types import Outcome

FEW_TRIES = {"tries": 4, "identical_tries": 3, "limited_tries": 4}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_keys(monkeypatch)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda _config: LetterEncoder())


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    server.asked.clear()
    server.refused.clear()
    server.script = answer
    return server


def answer(asked: Asked) -> Reply | Fault:
    return Reply(json.dumps({"class_index": "1"})) if asked.schema else Reply("an ancient car")


def run_spec(backend: Backend, size: int, method: str = "slac") -> RunConfig:
    encoder = EncoderConfig("letters", "letters", EncoderSpec(adapter="letters", model="letters"))
    return RunConfig(backend, backend, Pictures(size), method, encoder, load_prompts("default"), "ladder")


def bench(store: Store, backend: Backend, out: Path, size: int = 2, **policy: object) -> tuple[Run, SkippingClock]:
    """A run of SLAC whose waits are skipped."""
    clock = SkippingClock()
    settings: dict[str, object] = {"clock": clock.clock()} | policy
    spec = run_spec(backend, size)
    return Runner(store, policy=CallPolicy(**settings)).run(spec, out), clock  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fate:
    """What becomes of a run of two samples, one at a time: calls made, outcome of each, whether it was stopped."""

    calls: int
    outcomes: str
    is_stopped: bool = False


# the fault comes for ever; `Fate.calls` counts both samples
FOR_EVER = {
    "400": (Fault(status=400), Fate(2, "failed failed")),
    "401": (Fault(status=401), Fate(1, "failed failed", is_stopped=True)),
    "403": (Fault(status=403), Fate(1, "failed failed", is_stopped=True)),
    "404": (Fault(status=404), Fate(1, "failed failed", is_stopped=True)),
    "408": (Fault(status=408), Fate(6, "failed failed")),
    "413": (Fault(status=413), Fate(2, "failed failed")),
    "429": (Fault(status=429), Fate(8, "failed failed")),
    "429 with a wish to wait": (Fault(status=429, retry_after="2"), Fate(8, "failed failed")),
    "429 until tomorrow": (Fault(status=429, retry_after="50000"), Fate(1, "failed failed", is_stopped=True)),
    "500": (Fault(status=500), Fate(6, "failed failed")),
    "503": (Fault(status=503), Fate(6, "failed failed")),
    "529": (Fault(status=529), Fate(6, "failed failed")),
    "slow": (Fault("slow", delay_s=0.05), Fate(2, "answered answered")),
    "hung": (Fault("hung"), Fate(6, "failed failed")),
    "dropped": (Fault("dropped"), Fate(6, "failed failed")),
    "malformed": (Fault("malformed"), Fate(6, "failed failed")),
    "error inside": (Fault("error_inside"), Fate(6, "failed failed")),
    "refusal": (Reply(kind="refusal"), Fate(2, "refused refused")),
    "blocked": (Reply(kind="blocked"), Fate(2, "refused refused")),
    "no candidates": (Reply(kind="empty"), Fate(2, "empty empty")),
    "cut short": (Reply("a red", kind="truncated"), Fate(2, "truncated truncated")),
    "thinking": (Reply("a red car", kind="thinking"), Fate(2, "answered answered")),
}
# Ollama's format has no shape for these: it answers in words, or with none
OLLAMA = {"refusal": Fate(2, "empty empty"), "blocked": Fate(2, "empty empty")}


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("case", FOR_EVER)
def test_every_fault_has_its_outcome(emulator: Emulator, store: Store, tmp_path: Path, name: str, case: str) -> None:
    step, fate = FOR_EVER[case]
    if name == "ollama":
        fate = OLLAMA.get(case, fate)
    emulator.script = script_of(step)
    backend = backend_at(emulator, name, timeout_s=0.2 if case == "hung" else 20.0)
    # the breaker has tests of its own: here it would cut the counting short
    run, _ = bench(store, backend, tmp_path / "runs", concurrency=1, **FEW_TRIES)
    assert emulator.refused == []
    assert len(emulator.asked) == fate.calls
    assert " ".join(prediction.outcome for prediction in run.predictions) == fate.outcomes
    assert (run.record.stopped is not None) == fate.is_stopped
    assert run.record.is_complete == ("failed" not in fate.outcomes)
    # a failed call is never kept as an answer; all else is
    assert len(list(store.entries())) == (0 if "failed" in fate.outcomes else 2)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("case", ["408", "429", "429 with a wish to wait", "500", "503", "529", "dropped", "malformed"])
def test_a_fault_that_passes_leaves_a_complete_run(
    emulator: Emulator, store: Store, tmp_path: Path, name: str, case: str
) -> None:
    emulator.script = script_of(FOR_EVER[case][0], Reply("a red car"))
    run, clock = bench(store, backend_at(emulator, name), tmp_path / "runs", concurrency=1, **FEW_TRIES)
    assert run.record.is_complete
    assert len(emulator.asked) == 3
    if case == "429 with a wish to wait":
        assert 2 <= max(clock.waits_s) <= 3


def test_a_refusal_is_replayed_and_can_be_asked_for_again(emulator: Emulator, store: Store, tmp_path: Path) -> None:
    emulator.script = script_of(Reply(kind="refusal"), Reply("a red car"))
    backend = backend_at(emulator, "gpt-4o")
    spec = run_spec(backend, 1)
    for retry, outcome, calls in (((), "refused", 1), ((), "refused", 1), ([Outcome.REFUSED], "answered", 2)):
        run = Runner(store, retry=retry).run(spec, tmp_path / "runs")
        assert [prediction.outcome for prediction in run.predictions] == [outcome]
        assert len(emulator.asked) == calls


@pytest.mark.parametrize("name", PROVIDERS)
def test_both_methods_run_end_to_end(emulator: Emulator, store: Store, tmp_path: Path, name: str) -> None:
    spec = run_spec(backend_at(emulator, name), 3, "tlac")
    run = Runner(store).run(spec, tmp_path / "runs")
    assert emulator.refused == []
    assert {prediction.predicted for prediction in run.predictions} == {1}
    assert [bool(asked.images) for asked in emulator.asked].count(False) == 1
    assert (run.record.cost_usd or 0) > 0 or name == "ollama"


class Counting:
    """Answers, and counts per image how often."""

    def __init__(self) -> None:
        self.served: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply | Fault:
        with self._lock:
            self.served[asked.images[0]] += 1
        return Reply("an ancient car")


def test_five_hundred_calls_with_a_tenth_failing_are_each_answered_once(
    emulator: Emulator, store: Store, tmp_path: Path
) -> None:
    counting = Counting()
    # a hung call holds its place for the whole time-out: a few are enough
    quick = (Fault(status=429), Fault(status=429, retry_after="1"), Fault(status=500), Fault("dropped"))
    emulator.script = random_faults(counting, 0.1, (*quick * 6, Fault("hung")), seed=7)
    backend = backend_at(emulator, "gemini", timeout_s=2.0)
    run, _ = bench(store, backend, tmp_path / "runs", 500, concurrency=32)
    assert run.record.is_complete
    assert {prediction.outcome for prediction in run.predictions} == {"answered"}
    assert len(list(store.entries())) == 500
    assert len(counting.served) == 500
    assert set(counting.served.values()) == {1}
    assert len(emulator.asked) > 525


def dead_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1beta"


def test_a_dead_provider_ends_the_run_and_a_live_one_finishes_it(
    emulator: Emulator, store: Store, tmp_path: Path
) -> None:
    alive = backend_at(emulator, "gemini")
    some = replace(run_spec(alive, 20), limit=5)
    Runner(store).run(some, tmp_path / "runs")
    dead = replace(alive, spec=msgspec.structs.replace(alive.spec, api_base=dead_address()))
    said: list[str] = []
    run, clock = bench(store, dead, tmp_path / "runs", 20, on_message=said.append)
    assert not run.record.is_complete
    assert "does not answer" in (run.record.stopped or "")
    assert run.metrics.failed == 15
    assert clock.skipped_s < 1000
    assert any("pausing" in line for line in said)
    emulator.asked.clear()
    run, _ = bench(store, alive, tmp_path / "runs", 20, **FEW_TRIES)
    assert run.record.is_complete
    assert len(emulator.asked) == 15


def test_the_cost_cap_holds_for_both_stages_and_many_calls_in_flight(
    emulator: Emulator, store: Store, tmp_path: Path
) -> None:
    chance = random.Random(5)

    def wordy(asked: Asked) -> Reply | Fault:
        return Reply(" ".join(["car"] * chance.randint(1, 200)))

    emulator.script = wordy
    backend = backend_at(emulator, "gpt-4o", prices=Prices(prompt=10.0, completion=40.0))
    budget = Budget(0.5)
    spec = run_spec(backend, 200, "tlac")
    run = Runner(store, policy=CallPolicy(budget, concurrency=64)).run(spec, tmp_path / "runs")
    assert not run.record.is_complete
    assert "--max-cost" in (run.record.stopped or "")
    assert 0.3 < (run.record.cost_usd or 0) <= 0.5
    assert run.metrics.n == 200


# --- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for sample in Pictures(6):
        folder = tmp_path / "photos" / CLASSES[sample.label or 0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sample.id).write_bytes(sample.source)  # type: ignore[arg-type]
    return tmp_path / "photos"


def tlac(monkeypatch: pytest.MonkeyPatch, photos: Path, *arguments: str) -> int:
    clock = SkippingClock()
    monkeypatch.setattr(
        "tlac.cli.bench.open_policy",
        lambda max_cost, concurrency, **_: CallPolicy(
            None if max_cost is None else Budget(max_cost), concurrency, clock=clock.clock()
        ),
    )
    with pytest.raises(SystemExit) as caught:
        main(["bench", "--dataset", f"folder:{photos}", "--out", str(photos.parent / "runs"), *arguments])
    return caught.value.code or 0  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("script", "arguments", "code"),
    [
        (answer, (), 0),
        (script_of(Reply(kind="refusal")), (), 0),
        (script_of(Fault(status=401)), (), 3),
        (script_of(Fault(status=500)), (), 3),
        (script_of(Fault(status=400)), (), 3),
        (script_of(Fault("dropped"), Reply("a red car")), (), 0),
        (answer, ("--max-cost", "0.000001"), 3),
    ],
    ids=["answered", "refused", "wrong key", "down", "bad request", "dropped once", "cost cap"],
)
def test_the_exit_code_tells_how_a_run_ended(
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    script: Script,
    arguments: tuple[str, ...],
    code: int,
) -> None:
    monkeypatch.setenv("GEMINI_API_BASE", emulator.base("gemini"))
    emulator.script = script
    assert tlac(monkeypatch, photos, "--backend", "gemini", *arguments) == code


@pytest.mark.parametrize(("name", "variable"), [("gemini", "GEMINI"), ("gpt-4o", "OPENAI"), ("claude", "ANTHROPIC")])
@pytest.mark.parametrize("is_failing", [True, False])
def test_a_planted_key_is_found_in_nothing_that_a_run_writes(  # noqa: PLR0917 - fixtures
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    variable: str,
    is_failing: bool,
) -> None:
    monkeypatch.setenv(f"{variable}_API_BASE", emulator.base(PROVIDERS[name]))
    # a careless server sends the key back
    wrong_key = Fault(status=401, message="the key {key} is wrong")
    emulator.script = script_of(wrong_key) if is_failing else answer
    code = tlac(monkeypatch, photos, "--backend", name, "--method", "tlac", "--debug")
    assert code == (3 if is_failing else 0)
    assert emulator.asked[0].key == KEYS[f"{variable}_API_KEY"]
    shown = capfd.readouterr()
    written = [path for path in photos.parent.rglob("*") if path.is_file()]
    assert {"run.json", "cache.db"} <= {path.name for path in written}
    for key in KEYS.values():
        assert key not in shown.out + shown.err
        assert [path for path in written if key.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("options", [(), ("--debug",)])
def test_litellms_own_log_and_tracebacks_are_shown_for_debugging_alone(
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    capfd: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", emulator.base("openai"))
    monkeypatch.setattr("tlac.lmms.litellm.open_wire_format", lambda *_: None)
    emulator.script = script_of(Fault(status=500, message="out of order"), Reply("a red car"))
    assert tlac(monkeypatch, photos, "--backend", "gpt-4o", *options) == 0
    shown = capfd.readouterr()
    is_shown = bool(options)
    assert ("tlac: LiteLLM: LiteLLM completion() model= gpt-4o" in shown.err) == is_shown
    assert ("Traceback" in shown.err, "litellm.exceptions.InternalServerError" in shown.err) == (is_shown, is_shown)
    # results alone
    assert "LiteLLM" not in shown.out
