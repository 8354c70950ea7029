"""A server that sends calls on to another gives it neither a key nor an image: no road follows a redirect."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from tests.support.emulated import image_question
from tests.support.fakes import make_png
from tlac.config.schemas import Backend, BackendSpec, EncoderConfig, EncoderSpec, Limits
from tlac.encoders.litellm import EndpointEncoder
from tlac.errors import PermanentError
from tlac.lmms.litellm import LiteLLM
from tlac.runtime import aio
from tlac.runtime.litellm_setup import load_litellm

KEY = "key-of-this-provider"
# litellm's clients for these are of different making: its own transport or not, OpenAI's client, a signature
WHOLE_CALLS = [
    "groq",
    "mistral",
    "azure",
    "azure_ai",
    "databricks",
    "amazon_nova",
    "ovhcloud",
    "bedrock",
    "cohere_chat",
]
EMBEDDINGS = ["openai", "gemini", "cohere", "voyage", "azure", "bedrock", "ollama", "jina_ai", "mistral"]


@dataclass
class Servers:
    """A server that sends everything on to a second one; `forwarded` holds what that one was sent."""

    base: str = ""
    asked: list[str] = field(default_factory=list)
    forwarded: list[str] = field(default_factory=list)


def _serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            answer(self)

        do_GET = do_DELETE = do_POST  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            """Not a word."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("MY_PROVIDERS_KEY", KEY)
    for name, value in {"AWS_ACCESS_KEY_ID": "a" * 16, "AWS_SECRET_ACCESS_KEY": "b" * 30}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    monkeypatch.setenv("AZURE_API_VERSION", "2024-10-21")
    found = Servers()

    def second(handler: BaseHTTPRequestHandler) -> None:
        found.forwarded.append(handler.path)
        content = json.dumps({"error": {"message": "no"}}).encode()
        handler.send_response(400)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    elsewhere = _serve(second)

    def first(handler: BaseHTTPRequestHandler) -> None:
        found.asked.append(handler.path)
        handler.send_response(307)
        handler.send_header("Location", f"http://127.0.0.1:{elsewhere.server_port}/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    sending_on = _serve(first)
    found.base = f"http://127.0.0.1:{sending_on.server_port}"
    yield found
    for server in (sending_on, elsewhere):
        server.shutdown()
        server.server_close()


def backend(servers: Servers, model: str, path: str = "", **params: Any) -> Backend:
    settings: dict[str, Any] = {"api_base": servers.base + path, "limits": Limits(timeout_s=20.0), "params": params}
    key = None if model.startswith("bedrock/") else "MY_PROVIDERS_KEY"
    return Backend("mine", "mine.yaml", BackendSpec(adapter="litellm", model=model, api_key_env=key, **settings))


def model_of(provider: str) -> str:
    name = "anthropic.claude-3-haiku-20240307-v1:0" if provider == "bedrock" else "x"
    return f"{provider}/{name}"


# a parameter of litellm's own takes the whole call to providers that our transport asks otherwise
@pytest.mark.parametrize(
    ("model", "params"),
    [
        *((model_of(provider), {}) for provider in WHOLE_CALLS),
        *((f"{provider}/x", {"user_continue_message": None}) for provider in ("openai", "anthropic")),
        *((f"{provider}/x", {}) for provider in ("openai", "anthropic", "gemini", "ollama_chat")),
    ],
)
def test_a_live_call_is_not_sent_on(servers: Servers, model: str, params: dict[str, Any]) -> None:
    tried = backend(servers, model, **params)
    with pytest.raises(PermanentError, match="sends calls on to another, which would be told the key; check api_base"):
        aio.run(LiteLLM(tried).ask(image_question(tried, make_png(1, 32))))
    assert (len(servers.asked), servers.forwarded) == (1, [])


@pytest.mark.usefixtures("event_loop_for_litellm")
@pytest.mark.parametrize("provider", EMBEDDINGS)
def test_an_embedding_endpoint_is_not_sent_on(servers: Servers, provider: str) -> None:
    model = "bedrock/amazon.titan-embed-text-v1" if provider == "bedrock" else f"{provider}/x"
    spec = EncoderSpec(adapter="litellm", model=model, api_key_env="MY_PROVIDERS_KEY", api_base=servers.base)
    with pytest.raises(PermanentError, match="sends calls on to another, which would be told the key") as caught:
        EndpointEncoder(EncoderConfig("mine", "mine.yaml", spec), sleep=lambda _seconds: None).encode(["a dog"])
    assert "check api_base in mine.yaml" in str(caught.value)
    assert (len(servers.asked), servers.forwarded) == (1, [])


BATCH_CALLS = {
    "submit": lambda batches, file: batches.submit(file, "tag"),
    "find": lambda batches, file: batches.find("tag", datetime(2026, 1, 1, tzinfo=timezone.utc), ["1"], ()),
    "status": lambda batches, file: batches.status("batches/1"),
    "results": lambda batches, file: list(batches.results("batches/1")),
    "cancel": lambda batches, file: batches.cancel("batches/1"),
}


@pytest.mark.parametrize("call", BATCH_CALLS)
@pytest.mark.parametrize(("name", "path"), [("openai", "/v1"), ("anthropic", ""), ("gemini", "/v1beta")])
def test_a_batch_is_not_sent_on(servers: Servers, tmp_path: Path, name: str, path: str, call: str) -> None:
    (entry,) = entry_points(group="tlac.batch_interfaces", name=name)
    batches = entry.load()(backend(servers, f"{name}/x", path))
    file = tmp_path / "requests.jsonl"
    file.write_bytes(batches.line("1", b"{}"))
    with pytest.raises(PermanentError, match="sends calls on to another"):
        BATCH_CALLS[call](batches, file)
    assert servers.forwarded == []


def test_the_users_own_calls_of_the_same_libraries_are_left_alone(servers: Servers) -> None:
    import httpx

    load_litellm()
    with httpx.Client(follow_redirects=True) as client:
        assert client.get(servers.base).status_code == 400
    assert servers.forwarded == ["/elsewhere"]
