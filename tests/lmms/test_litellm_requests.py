"""Bodies and responses formed without a call equal those of litellm's acompletion, feature by feature."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from msgspec import structs

from tests.support.emulated import CLASSES, KEYS, PROVIDERS, backend_at, choice_question, image_question
from tests.support.emulator import Emulator, Reply, anthropic, gemini, ollama, openai, script_of
from tests.support.fakes import make_png
from tlac.config.schemas import Backend, Prices, load_backend
from tlac.errors import ConfigError
from tlac.lmms.litellm_requests import (
    WireFormat,
    call_arguments,
    choice_arguments,
    context_tokens,
    register_model,
    wire_messages,
)
from tlac.lmms.litellm_responses import read_response
from tlac.lmms.prices import prices_of
from tlac.runtime import aio
from tlac.runtime.litellm_setup import load_litellm
from tlac.types import ChoiceTask, Image, LMMRequest, LMMResponse, Message, TextPart

pytestmark = pytest.mark.usefixtures("keys")

SHAPES = {"gemini": gemini, "openai": openai, "anthropic": anthropic, "ollama": ollama}
BACKENDS = {**PROVIDERS, "vllm": "openai", "openai-compatible": "openai"}


def at(emulator: Emulator, name: str, **changes: Any) -> Backend:
    backend = load_backend(name)
    spec = msgspec.structs.replace(backend.spec, api_base=emulator.base(BACKENDS[name]), **changes)
    return replace(backend, spec=spec)


def complete(backend: Backend, request: LMMRequest) -> LMMResponse:
    """The answer by acompletion."""
    litellm = load_litellm()
    register_model(request.model)
    arguments = call_arguments(request) | {
        "model": request.model,
        "messages": wire_messages(request),
        "api_key": KEYS.get(backend.spec.api_key_env or "", "none"),
        "api_base": backend.spec.api_base,
        "max_retries": 0,
    }
    return read_response(aio.run(litellm.acompletion(**arguments)), prices_of(backend.spec))


def relook(backend: Backend) -> LMMRequest:
    """A question with an image and a shortlist."""
    task = ChoiceTask("an ancient car", CLASSES, backend.spec.choice_by_index, candidates=(0, 2))
    return replace(image_question(backend, make_png(7, 40)), stage="stage2", choice=task)


def in_schema(backend: Backend) -> LMMRequest:
    """A question whose answer a schema holds to the names that are listed."""
    task = ChoiceTask("an ancient car", CLASSES, candidates=(0, 2), by_schema=True)
    return replace(choice_question(backend), choice=task)


QUESTIONS = {
    "image": image_question,
    "choice": choice_question,
    "many classes": lambda backend: choice_question(backend, tuple(f"class {n}" for n in range(1200))),
    "relook": relook,
    "names in a schema": in_schema,
    "accents": lambda backend: choice_question(backend, ("café “crème”", "naïve\nline", "☃ 😀")),
}


def test_a_schema_holds_the_listed_names() -> None:
    task = ChoiceTask("an ancient car", ("red car", "lorry", "old car"), candidates=(2, 0), by_schema=True)
    expected = {
        "type": "object",
        "properties": {"class_name": {"type": "string", "enum": ["old car", "red car"]}},
        "required": ["class_name"],
        "additionalProperties": False,
    }
    assert choice_arguments("openai/m", task)["response_format"]["json_schema"]["schema"] == expected
    assert choice_arguments("anthropic/m", task)["output_config"]["format"]["schema"] == expected


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_body_is_the_one_that_acompletion_sends(emulator: Emulator, name: str, question: str) -> None:
    backend = at(emulator, name)
    request = QUESTIONS[question](backend)
    complete(backend, request)
    bodies = WireFormat(backend, api_base=backend.spec.api_base)
    # the second comes from what was remembered
    for _ in range(2):
        wire = bodies.form(request, wire_messages(request))
        assert json.loads(wire.encode()) == emulator.asked[-1].body


PARAMS = {
    "gemini": {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop": ["."], "reasoning_effort": "low", "max_tokens": 9},
    "gpt-4o": {"top_p": 0.9, "stop": ["."], "max_completion_tokens": 9, "frequency_penalty": 0.1, "user": "x"},
    "claude": {"top_k": 3, "stop": ["."], "max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    "ollama": {"top_p": 0.9, "stop": ["."], "max_tokens": 9, "num_ctx": 4096, "top_k": 3},
    "vllm": {"top_p": 0.9, "max_tokens": 9, "presence_penalty": 0.2},
}


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_sent_as_acompletion_sends_them(emulator: Emulator, name: str) -> None:
    backend = at(emulator, name, params=PARAMS[name])
    request = image_question(backend)
    complete(backend, request)
    assert WireFormat(backend).form(request, wire_messages(request)).body == emulator.asked[-1].body


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "reply",
    [
        Reply("a dog"),
        Reply("a dog", cached_tokens=40),
        Reply("I can't.", kind="refusal"),
        Reply(kind="blocked"),
        Reply(kind="empty"),
        Reply("  \n"),
        Reply("a dog wi", kind="truncated"),
        Reply("a dog", kind="thinking"),
        Reply('{"class_index": "1"}'),
        Reply("<think>a cat?</think>a dog 😀"),
    ],
    ids=lambda reply: f"{reply.kind} {reply.text}",
)
@pytest.mark.parametrize("prices", [None, Prices(prompt=1.0, completion=2.0)], ids=["table", "file"])
def test_the_response_is_the_one_that_acompletion_gives(
    emulator: Emulator, name: str, reply: Reply, prices: Prices | None
) -> None:
    if name == "ollama" and reply.kind in ("refusal", "blocked"):
        pytest.skip("Ollama's format has no shape for these")
    emulator.script = script_of(reply)
    backend = at(emulator, name, prices=prices)
    request = image_question(backend)
    expected = complete(backend, request)
    content = json.dumps(SHAPES[BACKENDS[name]].shape(emulator.asked[-1], reply)).encode()
    bodies = WireFormat(backend)
    response = bodies.read(content)
    assert bodies.read(content) == response
    # the reason for an end is the provider's own word here, and litellm's there
    assert structs.replace(response, reason="") == structs.replace(expected, reason="")
    assert bool(response.reason) == bool(expected.reason)


def test_a_provider_that_needs_more_than_a_body_is_not_formed_here() -> None:
    backend = load_backend("gpt-4o")
    spec = msgspec.structs.replace(backend.spec, model="bedrock/amazon.nova-lite-v1:0")
    with pytest.raises(ConfigError, match="bedrock"):
        WireFormat(replace(backend, spec=spec))


def test_without_an_address_the_providers_own_is_asked() -> None:
    def url(name: str) -> str:
        backend = load_backend(name)
        request = choice_question(backend)
        return WireFormat(backend).form(request, wire_messages(request)).url

    assert {name: url(name) for name in PROVIDERS} == {
        "gemini": "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        "gpt-4o": "https://api.openai.com/v1/chat/completions",
        "claude": "https://api.anthropic.com/v1/messages",
        "ollama": "http://localhost:11434/api/chat",
    }


def test_no_repr_holds_the_key(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o")
    request = choice_question(backend)
    wire = WireFormat(backend, KEYS["OPENAI_API_KEY"]).form(request, wire_messages(request))
    assert KEYS["OPENAI_API_KEY"] in str(dict(wire.headers))
    assert KEYS["OPENAI_API_KEY"] not in repr(wire)


def ollama_question(text_bytes: int, images: int = 0, **params: Any) -> LMMRequest:
    parts = (TextPart("x" * text_bytes), *(Image(f"{number:064x}", b"") for number in range(images)))
    return LMMRequest("stage1", "ollama_chat/m", (Message("user", parts),), params)


@pytest.mark.parametrize(
    ("request_", "tokens", "num_ctx"),
    [
        # three bytes a token
        (ollama_question(3 * 4096 + 2), 4096, None),
        (ollama_question(3 * 4097), 4097, 8192),
        (ollama_question(3 * 8192), 8192, 8192),
        (ollama_question(3 * 8193), 8193, 16384),
        # 1,024 for each image, and the answer
        (ollama_question(0, images=4), 4096, None),
        (ollama_question(0, images=4, max_tokens=1), 4097, 8192),
        (ollama_question(0, images=4, num_predict=5000), 9096, 16384),
        (ollama_question(0, max_tokens=5000, num_predict=1), 5000, 8192),
        (ollama_question(99_999, num_ctx=100), 33_333, 100),
    ],
)
def test_ollama_is_given_the_next_power_of_two_that_holds_a_question(
    request_: LMMRequest, tokens: int, num_ctx: int | None
) -> None:
    assert context_tokens(request_) == tokens
    assert call_arguments(request_).get("num_ctx") == num_ctx
    # no other provider is told
    told = call_arguments(replace(request_, model="openai/m", params={}))
    assert "num_ctx" not in told


@pytest.mark.parametrize(("classes", "is_listed"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("model", ["openai/m", "anthropic/m"])
def test_a_choice_lists_a_thousand_indices_and_no_more(model: str, classes: int, is_listed: bool) -> None:
    task = ChoiceTask("a", tuple(f"class {number}" for number in range(classes)), by_index=True)
    (told,) = choice_arguments(model, task).values()
    form = told["format"] if model.startswith("anthropic") else told["json_schema"]
    schema = form["schema"]
    assert schema["required"] == ["class_index"]
    assert schema["additionalProperties"] is False
    expected = {"type": "string", "enum": [str(number) for number in range(classes)]}
    assert schema["properties"]["class_index"] == (expected if is_listed else {"type": "string"})


def test_a_choice_among_some_classes_lists_their_own_indices() -> None:
    task = ChoiceTask("a", ("x", "y", "z"), by_index=True, candidates=(2, 0))
    schema = choice_arguments("openai/m", task)["response_format"]["json_schema"]["schema"]
    assert sorted(schema["properties"]["class_index"]["enum"]) == ["0", "2"]
    assert choice_arguments("openai/m", task)["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("model", "is_marked"),
    [("anthropic/claude-x", True), ("openrouter/anthropic/claude-x", True), ("openai/gpt-4o", False)],
)
def test_a_prefix_is_marked_for_claude_alone_and_nothing_else_is(model: str, is_marked: bool) -> None:
    parts = (TextPart("the classes", is_prefix=True), TextPart("which?"))
    request = LMMRequest("stage2", model, (Message("system", parts[1:]), Message("user", parts)), {})
    system, user = wire_messages(request)
    marked = {"type": "text", "text": "the classes", "cache_control": {"type": "ephemeral"}}
    plain = {"type": "text", "text": "the classes"}
    assert user == {
        "role": "user",
        "content": [marked if is_marked else plain, {"type": "text", "text": "which?"}],
    }
    # one text alone is a text
    assert system == {"role": "system", "content": "which?"}
    alone = LMMRequest("stage2", model, (Message("user", parts[:1]),), {})
    assert wire_messages(alone)[0]["content"] == ([marked] if is_marked else "the classes")
