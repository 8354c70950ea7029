"""Posting JSON: whole answers or one reason why there is none; keys go to no other host."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.emulated import image_question
from tlac.config.schemas import Backend, BackendSpec
from tlac.errors import TransientError
from tlac.lmms import http as transport
from tlac.lmms.http import MAX_RESPONSE_BYTES, HTTPResponse, post
from tlac.lmms.litellm import LiteLLM
from tlac.runtime import aio
from tlac.types import Outcome


@dataclass
class Peer:
    """A server that says what it is told to, and remembers what it was sent."""

    port: int
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=lambda: [b'{"a": 1}'])
    pause_s: float = 0.0
    cut_bytes: int = 0
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def url(self, path: str = "/chat") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        peer: Peer = self.server.peer  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        peer.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(peer.status)
        for name, value in peer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(sum(map(len, peer.pieces)) + peer.cut_bytes))
        self.end_headers()
        try:
            for piece in peer.pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(peer.pause_s)
        except OSError:
            return
        self.close_connection = bool(peer.cut_bytes)

    def log_message(self, *_: object) -> None:
        """Not a word."""


@pytest.fixture
def peer() -> Iterator[Peer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.peer = Peer(server.server_port)  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.peer  # type: ignore[attr-defined]
        server.shutdown()


def ask(peer: Peer, content: bytes = b"{}", timeout_s: float = 10.0, **headers: str) -> HTTPResponse:
    return aio.run(post(peer.url(), headers, content, timeout_s))


def test_an_answer_comes_whole_whatever_its_status(peer: Peer) -> None:
    peer.status, peer.headers = 429, {"Retry-After": "7"}
    posted = ask(peer, b'{"q": 1}', Authorization="Bearer k")
    assert (posted.status_code, posted.content, posted.headers["retry-after"]) == (429, b'{"a": 1}', "7")
    ((path, headers, body),) = peer.asked
    assert (path, body, headers["authorization"]) == ("/chat", b'{"q": 1}', "Bearer k")
    assert headers["content-type"] == "application/json"


def test_a_large_body_arrives_whole(peer: Peer) -> None:
    content = b"x" * (3 * 2**20)
    ask(peer, content)
    assert peer.asked[0][2] == content


@pytest.mark.parametrize("road", ["bodies", "acompletion"])
@pytest.mark.parametrize(
    ("content_type", "encoding", "text"),
    [
        ("application/json; charset=ISO-8859-1", "latin-1", "a caf\u00e9"),
        ("application/json; charset=ISO-8859-1", "utf-8", "a caf\u00e9"),
        ("application/json", "latin-1", "a caf\ufffd"),
        ("application/json; charset=no-such", "latin-1", "a caf\ufffd"),
    ],
)
def test_an_answer_that_is_not_utf_8_is_read(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, road: str, content_type: str, encoding: str, text: str
) -> None:
    if road == "acompletion":
        monkeypatch.setattr("tlac.lmms.litellm.open_wire_format", lambda *_: None)
    answer = {"message": {"role": "assistant", "content": "a caf\u00e9"}, "finish_reason": "stop", "index": 0}
    document = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [answer]}
    peer.headers = {"Content-Type": content_type}
    peer.pieces = [json.dumps(document, ensure_ascii=False).encode(encoding)]
    backend = Backend("cafe", "cafe.yaml", BackendSpec(adapter="litellm", model="openai/m", api_base=peer.url("/v1")))
    response = aio.run(LiteLLM(backend).ask(image_question(backend)))
    assert (response.outcome, response.text) == (Outcome.ANSWERED, text)


def test_a_redirect_is_not_followed(peer: Peer) -> None:
    peer.status, peer.headers = 307, {"Location": peer.url("/elsewhere")}
    assert ask(peer, Authorization="Bearer k").status_code == 307
    assert [path for path, _, _ in peer.asked] == ["/chat"]


def test_cookies_are_not_kept(peer: Peer) -> None:
    peer.headers = {"Set-Cookie": "who=you"}
    ask(peer)
    ask(peer)
    assert "cookie" not in peer.asked[1][1]


def test_an_answer_without_end_is_given_up(peer: Peer) -> None:
    peer.pieces = [b"x" * 2**20] * (MAX_RESPONSE_BYTES // 2**20 + 2)
    with pytest.raises(TransientError, match="more than"):
        ask(peer)


def test_an_answer_that_drips_is_given_up_in_time(peer: Peer) -> None:
    peer.pieces, peer.pause_s = [b"x"] * 200, 0.05
    with pytest.raises(asyncio.TimeoutError):
        ask(peer, timeout_s=0.3)


def test_an_answer_that_is_cut_is_none(peer: Peer) -> None:
    peer.cut_bytes = 5
    with pytest.raises(TransientError, match="not completed"):
        ask(peer)


def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(TransientError, match=rf"no connection to 127\.0\.0\.1:{port}"):
        aio.run(post(f"http://127.0.0.1:{port}/", {}, b"{}", 5.0))


def test_a_proxy_of_the_environment_is_used_but_for_the_hosts_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    transport._proxy.cache_clear()
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert transport._proxy(("https", "api.example")) == "http://proxy:3128"
    assert transport._proxy(("https", "inside.example")) is None
    transport._proxy.cache_clear()


def test_each_event_loop_has_a_session_that_ends_with_it(peer: Peer) -> None:
    async def twice() -> int:
        await post(peer.url(), {}, b"{}", 5.0)
        await post(peer.url(), {}, b"{}", 5.0)
        return len(transport._sessions)

    before = len(transport._sessions)
    assert asyncio.run(twice()) == before + 1
    assert len(transport._sessions) == before


def test_a_process_ends_without_a_word_about_its_connections(peer: Peer) -> None:
    script = (
        "from tlac.runtime import aio; from tlac.lmms.http import post; "
        f"print(aio.run(post({peer.url()!r}, {{}}, b'{{}}', 5.0)).status_code)"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("200\n", "")
