"""The emulator itself: its answers have the published shapes, and it refuses what a provider would."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic.types
import ollama
import openai.types.chat
import pytest
from google.genai import types as gemini
from pydantic import BaseModel

from tests.support.emulator import Asked, Emulator, Fault, Reply, random_faults, running_emulator, script_of
from tests.support.emulator.replies import default_script
from tests.support.emulator.tagger import choose

HI = {"role": "user", "content": "hi"}
PATHS = {
    "gemini": "/models/gemini-2.5-flash:generateContent",
    "openai": "/chat/completions",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
}
BODIES: dict[str, dict[str, Any]] = {
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    "openai": {"model": "gpt-4o", "messages": [HI]},
    "anthropic": {"model": "claude-haiku-4-5-20251001", "max_tokens": 9, "messages": [HI]},
    "ollama": {"model": "gemma3:4b", "stream": False, "messages": [HI]},
}
SHAPES: dict[str, type[BaseModel]] = {
    "gemini": gemini.GenerateContentResponse,
    "openai": openai.types.chat.ChatCompletion,
    "anthropic": anthropic.types.Message,
    "ollama": ollama.ChatResponse,
}
HEADERS = {
    "x-goog-api-key": "k",
    "Authorization": "Bearer k",
    "x-api-key": "k",
    "anthropic-version": "2023-06-01",
    "Content-Type": "application/json",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with running_emulator() as emulator:
        yield emulator


@pytest.fixture
def server(running: Emulator) -> Emulator:
    running.script = default_script
    return running


def post(emulator: Emulator, provider: str, body: Any, headers: dict[str, str] = HEADERS) -> tuple[int, Any]:
    url = emulator.base(provider) + PATHS[provider]
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("provider", SHAPES)
@pytest.mark.parametrize("kind", ["answer", "refusal", "blocked", "empty", "truncated", "thinking"])
def test_every_answer_has_the_providers_published_shape(server: Emulator, provider: str, kind: str) -> None:
    server.script = script_of(Reply("a dog", kind))  # type: ignore[arg-type]
    status, document = post(server, provider, BODIES[provider])
    assert status == 200
    SHAPES[provider].model_validate(document, strict=False)


@pytest.mark.parametrize("provider", SHAPES)
def test_an_unknown_key_is_refused_as_the_provider_would(server: Emulator, provider: str) -> None:
    status, document = post(server, provider, BODIES[provider] | {"temprature": 0})
    assert status == 400
    assert "temprature" in str(document["error"])


@pytest.mark.parametrize("provider", ["gemini", "openai", "anthropic"])
def test_a_request_without_a_key_is_refused(server: Emulator, provider: str) -> None:
    assert post(server, provider, BODIES[provider], {"anthropic-version": "2023-06-01"})[0] in (401, 403)


def image_body(provider: str, data: str, media_type: str) -> dict[str, Any]:
    if provider == "gemini":
        return {"contents": [{"parts": [{"inline_data": {"data": data, "mime_type": media_type}}]}]}
    if provider == "openai":
        part = {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        return BODIES["openai"] | {"messages": [{"role": "user", "content": [part]}]}
    block = {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    return BODIES["anthropic"] | {"messages": [{"role": "user", "content": [block]}]}


@pytest.mark.parametrize("provider", ["gemini", "openai", "anthropic"])
def test_an_image_must_be_what_it_says_it_is(server: Emulator, provider: str) -> None:
    assert post(server, provider, image_body(provider, "/9j/4AAQ", "image/jpeg"))[0] == 200
    assert post(server, provider, image_body(provider, "/9j/4AAQ", "image/png"))[0] == 400
    assert post(server, provider, image_body(provider, "/9j/4AAQ", "image/tiff"))[0] == 400


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": "many"}, {"messages": []}, {"messages": [{"role": "robot", "content": "hi"}]}, {"seed": "x"}],
)
def test_wrong_types_are_refused(server: Emulator, change: dict[str, Any]) -> None:
    assert post(server, "openai", BODIES["openai"] | change)[0] == 400


def test_anthropics_newer_models_take_no_temperature(server: Emulator) -> None:
    assert post(server, "anthropic", BODIES["anthropic"] | {"temperature": 0})[0] == 200
    assert post(server, "anthropic", BODIES["anthropic"] | {"temperature": 0, "model": "claude-opus-4-8"})[0] == 400


def test_a_status_comes_with_the_wish_to_wait_where_the_provider_puts_it(server: Emulator) -> None:
    server.script = script_of(Fault(status=429, retry_after="7"))
    assert post(server, "gemini", BODIES["gemini"])[1]["error"]["details"][0]["retryDelay"] == "7s"
    assert post(server, "anthropic", BODIES["anthropic"])[1]["error"]["type"] == "rate_limit_error"


def test_random_faults_come_at_their_rate_and_the_same_again() -> None:
    def draw() -> list[bool]:
        script = random_faults(script_of(Reply("a dog")), 0.1, (Fault(),), seed=3)
        return [isinstance(script(Asked("gemini", "m", "hi")), Fault) for _ in range(2000)]

    assert draw() == draw()
    assert 0.08 < sum(draw()) / 2000 < 0.12


@pytest.mark.parametrize(("words", "index"), [("an Old Car.", "1"), ("a boat", "0"), ("some car", "0")])
def test_the_tagger_script_chooses_the_class_that_an_answer_names(words: str, index: str) -> None:
    text = f"0: car\n1: old car\n2: red apple\n\nSomeone said: {words}"
    assert json.loads(choose(Asked("openai", "m", text, schema={"type": "object"}))) == {"class_index": index}


def test_it_can_be_started_by_hand() -> None:
    command = [sys.executable, "-m", "tests.support.emulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert "GEMINI_API_BASE=http://127.0.0.1:" in line
