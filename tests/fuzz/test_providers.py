"""Random and damaged responses of every provider give an answer or one of our errors, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.emulated import PROVIDERS, choice_question, image_question, plant_keys
from tests.support.emulator import anthropic, gemini, ollama, openai
from tests.support.emulator.replies import Asked, Reply
from tests.support.fuzzing import JSON, TEXTS, damage, fuzzed
from tlac.cache.store import Store
from tlac.config.schemas import load_backend
from tlac.errors import TlacError
from tlac.hashing import response_key
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.middleware.cache import StoredLMM
from tlac.runtime import aio
from tlac.types import LMMRequest

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("keys")]

SHAPES = {"gemini": gemini, "openai": openai, "anthropic": anthropic, "ollama": ollama}
SHAPED = {
    name: [
        json.dumps(SHAPES[wire].shape(Asked(wire, "m", "what?"), Reply("a dog", kind))).encode()
        for kind in ("answer", "refusal", "blocked", "empty", "truncated", "thinking")
    ]
    for name, wire in PROVIDERS.items()
}


# what a few bytes' worth of JSON needs a stack for
NESTED = st.tuples(st.sampled_from(["", '{"error":', '{"choices":', '{"candidates":[']), st.sampled_from("[{")).map(
    lambda pair: (pair[0] + (pair[1] if pair[1] == "[" else '{"a":') * 20_000).encode()
)


class _Says(BaseHTTPRequestHandler):
    """Answers every request with the bytes and status that its server holds."""

    protocol_version = "HTTP/1.1"
    # headers and body in one packet: the second of two would wait 40 ms for the first one's receipt
    wbufsize = 2**16

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, content = self.server.says  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Says) as opened:
        opened.daemon_threads = True
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_keys(monkeypatch)


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_a_provider_says(
    name: str, server: ThreadingHTTPServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load_backend(name)
    monkeypatch.setenv(backend.spec.api_base_env or "", f"http://127.0.0.1:{server.server_port}")
    # what is answered must be fit to be kept
    lmm = StoredLMM(LiteLLM(backend), store, name)
    questions = [image_question(backend), choice_question(backend)]
    server.says = (200, SHAPED[name][0])  # type: ignore[attr-defined]
    assert aio.run(lmm.ask(questions[0])).text == "a dog"
    store.delete_entries([response_key(questions[0])])
    anything = st.dictionaries(TEXTS, JSON).map(lambda content: json.dumps(content).encode())
    contents = st.sampled_from(SHAPED[name]).flatmap(damage) | anything | st.binary(max_size=60) | NESTED

    @fuzzed
    @given(
        content=contents, status=st.sampled_from([200, 200, 200, 400, 429, 500]), question=st.sampled_from(questions)
    )
    def on_message(content: bytes, status: int, question: LMMRequest) -> None:
        server.says = (status, content)  # type: ignore[attr-defined]
        with suppress(TlacError):
            aio.run(lmm.ask(question))
            assert store.delete_entries([response_key(question)]) == 1

    on_message()


@pytest.mark.parametrize("name", PROVIDERS)
def test_half_a_surrogate_pair_in_an_answer_is_kept_as_a_replacement_character(
    name: str, server: ThreadingHTTPServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load_backend(name)
    monkeypatch.setenv(backend.spec.api_base_env or "", f"http://127.0.0.1:{server.server_port}")
    server.says = (200, SHAPED[name][0].replace(b"a dog", rb"a dog \ud83d!"))  # type: ignore[attr-defined]
    question = image_question(backend)
    assert aio.run(StoredLMM(LiteLLM(backend), store, name).ask(question)).text == "a dog \ufffd!"
    assert store.get_response(response_key(question)).text == "a dog \ufffd!"
