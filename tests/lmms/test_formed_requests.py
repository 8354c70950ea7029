"""What each provider is sent by litellm's whole call: its credentials, the image, every parameter, nothing of ours."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.emulated import image_question
from tests.support.fakes import make_png
from tlac.config.schemas import Backend, BackendSpec, Limits
from tlac.errors import ConfigError, PermanentError, TlacError
from tlac.lmms.litellm import LiteLLM
from tlac.runtime import aio

PARAMS = {"temperature": 0, "max_tokens": 99}


@dataclass
class Seen:
    """A server that refuses everything, and remembers what it was sent."""

    port: int
    message: str = "no"
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        seen: Seen = self.server.seen  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}"
        seen.requests.append(
            (self.path, {name.lower(): value for name, value in self.headers.items()}, json.loads(body))
        )
        content = json.dumps({"error": {"message": seen.message, "type": "test"}}).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Not a word."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AZURE_API_KEY", "AZURE_AD_TOKEN", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.seen = Seen(server.server_port)  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.seen  # type: ignore[attr-defined]
        server.shutdown()


def backend(seen: Seen, model: str, path: str = "/v1", **settings: Any) -> Backend:
    settings = {"params": PARAMS, "api_base": seen.base + path, "limits": Limits(timeout_s=20.0)} | settings
    return Backend("mine", "mine.yaml", BackendSpec(adapter="litellm", model=model, **settings))


def ask(tried: Backend) -> TlacError:
    with pytest.raises(TlacError) as caught:
        aio.run(LiteLLM(tried).ask(image_question(tried, make_png(1, 32))))
    return caught.value


IMAGE = base64.b64encode(make_png(1, 32)).decode()
WITH_A_KEY = {
    "groq": "groq/meta-llama/llama-4-scout-17b-16e-instruct",
    "openrouter": "openrouter/openai/gpt-4o",
    "mistral": "mistral/pixtral-12b-2409",
    "xai": "xai/grok-2-vision",
    "together": "together_ai/Qwen/Qwen2.5-VL-72B-Instruct",
    "deepinfra": "deepinfra/meta-llama/Llama-3.2-11B-Vision-Instruct",
    "fireworks": "fireworks_ai/accounts/fireworks/models/qwen2p5-vl-32b-instruct",
    "huggingface": "huggingface/Qwen/Qwen2.5-VL-7B-Instruct",
    "moonshot": "moonshot/moonshot-v1-8k-vision-preview",
}


@pytest.mark.parametrize("provider", WITH_A_KEY)
def test_a_provider_with_a_key_is_sent_it_with_the_image_and_every_parameter(
    seen: Seen, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_PROVIDERS_KEY", "key-of-this-provider")
    ask(backend(seen, WITH_A_KEY[provider], api_key_env="MY_PROVIDERS_KEY"))
    ((path, headers, body),) = seen.requests
    assert path.endswith("/chat/completions")
    assert headers["authorization"] == "Bearer key-of-this-provider"
    assert IMAGE in json.dumps(body)
    assert {name: body[name] for name in PARAMS} == PARAMS
    # neither ours nor litellm's own settings
    assert not {"max_retries", "num_retries", "timeout", "shared_session"} & set(body)


@pytest.mark.parametrize("provider", ["groq", "openrouter", "mistral"])
def test_a_strangers_key_is_not_sent_to_a_given_address(
    seen: Seen, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "meant-for-the-provider-itself")
    ask(backend(seen, WITH_A_KEY[provider]))
    assert seen.requests[0][1]["authorization"] == "Bearer none"


def test_azure_is_sent_its_key(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PROVIDERS_KEY", "key-of-this-provider")
    monkeypatch.setenv("AZURE_API_VERSION", "2024-10-21")
    ask(backend(seen, "azure/gpt-4o", "", api_key_env="MY_PROVIDERS_KEY"))
    ((path, headers, body),) = seen.requests
    assert path.startswith("/openai/deployments/gpt-4o/chat/completions")
    assert headers["api-key"] == "key-of-this-provider"
    assert IMAGE in json.dumps(body)
    assert {name: body[name] for name in PARAMS} == PARAMS


def test_azure_with_a_token_of_its_directory_is_sent_no_placeholder(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_AD_TOKEN", "token-of-the-directory")
    monkeypatch.setenv("AZURE_API_VERSION", "2024-10-21")
    ask(backend(seen, "azure/gpt-4o", ""))
    ((_, headers, _),) = seen.requests
    assert headers["authorization"] == "Bearer token-of-the-directory"
    assert "api-key" not in headers


BEDROCK = "bedrock/anthropic.claude-3-haiku-20240307-v1:0"


def test_bedrock_is_asked_with_a_signature_of_the_credentials_in_the_environment(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTEDPLANTED00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-access-key")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    ask(backend(seen, BEDROCK, ""))
    ((_, headers, body),) = seen.requests
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAPLANTEDPLANTED00/")
    assert IMAGE in json.dumps(body)
    assert body["inferenceConfig"] == {"temperature": 0, "maxTokens": 99}


def test_bedrock_with_a_bearer_token_in_the_environment_is_sent_that(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bearer-token-of-bedrock")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    ask(backend(seen, BEDROCK, ""))
    assert seen.requests[0][1]["authorization"] == "Bearer bearer-token-of-bedrock"


def test_vertex_is_asked_with_a_token_of_google_and_no_placeholder(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    async def token(*_: object, **__: object) -> tuple[str, str]:
        return "token-of-google", "my-project"

    monkeypatch.setattr(
        "litellm.llms.vertex_ai.vertex_llm_base.VertexBase._ensure_access_token_async", token, raising=True
    )
    monkeypatch.setenv("VERTEXAI_PROJECT", "my-project")
    monkeypatch.setenv("VERTEXAI_LOCATION", "us-central1")
    ask(backend(seen, "vertex_ai/gemini-2.5-flash", ""))
    ((_, headers, body),) = seen.requests
    assert headers["authorization"] == "Bearer token-of-google"
    assert IMAGE in json.dumps(body)
    assert body["generationConfig"]["temperature"] == 0


def test_credentials_that_are_not_there_end_the_run_before_anybody_is_asked(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION_NAME", "us-east-1")
    error = ask(backend(seen, BEDROCK, ""))
    assert isinstance(error, PermanentError)
    assert "credentials" in str(error)
    assert seen.requests == []


def test_a_model_without_a_provider_is_the_files_fault(seen: Seen) -> None:
    error = ask(backend(seen, "qwen2.5-vl"))
    assert isinstance(error, ConfigError)
    assert "PROVIDER/MODEL" in str(error)
    assert seen.requests == []


def test_a_provider_that_litellm_can_not_show_images_to_is_said_at_once(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_PROVIDERS_KEY", "key-of-this-provider")
    error = ask(backend(seen, "replicate/meta/llava", api_key_env="MY_PROVIDERS_KEY"))
    assert isinstance(error, PermanentError)
    assert "nothing could be sent" in str(error)


def test_a_parameter_that_is_dropped_in_silence_is_the_files_fault(seen: Seen) -> None:
    error = ask(backend(seen, "moonshot/kimi-k2.5"))
    assert isinstance(error, ConfigError)
    assert "'temperature'" in str(error)
    assert seen.requests == []


def test_a_password_in_an_address_is_refused_by_name(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVERS_BASE", "http://someone:pass-word@127.0.0.1/v1")
    with pytest.raises(ConfigError, match=r"^MY_SERVERS_BASE: the address holds a user") as caught:
        LiteLLM(backend(seen, "openai/x", api_base_env="MY_SERVERS_BASE"))
    assert "pass-word" not in str(caught.value)


def test_a_key_under_an_unusual_name_is_masked_where_a_server_repeats_it(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_TICKET", "ticket-of-this-provider")
    seen.message = "ticket-of-this-provider is not allowed"
    for model in ("groq/x", "openai/x"):
        error = ask(backend(seen, model, api_key_env="PROVIDER_TICKET"))
        assert "[secret] is not allowed" in str(error)


def test_a_key_with_a_line_break_is_named_by_its_variable(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PROVIDERS_KEY", "first-half\nsecond-half")
    with pytest.raises(ConfigError, match="MY_PROVIDERS_KEY has a line break"):
        LiteLLM(backend(seen, "groq/x", api_key_env="MY_PROVIDERS_KEY"))
