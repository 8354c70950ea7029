"""One small run per provider, replayed from recordings with the network blocked; and what recordings must not hold.

`make record` records anew: against the emulator, or with BACKEND=gemini against the real provider.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from vcr.request import Request

from tests.support.cassette_scrubbing import HEADER, scrub_request, scrub_response
from tests.support.emulated import KEYS, PROVIDERS, plant_keys
from tests.support.emulator import Asked, Emulator, Fault, Reply, running_emulator
from tests.support.emulator.replies import Script
from tests.support.fakes import LetterEncoder, make_png
from tests.support.virtual_time import SkippingClock
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_dataset
from tlac.config.schemas import EncoderConfig, EncoderSpec, load_backend, load_dataset_config
from tlac.evaluation.runner import RunConfig, Runner
from tlac.lmms.middleware.policy import CallPolicy
from tlac.results.record import Run
from tlac.types import Outcome

CASSETTES = Path(__file__).parents[2] / "cassettes"
SCENARIOS = ("slac", "tlac", "refusal", "rate-limit")
# a real provider neither refuses nor tires on demand: these are always recorded against the emulator
ONLY_EMULATED = ("refusal", "rate-limit")
REAL_BACKEND = os.environ.get("TLAC_RECORD_BACKEND", "")
_ENVIRONMENT, _CONNECT = dict(os.environ), socket.socket.connect


@pytest.fixture(scope="module")
def vcr_cassette_dir() -> str:
    return str(CASSETTES)


@pytest.fixture
def default_cassette_name(request: pytest.FixtureRequest) -> str:
    arguments = request.node.callspec.params
    return f"{arguments['name']}/{arguments['scenario']}"


@pytest.fixture
def vcr_config() -> dict[str, Any]:
    return {
        "match_on": ["method", "scheme", "host", "port", "path", "query", "body"],
        "before_record_request": scrub_request,
        "before_record_response": scrub_response,
    }


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_keys(monkeypatch)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda _config: LetterEncoder())


def is_real(name: str, scenario: str) -> bool:
    return name == REAL_BACKEND and scenario not in ONLY_EMULATED


class _Recorder:
    """Stands in for the tagger until it is needed, and plays each scenario's part."""

    def __init__(self, scenario: str) -> None:
        self._scenario = scenario
        self._tagger: Script | None = None
        self._calls = 0

    def __call__(self, asked: Asked) -> Reply | Fault:
        self._calls += 1
        if self._calls == 1 and self._scenario == "refusal":
            kind = "answer" if asked.provider == "ollama" else "refusal"
            return Reply("I can't help with that.", kind)
        if self._calls == 1 and self._scenario == "rate-limit":
            return Fault(status=429, message="Too many requests", retry_after="1")
        if self._tagger is None:
            from tests.support.emulator.tagger import tagger_script

            self._tagger = tagger_script()
        return self._tagger(asked)


