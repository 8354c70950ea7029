from __future__ import annotations

import logging
import subprocess
import sys

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


def test_what_litellm_logs_in_our_calls_is_dropped_but_for_debugging(caplog):
    load_litellm()
    log = logging.getLogger("LiteLLM")
    with litellm_call():
        log.error("of our call")
    log.error("of somebody else's call")
    caplog.set_level(logging.DEBUG, "tlac")
    with litellm_call():
        log.error("with --debug")
    assert [record.getMessage() for record in caplog.records] == ["of somebody else's call", "with --debug"]


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


def test_litellm_is_imported_without_network_dotenv_or_output(tmp_path):
    (tmp_path / ".env").write_text("FROM_DOTENV=read\n")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "False True 0 0\nNone True\n30\n"
