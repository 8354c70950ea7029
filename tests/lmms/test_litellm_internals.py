"""Which internals of litellm are used, all of them; and that the fall-back road, its whole call, needs none of them."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import tlac
from tests.support.emulated import backend_at, choice_question, image_question
from tests.support.emulator import Emulator, Fault, Reply, script_of
from tlac.errors import RateLimitError
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.litellm_requests import INTERNALS, open_wire_format
from tlac.runtime import aio
from tlac.types import Outcome

pytestmark = pytest.mark.usefixtures("keys")

# these are done without where they are missing: the certificates are the system's, the headers those of litellm's wheel
OPTIONAL = {
    ("litellm.llms.custom_httpx.http_handler", "get_ssl_configuration"),
    ("litellm.anthropic_beta_headers_manager", "*"),
}


def test_no_other_module_of_litellm_is_imported_anywhere() -> None:
    found = set()
    for file in Path(tlac.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("litellm."):
                found |= {(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                name = node.args[0]
                if isinstance(name, ast.Constant) and str(name.value).startswith("litellm."):
                    found.add((name.value, "*"))
    assert found == OPTIONAL


@pytest.mark.parametrize("name", INTERNALS)
def test_without_an_internal_the_whole_call_asks_and_understands_errors(
    server: Emulator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backends = [backend_at(server, provider) for provider in ("gemini", "gpt-4o", "claude", "ollama")]
    assert all(open_wire_format(backend, "k", backend.spec.api_base) for backend in backends)
    # as in a litellm that has moved it: litellm's own modules know it still
    monkeypatch.setitem(INTERNALS, name, "litellm.of_a_later_version")
    assert not any(open_wire_format(backend, "k", backend.spec.api_base) for backend in backends)
    for backend in backends:
        lmm = LiteLLM(backend)
        server.script = script_of(Reply("a dog"), Reply('{"class_index": "1"}'), Fault(status=429, retry_after="7"))
        first = aio.run(lmm.ask(image_question(backend)))
        assert (first.outcome, first.text) == (Outcome.ANSWERED, "a dog")
        assert aio.run(lmm.ask(choice_question(backend))).text == '{"class_index": "1"}'
        with pytest.raises(RateLimitError) as caught:
            aio.run(lmm.ask(image_question(backend)))
        assert caught.value.retry_after_s == 7.0


def test_every_internal_is_where_it_is_said_to_be() -> None:
    for name, module in INTERNALS.items():
        assert hasattr(importlib.import_module(module), name)