@pytest.fixture
def address(request: pytest.FixtureRequest, record_mode: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On replay nobody is asked; on recording the emulator is, or the provider with the user's own key."""
    arguments = request.node.callspec.params
    name, scenario = arguments["name"], arguments["scenario"]
    backend = load_backend(name)
    if record_mode == "none":
        yield
    elif is_real(name, scenario):
        monkeypatch.setattr(socket.socket, "connect", _CONNECT)
        for variable in (backend.spec.api_key_env, backend.spec.api_base_env):
            if variable in _ENVIRONMENT:
                monkeypatch.setenv(variable, _ENVIRONMENT[variable])
        yield
    else:
        with running_emulator(_Recorder(scenario)) as emulator:
            monkeypatch.setenv(backend.spec.api_base_env or "", emulator.base(PROVIDERS[name]))
            yield
            _require_valid(emulator)


def _require_valid(emulator: Emulator) -> None:
    assert emulator.refused == []


@pytest.fixture(scope="module", autouse=True)
def headers(record_mode: str) -> Iterator[None]:
    """Each recording says at its top where it was made."""
    yield
    if record_mode == "none":
        return
    for path in CASSETTES.glob("*/*.yaml"):
        text = path.read_text(encoding="utf-8")
        if not text.startswith("#"):
            origin = "provider" if is_real(path.parent.name, path.stem) else "emulator"
            path.write_text(HEADER[origin] + text, encoding="utf-8")


def small_run(name: str, scenario: str, store: Store, out: Path) -> Run:
    backend = load_backend(name)
    encoder = EncoderConfig("letters", "letters", EncoderSpec(adapter="letters", model="letters"))
    dataset = open_dataset(load_dataset_config("cifar10-samples"))
    # prompts of their own: the shipped ones may change without asking for new recordings
    prompts = load_prompts(str(CASSETTES / "prompts.yaml"))
    method = "tlac" if scenario == "tlac" else "slac"
    spec = RunConfig(backend, backend, dataset, method, encoder, prompts, "ladder", limit=3)
    clock = SkippingClock().clock()
    policy = CallPolicy(concurrency=1, clock=clock, tries=2, identical_tries=2, limited_tries=3)
    return Runner(store, policy=policy).run(spec, out)


@pytest.mark.vcr
@pytest.mark.block_network
@pytest.mark.usefixtures("address")
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", PROVIDERS)
def test_a_recorded_run_replays_without_network(
    name: str, scenario: str, store: Store, tmp_path: Path, vcr: Any, record_mode: str
) -> None:
    pytest.importorskip("foolbox", reason="the sample images come with the extra 'embedded'")
    run = small_run(name, scenario, store, tmp_path / "runs")
    assert run.record.is_complete, run.record.stopped or [prediction.reason for prediction in run.predictions]
    outcomes = [prediction.outcome for prediction in run.predictions]
    refused = scenario == "refusal" and name != "ollama"
    assert outcomes == [Outcome.REFUSED if refused else Outcome.ANSWERED, Outcome.ANSWERED, Outcome.ANSWERED]
    if record_mode == "none":
        assert vcr.all_played
        # the rate limit costs one call more than there are samples
        assert vcr.play_count == len(list(store.entries())) + (scenario == "rate-limit")
    if scenario == "tlac" and not is_real(name, scenario):
        assert any(turn.choice is not None for turn in run.predictions)


def recordings() -> list[Path]:
    return sorted(CASSETTES.glob("*/*.yaml"))


KEY_SHAPES = re.compile(
    rb"sk-[A-Za-z0-9_-]{12,}|AIza[A-Za-z0-9_-]{20,}|(?i:authorization|x-api-key|x-goog-api-key|bearer |set-cookie)"
    rb"|(?i:organization:|request-id)"
)


def test_there_is_a_recording_for_each_provider_and_scenario() -> None:
    assert {path.relative_to(CASSETTES).as_posix() for path in recordings()} == {
        f"{name}/{scenario}.yaml" for name in PROVIDERS for scenario in SCENARIOS
    }


@pytest.mark.parametrize("path", recordings(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recording_says_where_it_was_made_and_holds_no_secret_and_no_image(path: Path) -> None:
    content = path.read_bytes()
    assert content.decode().splitlines(keepends=True)[0] in HEADER.values()
    assert KEY_SHAPES.findall(content) == []
    assert not any(key.encode() in content for key in KEYS.values())
    assert re.findall(rb"[A-Za-z0-9+/]{200,}", content) == []
    assert b"sha256:" in content
    assert len(content) < 30_000
    exchanges = yaml.safe_load(content)["interactions"]
    assert all(json.loads(exchange["request"]["body"]) for exchange in exchanges)
    assert {exchange["request"]["uri"].split("/")[2] for exchange in exchanges} < {
        "generativelanguage.googleapis.com",
        "api.openai.com",
        "api.anthropic.com",
        "127.0.0.1:11434",
    }


@pytest.mark.parametrize("folder", ["cassettes", "backends", "prompts", "benchmarks", "tlac", "tests/support/stores"])
def test_no_file_of_the_project_holds_a_key(folder: str) -> None:
    # assembled here, so that this file is not its own first finding
    shape = re.compile(rb"\b(?:sk-(?:proj|ant|live)-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,})")
    files = [path for path in (CASSETTES.parent / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert files
    assert [path for path in files if shape.search(path.read_bytes())] == []


def test_requests_are_told_apart_by_their_image() -> None:
    def scrubbed(content: bytes) -> bytes:
        data = {"data": base64.b64encode(content).decode(), "mime_type": "image/png"}
        body = json.dumps({"contents": [{"parts": [{"inline_data": data}]}]})
        headers = {"x-goog-api-key": KEYS["GEMINI_API_KEY"], "Content-Type": "application/json"}
        request = Request("POST", "http://127.0.0.1:9/v1beta/models/m:generateContent", body, headers)
        found = scrub_request(request)
        assert found.headers == {"content-type": "application/json"}
        assert found.uri == "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent"
        return bytes(found.body)

    first, second = make_png(1), make_png(2)
    assert scrubbed(first) == scrubbed(first) != scrubbed(second)
    assert f"sha256:{hashlib.sha256(first).hexdigest()}".encode() in scrubbed(first)
