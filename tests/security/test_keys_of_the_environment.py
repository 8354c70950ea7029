"""What the providers' own clients find in the environment goes to nobody: only the key that a backend names is sent."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.support.emulated import image_question
from tlac.config.schemas import Backend, BackendSpec, EncoderConfig, EncoderSpec, Limits
from tlac.encoders.litellm import EndpointEncoder
from tlac.errors import InputError, TlacError
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.served import with_served_revision
from tlac.runtime import aio
from tlac.runtime.safe_files import read_url

VARIABLES = [
    *("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_ORGANIZATION", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"),
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY", "HF_TOKEN"),
    *("HOSTED_VLLM_API_KEY", "OLLAMA_API_KEY", "LITELLM_API_KEY", "AZURE_API_KEY", "AWS_SESSION_TOKEN"),
]
# without a key of their own: those that a stranger's file may point at an address
PROVIDERS = ["openai", "anthropic", "gemini", "ollama_chat", "hosted_vllm"]


@dataclass
class Listener:
    """A server that refuses everything, and remembers the headers that it was sent."""

    base: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def planted(self) -> list[str]:
        """What it was told of the environment or of ~/.netrc, as it is or in basic authentication."""
        signs = ("planted", base64.b64encode(b"planted").decode()[:8])
        values = [value for headers in self.headers for value in headers.values()]
        return [value for value in values if any(sign in value for sign in signs)]


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Listener]:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"planted-{name.lower()}")
    for name in ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.setenv(name, "X-Mine: planted-header\nAuthorization: Bearer planted-token")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login planted-name password planted-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    found = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            found.headers.append(dict(self.headers))
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            """Not a word."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found.base = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()


def backend(listener: Listener, provider: str) -> Backend:
    path = {"openai": "/v1", "hosted_vllm": "/v1", "gemini": "/v1beta"}.get(provider, "")
    spec = BackendSpec(
        adapter="litellm", model=f"{provider}/x", api_base=listener.base + path, limits=Limits(timeout_s=20.0)
    )
    return Backend("mine", "mine.yaml", spec)


@pytest.mark.parametrize("road", ["wire format", "acompletion"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_live_call(listener: Listener, provider: str, road: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if road == "acompletion":
        monkeypatch.setattr("tlac.lmms.litellm.open_wire_format", lambda *_: None)
    tried = backend(listener, provider)
    with pytest.raises(TlacError):
        aio.run(LiteLLM(tried).ask(image_question(tried)))
    assert (len(listener.headers), listener.planted) == (1, [])


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_batch(listener: Listener, provider: str) -> None:
    (entry,) = entry_points(group="tlac.batch_interfaces", name=provider)
    with pytest.raises(TlacError):
        entry.load()(backend(listener, provider)).status("batches/1")
    assert (len(listener.headers), listener.planted) == (1, [])


@pytest.mark.usefixtures("event_loop_for_litellm")
@pytest.mark.parametrize("provider", ["openai", "mistral", "together_ai", "gemini", "ollama"])
def test_an_embedding_endpoint(listener: Listener, provider: str) -> None:
    spec = EncoderSpec(adapter="litellm", model=f"{provider}/x", api_base=listener.base)
    with pytest.raises(TlacError):
        EndpointEncoder(EncoderConfig("mine", "mine.yaml", spec)).encode(["a dog"])
    assert (len(listener.headers), listener.planted) == (1, [])


def test_the_question_what_a_server_serves(listener: Listener, tmp_path: Path) -> None:
    with_served_revision(backend(listener, "openai"), tmp_path)
    assert (len(listener.headers), listener.planted) == (1, [])


def test_an_image_at_an_address(listener: Listener) -> None:
    with pytest.raises(InputError):
        read_url(f"{listener.base}/photo.png")
    assert len(listener.headers) >= 1
    assert listener.planted == []
