from __future__ import annotations

import asyncio
import gzip
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tlac.runtime.litellm_setup import litellm_call, load_litellm

CODE = """
import logging, os, socket, sys

def refuse(*args):
    raise AssertionError(f"the import tried to reach {args}")

socket.getaddrinfo = refuse
from tlac.runtime.litellm_setup import load_litellm
os.environ["LITELLM_MODE"] = "DEV"
before = dict(os.environ)
assert "litellm" not in sys.modules
litellm = load_litellm()
assert load_litellm() is litellm
print(litellm.telemetry, litellm.suppress_debug_info, litellm.num_retries, litellm.DEFAULT_MAX_RETRIES)
print(os.environ.get("FROM_DOTENV"), os.environ == before)
from litellm.anthropic_beta_headers_manager import get_provider_name
get_provider_name("anthropic")
print(logging.getLogger("LiteLLM").getEffectiveLevel())
"""


def test_what_litellm_logs_in_our_calls_is_dropped_but_for_debugging(caplog, capfd):
    load_litellm()
    log = logging.getLogger("LiteLLM")
    with litellm_call():
        log.error("of our call")
    log.error("of somebody else's call")
    caplog.set_level(logging.DEBUG, "tlac")
    with litellm_call():
        log.error("with --debug")
    assert [record.getMessage() for record in caplog.records] == ["of somebody else's call", "with --debug"]
    # litellm's own handler has the one that is not ours
    shown = capfd.readouterr()
    assert ("of somebody else's call" in shown.out + shown.err, "with --debug" in shown.out + shown.err) == (
        True,
        False,
    )


TWO_THREADS = """
import os, threading
from tlac.runtime.litellm_setup import load_litellm
before = dict(os.environ)
threads = [threading.Thread(target=load_litellm) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(dict(os.environ) == before)
"""


def test_threads_that_load_it_at_once_leave_no_setting_behind():
    done = subprocess.run([sys.executable, "-c", TWO_THREADS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


class _Large(BaseHTTPRequestHandler):
    """Answers with a million zeros, packed to a thousand bytes."""

    def do_POST(self):
        content = gzip.compress(bytes(1_000_000))
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Not a word."""


@pytest.fixture
def address():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Large) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def post(address):
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.post(address)).content


def test_an_answer_in_a_call_of_ours_is_as_long_as_it_may_be_and_noted(address):
    load_litellm()
    with litellm_call(1_000_000, lambda content: content[:3]) as call:
        assert asyncio.run(post(address)) == bytes(3)
    assert (call.hosts, call.status, call.answer) == (["127.0.0.1"], 200, bytes(1_000_000))
    with litellm_call(999_999) as call, pytest.raises(ValueError, match="more than 999,999 bytes"):
        asyncio.run(post(address))
    assert asyncio.run(post(address)) == bytes(1_000_000)
    assert (call.hosts, call.answer) == (["127.0.0.1"], b"")


def test_litellm_is_imported_without_network_dotenv_or_output(tmp_path):
    (tmp_path / ".env").write_text("FROM_DOTENV=read\n")
    # of no level of logging's, which litellm would end over
    environment = {**os.environ, "LITELLM_LOG": "chatty"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.stderr == ""
    assert done.stdout == "False True 0 0\nNone True\n30\n"
