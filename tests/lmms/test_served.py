"""Two servers, one model name: answers of one are never replayed as the other's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.emulated import Pictures, image_question
from tests.support.fakes import FakeLMM, LetterEncoder
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, EncoderConfig, EncoderSpec, load_backend
from tlac.evaluation.run_config import RunConfig
from tlac.evaluation.runner import Runner
from tlac.hashing import response_key
from tlac.lmms.middleware.cache import StoredLMM
from tlac.lmms.served import is_of_served, request_before, with_served_revision
from tlac.results.record import Run
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse, Outcome


@dataclass
class Served:
    """A server of one's own: what it lists, what it answers, and the keys that it was sent."""

    base: str = ""
    listing: dict[str, Any] | None = None
    answer: str = "a red car"
    redirect: str = ""
    keys: list[str] = field(default_factory=list)
    calls: int = 0


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        served: Served = self.server.served  # type: ignore[attr-defined]
        served.keys.append(self.headers.get("Authorization", ""))
        if served.redirect:
            self.send_response(307)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(404 if served.listing is None else 200, served.listing or {"detail": "Not Found"})

    def do_POST(self) -> None:
        served: Served = self.server.served  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        served.calls += 1
        message = {"role": "assistant", "content": served.answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})

    def _send(self, status: int, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Not a word."""


@contextmanager
def server(listing: dict[str, Any] | None = None, answer: str = "a red car") -> Iterator[Served]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.served = Served(f"http://127.0.0.1:{running.server_port}/v1", listing, answer)  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.served  # type: ignore[attr-defined]
        running.shutdown()


def models(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(entries)}


def at(served: Served, name: str = "openai-compatible", **changes: Any) -> Backend:
    backend = load_backend(name)
    base = served.base.removesuffix("/v1") if name == "ollama" else served.base
    spec = msgspec.structs.replace(backend.spec, api_base=base, api_base_env=None, **changes)
    return replace(backend, spec=spec)


@pytest.mark.parametrize(
    ("listing", "changes", "revision"),
    [
        (models({"id": "qwen2.5-vl-7b"}), {}, "served:qwen2.5-vl-7b"),
        (models({"id": "default", "root": "/models/qwen"}), {}, "served:default /models/qwen"),
        # its name says it already: answers that are stored under it stay
        (models({"id": "default"}, {"id": "other"}), {}, None),
        (models({"id": "default", "root": "default"}), {}, None),
        (models({"id": "qwen2.5-vl-7b"}), {"revision": "of march"}, "of march"),
        (models({"id": "qwen2.5-vl-7b"}), {"model": "gemini/gemini-2.5-flash"}, None),
    ],
)
def test_what_a_server_lists_is_the_revision(
    tmp_path: Path, listing: dict[str, Any], changes: dict[str, Any], revision: str | None
) -> None:
    with server(listing) as served:
        assert with_served_revision(at(served, **changes), tmp_path).spec.revision == revision


@pytest.mark.parametrize("listing", [None, models({"id": "a"}, {"id": "b"}), {"data": "?"}, models()])
def test_a_server_that_does_not_say_is_told_by_its_address(tmp_path: Path, listing: dict[str, Any] | None) -> None:
    with server(listing) as served:
        assert with_served_revision(at(served), tmp_path).spec.revision == f"served:{served.base}"


def test_ollama_is_told_by_the_digest_of_its_model(tmp_path: Path) -> None:
    listing = {"models": [{"name": "llava:7b", "digest": "1"}, {"name": "gemma3:4b", "digest": "a2af6cc3eb7f"}]}
    with server(listing) as served:
        assert with_served_revision(at(served, "ollama"), tmp_path).spec.revision == "served:a2af6cc3eb7f"


def test_offline_and_when_the_server_is_down_it_is_as_it_was_found_last(tmp_path: Path) -> None:
    with server(models({"id": "qwen"})) as served:
        backend = at(served)
        assert with_served_revision(backend, tmp_path, is_offline=True).spec.revision is None
        assert with_served_revision(backend, tmp_path).spec.revision == "served:qwen"
        asked = len(served.keys)
        assert with_served_revision(backend, tmp_path, is_offline=True).spec.revision == "served:qwen"
        assert len(served.keys) == asked
    assert with_served_revision(backend, tmp_path).spec.revision == "served:qwen"


def test_a_redirect_of_the_list_takes_no_key_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_COMPATIBLE_API_KEY", "key-of-my-server")
    with server() as elsewhere, server() as served:
        served.redirect = f"{elsewhere.base}/models"
        with_served_revision(at(served), tmp_path)
        assert (served.keys, elsewhere.keys) == (["Bearer key-of-my-server"], [])


def run(store: Store, backend: Backend, out: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda _config: LetterEncoder())
    encoder = EncoderConfig("letters", "letters", EncoderSpec(adapter="letters", model="letters"))
    asked = with_served_revision(backend, store.path)
    config = RunConfig(asked, asked, Pictures(2), "slac", encoder, load_prompts("default"), "ladder")
    return Runner(store).run(config, out)


def test_a_second_server_under_the_same_name_is_asked_anew_and_the_record_says_which(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(models({"id": "A"}), "a red car") as one, server(models({"id": "B"}), "an old car") as other:
        first, second = (run(store, at(served), tmp_path / "runs", monkeypatch) for served in (one, other))
        again = run(store, at(one), tmp_path / "runs", monkeypatch)
        assert (one.calls, other.calls) == (2, 2)
    answers = [next(iter(found.predictions)).answer for found in (first, second, again)]
    assert answers == ["a red car", "an old car", "a red car"]
    named = [found.record.versions["served by openai-compatible"] for found in (first, second)]
    assert named == ["A", "B"]


@pytest.mark.parametrize(("version", "calls"), [("qwen", 0), ("another", 1), ("", 1)])
def test_an_older_answer_replays_for_the_model_that_it_names(store: Store, version: str, calls: int) -> None:
    backend = load_backend("openai-compatible")
    before = image_question(backend)
    old = LMMResponse(Outcome.ANSWERED, "a red car", model_version=version)
    store.put_entries([StoredAnswer.of(before, old, backend.name)])
    lmm = FakeLMM(lambda _request: "asked anew")
    now = replace(before, revision="served:qwen")
    response = aio.run(StoredLMM(lmm, store, backend.name).ask(now))
    assert len(lmm.asked) == calls
    # under its new key it is there for whoever scores the run again
    kept = store.get_response(response_key(now))
    assert kept is not None
    assert kept.text == response.text == ("asked anew" if calls else "a red car")


@pytest.mark.parametrize(
    ("model", "revision", "version", "is_of"),
    [
        # Ollama's answers name the model, and nobody had asked for its digest
        ("ollama_chat/llava:7b", "served:a2af", "llava:7b", True),
        ("ollama/llava:7b", "served:a2af", "llava:7b", True),
        ("ollama_chat/llava:7b", "served:a2af", "llava:13b", False),
        ("ollama_chat/llava:7b", "served:llava:13b", "llava:13b", False),
        ("openai/default", "served:qwen", "qwen", True),
        ("openai/default", "served:qwen /models/qwen", "qwen", True),
        ("openai/default", "served:qwen2", "qwen", False),
        ("openai/default", "served:qwen", "qwen2", False),
        ("openai/default", "served:qwen", "", False),
    ],
)
def test_an_older_answer_is_of_the_model_that_it_names(model: str, revision: str, version: str, is_of: bool) -> None:
    request = LMMRequest("stage1", model, (), revision=revision)
    # as it is read from a store: another string of the same letters
    response = LMMResponse(Outcome.ANSWERED, "a car", model_version="".join(list(version)))
    assert is_of_served(response, request) is is_of


def test_what_was_asked_before_is_asked_without_what_is_served_and_nothing_else_changes() -> None:
    request = LMMRequest("stage1", "openai/m", (), {"seed": 1}, revision="served:qwen")
    assert request_before(request) == replace(request, revision=None)
    assert request_before(replace(request, revision="of march")) is None
    assert request_before(replace(request, revision=None)) is None
