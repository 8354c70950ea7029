"""The litellm adapter on the wire: what each provider is sent, and what is made of its answers."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import PIL.Image
import pytest
from msgspec import structs

from tests.support.emulated import KEYS, PROVIDERS, backend_at, choice_question, image_question
from tests.support.emulator import Asked, Emulator, Fault, Reply, script_of
from tests.support.fakes import make_png
from tlac.config.schemas import Backend, BackendSpec, Prices, load_backend
from tlac.errors import ConfigError, PermanentError, RateLimitError, SampleError, TransientError
from tlac.images import identify
from tlac.lmms.litellm import LiteLLM
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse, Outcome, Usage

pytestmark = pytest.mark.usefixtures("keys")

LOCAL = ("ollama", "vllm", "openai-compatible")


def ask(backend: Backend, request: LMMRequest) -> LMMResponse:
    return aio.run(LiteLLM(backend).ask(request))


def sent(emulator: Emulator, backend: Backend, request: LMMRequest) -> Asked:
    response = ask(backend, request)
    assert emulator.refused == []
    assert response.outcome is Outcome.ANSWERED
    return emulator.asked[-1]


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_shipped_backend_sends_both_stages_as_its_provider_wants_them(emulator: Emulator, name: str) -> None:
    backend = backend_at(emulator, name)
    content = make_png(5, 32)
    first = sent(emulator, backend, image_question(backend, content))
    assert first.images == (content,)
    assert "In one short sentence" in first.text
    assert first.key == KEYS.get(backend.spec.api_key_env or "", "none")
    emulator.script = script_of(Reply('{"class_index": "1"}'))
    second = sent(emulator, backend, choice_question(backend))
    assert second.images == ()
    assert second.class_indices == ("0", "1", "2")
    assert second.text.index("1: old car") < second.text.index("an ancient car")


def test_gemini_is_asked_without_thinking_at_temperature_0(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gemini")
    config = sent(emulator, backend, image_question(backend)).body["generationConfig"]
    assert (config["temperature"], config["seed"], config["max_output_tokens"]) == (0, 0, 256)
    assert config["thinkingConfig"]["thinkingBudget"] == 0


def test_gpt_4o_is_asked_at_temperature_0_with_a_seed(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o")
    body = sent(emulator, backend, image_question(backend)).body
    assert {key: body[key] for key in ("model", "temperature", "seed", "max_tokens")} == {
        "model": "gpt-4o-2024-11-20",
        "temperature": 0,
        "seed": 0,
        "max_tokens": 256,
    }


def test_claude_caches_the_class_list_and_thinks_no_longer_than_told(emulator: Emulator) -> None:
    backend = backend_at(emulator, "claude")
    body = sent(emulator, backend, choice_question(backend)).body
    listing, question = body["messages"][0]["content"]
    assert listing["cache_control"] == {"type": "ephemeral"}
    assert "2: red apple" in listing["text"]
    assert "cache_control" not in question
    assert (body["temperature"], body["max_tokens"]) == (0, 256)
    assert "thinking" not in body
    assert body["output_config"]["format"]["type"] == "json_schema"


def test_no_other_provider_is_sent_cache_control(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o")
    assert "cache_control" not in str(sent(emulator, backend, choice_question(backend)).body)


def test_ollama_is_asked_at_its_own_address_alone(emulator: Emulator) -> None:
    backend = backend_at(emulator, "ollama")
    body = sent(emulator, backend, image_question(backend)).body
    assert body["options"] == {"temperature": 0, "seed": 0, "num_predict": 256}
    assert len(emulator.asked) == 1


def test_ollama_is_given_a_context_that_holds_a_long_class_list(emulator: Emulator) -> None:
    backend = backend_at(emulator, "ollama")
    thousand = tuple(f"class of things number {number}" for number in range(1000))
    lmm = LiteLLM(backend)
    for classes, num_ctx in ((thousand, 16384), (thousand[:3], None), (thousand, 16384)):
        aio.run(lmm.ask(choice_question(backend, classes)))
        assert emulator.asked[-1].body["options"].get("num_ctx") == num_ctx


def test_a_context_that_may_be_too_short_is_warned_of_once(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backend_at(emulator, "ollama", params={"temperature": 0, "num_ctx": 2048})
    lmm = LiteLLM(backend)
    for _ in range(2):
        aio.run(lmm.ask(choice_question(backend, tuple(f"class of things number {n}" for n in range(1000)))))
    warned = [record.getMessage() for record in caplog.records if record.name == "tlac.lmms.litellm"]
    assert len(warned) == 1
    assert "may pass num_ctx (2048)" in warned[0]


def test_a_long_class_list_is_asked_without_an_enum(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o")
    thousand = tuple(f"class {number}" for number in range(1000))
    assert len(sent(emulator, backend, choice_question(backend, thousand)).class_indices) == 1000
    asked = sent(emulator, backend, choice_question(backend, (*thousand, "one more")))
    assert asked.schema is not None
    assert asked.class_indices == ()


def test_a_backend_without_choice_by_index_is_asked_in_words(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gemini", choice_by_index=False)
    asked = sent(emulator, backend, choice_question(backend))
    assert asked.schema is None
    assert "0: red car" not in asked.text


def test_an_image_that_does_not_fit_is_prepared_as_the_file_says(emulator: Emulator) -> None:
    picture = io.BytesIO()
    PIL.Image.new("RGB", (3000, 1000), "red").save(picture, "BMP")
    backend = backend_at(emulator, "ollama")
    (image,) = sent(emulator, backend, image_question(backend, picture.getvalue())).images
    assert PIL.Image.open(io.BytesIO(image)).size == (896, 299)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gemini", Usage(292, 1, 40, 258)),
        ("gpt-4o", Usage(292, 1, 40, 0)),
        ("claude", Usage(292, 1, 40, 0)),
        ("ollama", Usage(292, 1, 0, 0)),
    ],
)
def test_tokens_are_counted_as_the_provider_counts_them(emulator: Emulator, name: str, expected: Usage) -> None:
    emulator.script = script_of(Reply("a dog", cached_tokens=40))
    backend = backend_at(emulator, name)
    usage = ask(backend, image_question(backend)).usage
    words = len(emulator.asked[0].text) // 4 + 1
    assert usage == structs.replace(expected, prompt=words + 258)


def test_a_response_tells_model_cost_and_times(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o")
    response = ask(backend, image_question(backend))
    assert response.model_version == "gpt-4o-2024-11-20"
    # litellm's table: 2.5 and 10 USD a million tokens
    assert response.cost_usd == pytest.approx((response.usage.prompt * 2.5 + response.usage.completion * 10) / 1e6)
    assert 0 < response.latency_s < 20
    assert response.created_at.endswith("+00:00")


def test_prices_in_the_file_go_before_litellms_table(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o", prices=Prices(prompt=1000.0, completion=0.0))
    response = ask(backend, image_question(backend))
    assert response.cost_usd == pytest.approx(response.usage.prompt / 1000)


@pytest.mark.parametrize("name", ["gemini", "gpt-4o", "claude"])
@pytest.mark.parametrize(
    ("reply", "outcome", "text"),
    [
        (Reply(kind="refusal"), Outcome.REFUSED, ""),
        (Reply(kind="blocked"), Outcome.REFUSED, ""),
        (Reply(kind="empty"), Outcome.EMPTY, ""),
        (Reply("  \n"), Outcome.EMPTY, ""),
        (Reply("a dog wi", kind="truncated"), Outcome.TRUNCATED, "a dog wi"),
        (Reply("a dog", kind="thinking"), Outcome.ANSWERED, "a dog"),
    ],
    ids=["refusal", "blocked", "empty", "blank", "truncated", "thinking"],
)
def test_every_kind_of_answer_has_its_outcome(
    emulator: Emulator, name: str, reply: Reply, outcome: Outcome, text: str
) -> None:
    emulator.script = script_of(reply)
    backend = backend_at(emulator, name)
    response = ask(backend, image_question(backend))
    assert (response.outcome, response.text) == (outcome, text)
    assert bool(response.reason) == (outcome is not Outcome.ANSWERED)


def test_an_openai_refusal_keeps_its_words(emulator: Emulator) -> None:
    emulator.script = script_of(Reply("I can't say who that is.", kind="refusal"))
    backend = backend_at(emulator, "gpt-4o")
    assert ask(backend, image_question(backend)).reason == "I can't say who that is."


def test_a_content_policy_error_is_a_refusal(emulator: Emulator) -> None:
    emulator.script = script_of(Fault(status=400, message="content_policy_violation: unsafe image"))
    backend = backend_at(emulator, "gpt-4o")
    response = ask(backend, image_question(backend))
    assert response.outcome is Outcome.REFUSED
    assert "unsafe image" in response.reason


@pytest.mark.parametrize(("name", "variable"), [("gemini", "GEMINI"), ("gpt-4o", "OPENAI"), ("claude", "ANTHROPIC")])
def test_a_missing_key_is_named_with_a_way_out(name: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"{variable}_API_KEY")
    with pytest.raises(ConfigError) as caught:
        LiteLLM(load_backend(name))
    assert f"{variable}_API_KEY" in str(caught.value)
    assert "--backend embedded" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_opening_a_backend_does_not_import_litellm() -> None:
    script = (
        "import sys; from tlac.config.schemas import load_backend; from tlac.config.registry import open_lmm; "
        "open_lmm(load_backend('ollama')); print('litellm' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
    )


@pytest.mark.parametrize("name", LOCAL)
def test_a_server_of_ones_own_needs_no_key_and_is_sent_no_other_providers(
    emulator: Emulator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "meant-for-another-server")
    backend = load_backend(name)
    format_ = "ollama" if name == "ollama" else "openai"
    monkeypatch.setenv(backend.spec.api_base_env or "", emulator.base(format_))
    assert sent(emulator, backend, image_question(backend)).key in ("none", "")


def test_an_address_in_the_environment_goes_before_the_files(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_BASE", emulator.base("openai") + "/")
    monkeypatch.setenv("VLLM_API_KEY", "key-of-my-server")
    backend = load_backend("vllm")
    assert sent(emulator, backend, image_question(backend)).key == "key-of-my-server"


def test_a_parameter_that_the_provider_would_refuse_is_the_files_fault(emulator: Emulator) -> None:
    backend = backend_at(emulator, "claude", params={"temperature": 0, "seed": 1})
    with pytest.raises(ConfigError, match=r"claude\.yaml: parameter 'seed' is refused"):
        ask(backend, image_question(backend))
    assert emulator.asked == []


def test_a_parameter_that_would_be_dropped_in_silence_is_the_files_fault(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gemini", params={"temperature": 0, "detail": "low"})
    with pytest.raises(ConfigError, match=r"gemini\.yaml: parameter 'detail'"):
        ask(backend, image_question(backend))
    assert emulator.asked == []


@pytest.mark.parametrize("key", ["api_key", "drop_params", "timeout", "response_format"])
def test_what_tlac_sets_itself_can_not_be_set_as_a_parameter(key: str) -> None:
    spec = msgspec.structs.replace(load_backend("ollama").spec, stage2_params={key: "x"})
    with pytest.raises(ConfigError, match=f"mine.yaml: stage2_params.{key}"):
        LiteLLM(Backend("mine", "mine.yaml", spec))


def test_an_unknown_option_is_refused_by_name() -> None:
    spec = BackendSpec(adapter="litellm", model="ollama_chat/x", options={"key_optinal": True})
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown key 'key_optinal' in 'options': known: key_optional"):
        LiteLLM(Backend("mine", "mine.yaml", spec))


def test_a_broken_image_concerns_its_sample_alone_and_is_not_sent(emulator: Emulator, tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    picture = io.BytesIO()
    PIL.Image.effect_noise((200, 200), 50).save(picture, "JPEG")
    file.write_bytes(picture.getvalue()[:3000])
    backend = backend_at(emulator, "gemini")
    request = image_question(backend)
    image = identify(file, file.name)
    message = replace(request.messages[0], parts=(image, *request.messages[0].parts[1:]))
    with pytest.raises(SampleError, match=r"^image [0-9a-f]{12}: .*broken or cut short"):
        ask(backend, replace(request, messages=(message,)))
    assert emulator.asked == []


NAMES = tuple(PROVIDERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=400), SampleError),
        (Fault(status=401), PermanentError),
        (Fault(status=403), PermanentError),
        (Fault(status=404), PermanentError),
        (Fault(status=408), TransientError),
        (Fault(status=413), SampleError),
        (Fault(status=500), TransientError),
        (Fault(status=503), TransientError),
        (Fault(status=529), TransientError),
        (Fault("dropped"), TransientError),
        (Fault("malformed"), TransientError),
        (Fault("error_inside"), TransientError),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else None,
)
def test_every_fault_has_its_kind_of_error(emulator: Emulator, name: str, fault: Fault, kind: type[Exception]) -> None:
    emulator.script = script_of(replace(fault, message="sorry, {key} can't do that"))
    backend = backend_at(emulator, name)
    with pytest.raises(kind) as caught:
        ask(backend, image_question(backend))
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{name}: ")
    assert not any(key in str(caught.value) for key in KEYS.values())
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    # one call is one call: litellm and its clients have retries of their own
    assert len(emulator.asked) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wait", [None, "7"])
def test_a_wish_to_wait_is_understood(emulator: Emulator, name: str, wait: str | None) -> None:
    emulator.script = script_of(Fault(status=429, retry_after=wait))
    backend = backend_at(emulator, name)
    with pytest.raises(RateLimitError) as caught:
        ask(backend, image_question(backend))
    assert caught.value.retry_after_s == (7.0 if wait else None)


def test_an_account_without_credit_is_not_asked_again(emulator: Emulator) -> None:
    emulator.script = script_of(Fault(status=429, message="You exceeded your current quota, check your plan"))
    backend = backend_at(emulator, "gpt-4o")
    with pytest.raises(PermanentError, match="used up"):
        ask(backend, image_question(backend))


def test_an_image_that_the_provider_can_not_read_is_its_samples_fault(emulator: Emulator) -> None:
    emulator.script = script_of(Fault(status=400, message="Unable to process input image. Please retry."))
    backend = backend_at(emulator, "gemini")
    with pytest.raises(SampleError, match="can't use this image"):
        ask(backend, image_question(backend))


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_that_never_answers_is_given_up_in_time(emulator: Emulator, name: str) -> None:
    emulator.script = script_of(Fault("hung"))
    backend = backend_at(emulator, name, timeout_s=0.3)
    with pytest.raises(TransientError, match=r"0\.3 s|in time"):
        ask(backend, image_question(backend))


def test_a_slow_answer_is_an_answer(emulator: Emulator) -> None:
    emulator.script = script_of(Fault("slow", delay_s=0.3))
    backend = backend_at(emulator, "gemini")
    assert ask(backend, image_question(backend)).text == "a dog, after a while"


@pytest.mark.parametrize("road", ["bodies", "acompletion"])
def test_both_roads_give_the_same_answer_and_tell_the_same_headers(
    emulator: Emulator, road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if road == "acompletion":
        # as for a provider or a litellm that has no other
        monkeypatch.setattr("tlac.lmms.litellm.open_wire_format", lambda *_: None)
    emulator.script = script_of(Reply("a dog", headers=(("x-ratelimit-remaining-requests", "41"),)))
    backend = backend_at(emulator, "gpt-4o")
    buffer: list[str | None] = []
    lmm = LiteLLM(backend)
    lmm.listen(lambda headers: buffer.append(headers.get("x-ratelimit-remaining-requests")))
    response = aio.run(lmm.ask(image_question(backend)))
    assert (response.outcome, response.text, buffer) == (Outcome.ANSWERED, "a dog", ["41"])
    assert emulator.asked[-1].key == KEYS["OPENAI_API_KEY"]
    emulator.script = script_of(Fault(status=429, retry_after="7"))
    with pytest.raises(RateLimitError, match="asked too fast"):
        aio.run(lmm.ask(image_question(backend)))


def test_a_parameter_for_litellm_itself_is_left_to_litellm(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gpt-4o", params={"temperature": 0, "metadata": {"team": "blue"}})
    assert "metadata" not in sent(emulator, backend, image_question(backend)).body


def test_headers_are_told_to_who_listens(emulator: Emulator) -> None:
    emulator.script = script_of(Reply("a dog", headers=(("x-ratelimit-remaining-requests", "41"),)))
    backend = backend_at(emulator, "gpt-4o")
    buffer: list[str | None] = []
    lmm = LiteLLM(backend)
    lmm.listen(lambda headers: buffer.append(headers.get("x-ratelimit-remaining-requests")))
    aio.run(lmm.ask(image_question(backend)))
    assert buffer == ["41"]


@pytest.mark.parametrize("name", NAMES)
def test_no_log_holds_a_key_even_when_everything_is_logged(
    emulator: Emulator, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backend_at(emulator, name)
    ask(backend, image_question(backend))
    for logger in ("LiteLLM", "httpx", "httpx2", "openai", "tlac"):
        caplog.set_level("DEBUG", logger)
    ask(backend, image_question(backend))
    emulator.script = script_of(Fault(status=401, message="the key {key} is wrong"))
    with pytest.raises(PermanentError):
        ask(backend, image_question(backend))
    assert caplog.records
    assert not any(key in caplog.text for key in KEYS.values())


def test_no_repr_holds_a_key() -> None:
    assert not any(key in repr(LiteLLM(load_backend(name))) for name in PROVIDERS for key in KEYS.values())
