"""What counts as an answer: finished by the provider's own word, without thoughts, with its tokens and its cost."""

from __future__ import annotations

import json

import pytest

from tests.support.emulated import PROVIDERS, backend_at, image_question
from tests.support.emulator import Emulator, Fault, Reply, script_of
from tlac.config.schemas import Backend, BackendSpec, Prices
from tlac.errors import PermanentError, RateLimitError, TlacError, TransientError
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.litellm_responses import native_finish_reason, read_body, without_thoughts
from tlac.runtime import aio
from tlac.types import LMMResponse, Outcome, Usage

pytestmark = pytest.mark.usefixtures("keys")

ROADS = ("wire format", "acompletion")


@pytest.fixture(params=ROADS)
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "acompletion":
        monkeypatch.setattr("tlac.lmms.litellm.open_wire_format", lambda *_: None)
    return str(request.param)


def answer(server: Emulator, name: str, reply: Reply | Fault, **changes: object) -> LMMResponse:
    server.script = script_of(reply)
    backend = backend_at(server, name, **changes)  # type: ignore[arg-type]
    return aio.run(LiteLLM(backend).ask(image_question(backend)))


@pytest.mark.parametrize(
    ("name", "finish", "outcome"),
    [
        ("gpt-4o", "stop", Outcome.ANSWERED),
        ("gpt-4o", "eos", Outcome.ANSWERED),
        ("gpt-4o", "content-filter", Outcome.REFUSED),
        ("gpt-4o", "content_filter", Outcome.REFUSED),
        ("gpt-4o", "model_length", Outcome.TRUNCATED),
        ("gpt-4o", "length", Outcome.TRUNCATED),
        ("gpt-4o", "of a later year", Outcome.TRUNCATED),
        ("gemini", "STOP", Outcome.ANSWERED),
        ("gemini", "OTHER", Outcome.REFUSED),
        ("gemini", "MALFORMED_RESPONSE", Outcome.TRUNCATED),
        ("gemini", "FINISH_REASON_UNSPECIFIED", Outcome.TRUNCATED),
        ("claude", "end_turn", Outcome.ANSWERED),
        ("claude", "stop_sequence", Outcome.ANSWERED),
        ("claude", "refusal", Outcome.REFUSED),
        ("claude", "model_context_window_exceeded", Outcome.TRUNCATED),
        ("claude", "pause_turn", Outcome.TRUNCATED),
        ("ollama", "stop", Outcome.ANSWERED),
        ("ollama", "length", Outcome.TRUNCATED),
    ],
)
def test_only_the_providers_own_word_for_finished_makes_an_answer(
    server: Emulator, road: str, name: str, finish: str, outcome: Outcome
) -> None:
    response = answer(server, name, Reply("a ca", finish=finish))
    assert (response.outcome, response.text) == (outcome, "a ca")
    assert bool(response.reason) == (outcome is not Outcome.ANSWERED)


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource", "network_error"])
def test_an_answer_that_the_provider_broke_off_is_asked_for_again(server: Emulator, road: str, finish: str) -> None:
    with pytest.raises(TransientError, match=f"gpt-4o: the provider broke the answer off .*{finish}"):
        answer(server, "gpt-4o", Reply("a ca", finish=finish))


def test_an_end_without_a_reason_is_no_answer(server: Emulator) -> None:
    response = answer(server, "gpt-4o", Reply("a ca", finish=""))
    assert (response.outcome, response.text) == (Outcome.TRUNCATED, "a ca")
    assert "did not say" in response.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", "a cat"),
        ("  a cat\n", "  a cat\n"),
        ("2 < 3 and <b>bold</b>", "2 < 3 and <b>bold</b>"),
        ("<think>an airplane or a frog?</think>A cat.", "A cat."),
        ("Is it an airplane or a frog? ... </think> A cat.", "A cat."),
        ("<think>a frog?</think> no <think>a dog?</think> A cat.", "no  A cat."),
        ("<think>outer <think>inner</think> frog</think>A cat.", "A cat."),
        ("A cat. <think>or a frog?</think>", "A cat."),
        ("<think>a frog, a dog", ""),
        ("A cat. <think>a frog", "A cat."),
        ("<Thinking>a frog</Thinking>\nA cat.", "A cat."),
        ("<thought>a frog</thought>A cat.", "A cat."),
        ("<reasoning>\na frog\n</reasoning>A cat.", "A cat."),
        ("[THINK]a frog[/THINK]A cat.", "A cat."),
        ("◁think▷a frog◁/think▷A cat.", "A cat."),
        ("<|channel>thought\na frog<channel|>A cat.", "A cat."),
        ("<think>a frog</think><answer>A cat.</answer>", "A cat."),
        ("<think>a frog</think><|begin_of_box|>A cat.<|end_of_box|>", "A cat."),
        (
            "<|channel|>analysis<|message|>a frog?<|end|><|start|>assistant<|channel|>final<|message|>A cat.<|return|>",
            "A cat.",
        ),
        ('<|channel|>final <|constrain|>json<|message|>{"class_index": "2"}', '{"class_index": "2"}'),
        ("<|channel|>analysis<|message|>a frog?", ""),
        ("analysisWe see a frog.assistantfinalA cat.", "A cat."),
        ("analysis of the picture: a cat", "analysis of the picture: a cat"),
    ],
)
def test_thoughts_of_every_shape_are_no_part_of_the_answer(text: str, expected: str) -> None:
    assert without_thoughts(text) == expected
    assert without_thoughts(expected) == expected


@pytest.mark.parametrize("name", PROVIDERS)
def test_thoughts_in_the_text_never_reach_the_answer(server: Emulator, road: str, name: str) -> None:
    reply = Reply("Is it an airplane or a frog? </think> A cat.")
    assert answer(server, name, reply).text == "A cat."


def test_nothing_but_thoughts_is_no_answer(server: Emulator, road: str) -> None:
    response = answer(server, "gpt-4o", Reply("<think>a frog or a"))
    assert (response.outcome, response.text) == (Outcome.EMPTY, "")
    assert "thoughts" in response.reason


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}],
        [{"type": "output_text", "text": "a cat"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "a frog?"}]}, {"type": "text", "text": "a cat"}],
        ["a cat"],
    ],
)
def test_content_as_a_list_of_parts_is_an_answer(server: Emulator, road: str, content: object) -> None:
    response = answer(server, "gpt-4o", Reply(content=content))
    assert (response.outcome, response.text) == (Outcome.ANSWERED, "a cat")


# left alone, litellm has an error for the first three, and half of the answer for the last
@pytest.mark.parametrize("provider", ["deepinfra", "azure_ai", "fireworks_ai", "mistral"])
def test_content_as_a_list_of_parts_is_an_answer_of_every_provider(server: Emulator, provider: str) -> None:
    content = [{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}]
    response = answer(server, "gpt-4o", Reply(content=content), model=f"{provider}/x", params={})
    assert (response.outcome, response.text) == (Outcome.ANSWERED, "a cat")
    assert response.usage.completion > 0


def test_an_answer_that_litellm_can_not_read_is_not_asked_for_again(server: Emulator) -> None:
    # it wants a field from Groq that others don't have
    server.asked.clear()
    response = answer(server, "gpt-4o", Reply("a cat"), model="groq/x")
    assert (response.outcome, response.text, len(server.asked)) == (Outcome.ANSWERED, "a cat", 1)


@pytest.mark.parametrize(("name", "completion"), [("gpt-4o", 1), ("gemini", 51)])
def test_thoughts_are_counted_apart(server: Emulator, road: str, name: str, completion: int) -> None:
    usage = answer(server, name, Reply("a cat", reasoning_tokens=50)).usage
    # Gemini counts them beside the answer's tokens, OpenAI among them
    assert (usage.reasoning, usage.completion) == (50, completion)


def test_what_anthropic_writes_to_its_cache_has_its_own_price(server: Emulator, road: str) -> None:
    prices = Prices(prompt=100.0, completion=0.0, cached=10.0)
    response = answer(server, "claude", Reply("a cat", cached_tokens=40, written_tokens=80), prices=prices)
    usage = response.usage
    assert (usage.cached, usage.cache_write) == (40, 80)
    expected = (usage.prompt - 120) * 100 + 40 * 10 + 80 * 125
    assert response.cost_usd == pytest.approx(expected / 1e6)


@pytest.mark.parametrize("name", ["gemini", "gpt-4o", "claude"])
def test_one_source_of_prices_gives_what_litellm_would_charge(server: Emulator, name: str) -> None:
    from tlac.runtime.litellm_setup import load_litellm

    response = answer(server, name, Reply("a cat " * 50, cached_tokens=40))
    usage, model = response.usage, backend_at(server, name).spec.model
    prompt, completion = load_litellm().cost_per_token(
        model=model, prompt_tokens=usage.prompt, completion_tokens=usage.completion, cache_read_input_tokens=40
    )
    assert response.cost_usd == pytest.approx(prompt + completion, rel=0.05)


@pytest.mark.parametrize("model", ["openai/gpt-7", "anthropic/claude-of-a-later-year"])
def test_an_answer_of_a_model_without_a_price_costs_nobody_knows_what(server: Emulator, road: str, model: str) -> None:
    name = "gpt-4o" if model.startswith("openai") else "claude"
    assert answer(server, name, Reply("a cat"), model=model, params={"max_tokens": 99}).cost_usd is None


def bodies(name: str, **changes: object) -> Fault:
    """An answer of a provider's with other fields; None takes one out."""
    whole: dict[str, dict[str, object]] = {
        "gpt-4o": {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "a cat"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        },
        "gemini": {
            "candidates": [{"content": {"parts": [{"text": "a cat"}], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7},
        },
        "claude": {
            "id": "x",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "a cat"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 2},
        },
        "ollama": {
            "model": "m",
            "message": {"role": "assistant", "content": "a cat"},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 5,
            "eval_count": 2,
        },
    }
    document = {key: value for key, value in (whole[name] | changes).items() if value is not None}
    return Fault("error_inside", document=document)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(
    ("name", "changes", "tokens"),
    [
        ("gpt-4o", {}, (5, 2)),
        ("gpt-4o", {"usage": None}, (0, 0)),
        ("gpt-4o", {"usage": []}, (0, 0)),
        ("gpt-4o", {"usage": {"prompt_tokens": "5", "completion_tokens": 2.0, "total_tokens": 7.5}}, (5, 2)),
        ("gpt-4o", {"usage": {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": None}}, (0, 0)),
        ("gemini", {"usageMetadata": None}, (0, 0)),
        ("gemini", {"usageMetadata": {"promptTokenCount": "5", "candidatesTokenCount": "2"}}, (5, 2)),
        ("claude", {"usage": None}, (0, 0)),
        ("claude", {"usage": {"input_tokens": "5", "output_tokens": 2.0}}, (5, 2)),
        # left alone, litellm guesses them
        ("ollama", {"prompt_eval_count": None, "eval_count": None}, (0, 0)),
    ],
)
def test_an_answer_is_not_lost_for_how_its_tokens_are_counted(
    server: Emulator, name: str, changes: dict[str, object], tokens: tuple[int, int]
) -> None:
    server.asked.clear()
    response = answer(server, name, bodies(name, **changes))
    assert (response.outcome, response.text) == (Outcome.ANSWERED, "a cat")
    assert (response.usage.prompt, response.usage.completion) == tokens
    assert len(server.asked) == 1
    if tokens == (0, 0) and name != "ollama":
        assert response.cost_usd is None


def test_an_answer_without_an_end_or_beside_an_error_is_none_on_either_road(server: Emulator, road: str) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "a cat"}, "finish_reason": None}
    assert answer(server, "gpt-4o", bodies("gpt-4o", choices=[choice])).outcome is Outcome.TRUNCATED
    with pytest.raises(TransientError, match=r"HTTP 502: the upstream broke off"):
        answer(server, "gpt-4o", bodies("gpt-4o", error={"message": "the upstream broke off", "code": 502}))


def test_a_message_without_content_is_empty(server: Emulator, road: str) -> None:
    assert answer(server, "claude", bodies("claude", content=None)).outcome is Outcome.EMPTY


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"message": "Upstream error: total request limit reached", "code": 502}, TransientError, "HTTP 502"),
        ({"message": "slow down", "code": "429"}, RateLimitError, "asked too fast"),
        ({"message": "no", "code": "invalid_api_key"}, PermanentError, "the key was refused"),
        ({"message": "no", "type": "insufficient_quota"}, PermanentError, "quota or credit is used up"),
        ({"message": "something else", "code": None}, TransientError, "the provider failed"),
    ],
)
def test_an_error_under_status_200_means_what_it_would_with_its_own(
    server: Emulator, road: str, error: dict[str, object], kind: type[TlacError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught:
        answer(server, "gpt-4o", Fault("error_inside", document={"error": error}))
    assert type(caught.value) is kind


def test_a_filter_under_status_200_is_a_refusal(server: Emulator, road: str) -> None:
    filtered = {"error": {"message": "the prompt was filtered", "code": "content_filter"}}
    response = answer(server, "gpt-4o", Fault("error_inside", document=filtered))
    assert (response.outcome, response.reason) == (Outcome.REFUSED, "the prompt was filtered")


# --- by the functions alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"choices": [{"finish_reason": "stop"}]}, "stop"),
        ({"choices": [{"finish_reason": "length"}, {"finish_reason": "stop"}]}, "length"),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}]}, "MAX_TOKENS"),
        ({"choices": [{}]}, ""),
        ({"choices": [], "stop_reason": "end_turn"}, "end_turn"),
        ({"choices": None}, None),
        ({"done": True, "done_reason": "length"}, "length"),
        ({"done": True}, "stop"),
        ({"done": False}, ""),
        ({"stop_reason": None}, ""),
        ({}, None),
        ([], None),
    ],
)
def test_the_providers_own_word_for_the_end_is_found_wherever_it_stands(document: object, word: str | None) -> None:
    assert native_finish_reason(document) == word


def parsed(finish: str | None = "stop", content: str | None = "a cat", usage: object = None) -> LMMResponse:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    document = {"id": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    backend = Backend("mine", "mine.yaml", BackendSpec(adapter="litellm", model="openai/m"))
    return read_body(json.dumps(document).encode(), backend, Prices(1.0, 1.0))


FATES = {
    Outcome.ANSWERED: "stop end_turn stop_sequence eos eos_token complete tool_use tool_calls tool_call STOP",
    Outcome.REFUSED: (
        "content_filter content-filter content_filtered refusal safety recitation language prohibited_content spii "
        "image_safety image_prohibited_content image_recitation image_other other no_image escalation model_armor "
        "guardrail_intervened error_toxic sensitive blocklist SAFETY FINISH_REASON_SAFETY"
    ),
    Outcome.TRUNCATED: (
        "length max_tokens max_length model_length max_output_tokens token_limit continuation pause_turn compaction "
        "model_context_window_exceeded MAX_TOKENS FINISH_REASON_MAX_TOKENS unheard_of"
    ),
}


@pytest.mark.parametrize(
    ("word", "outcome"), [(word, outcome) for outcome, words in FATES.items() for word in words.split()]
)
def test_each_word_for_an_end_has_its_fate(word: str, outcome: Outcome) -> None:
    found = parsed(word)
    assert (found.outcome, found.text) == (outcome, "a cat")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("length", "the answer was cut at max_tokens"),
        ("model_length", "model_length"),
        ("unheard_of", "the provider did not say that the answer is finished (unheard_of)"),
        (None, "the provider did not say that the answer is finished (no reason)"),
    ],
)
def test_a_cut_answer_says_by_what(word: str | None, reason: str) -> None:
    assert parsed(word).reason == reason


@pytest.mark.parametrize("word", ["error", "abort", "aborted", "cancelled", "network_error", "ERROR"])
def test_each_word_for_a_broken_answer_is_worth_another_try(word: str) -> None:
    with pytest.raises(
        TransientError, match=rf"mine: the provider broke the answer off \(finish reason {word}\)"
    ) as no:
        parsed(word)
    assert no.value.kind == "broken off"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "the answer holds no text (finish reason stop)"),
        ("", "the answer holds no text (finish reason stop)"),
        (" \n\t", "the answer holds no text (finish reason stop)"),
        ("<think>a frog</think>", "the answer holds no text, only thoughts (finish reason stop)"),
    ],
)
def test_an_answer_without_text_is_empty(content: str | None, reason: str) -> None:
    found = parsed("stop", content)
    assert (found.outcome, found.text, found.reason) == (Outcome.EMPTY, "", reason)


def test_every_count_of_tokens_has_its_place_and_its_price() -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "total_tokens": 1200,
        "prompt_tokens_details": {"cached_tokens": 300, "image_tokens": 50, "cache_creation_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    found = parsed(usage=usage)
    assert found.usage == Usage(1000, 200, cached=300, image=50, reasoning=7, cache_write=20)
    assert found.cost_usd == pytest.approx((1000 + 20 * 0.25 + 200) / 1e6)
    # below zero is no count, and without any the cost is not known
    broken = {"prompt_tokens": -1, "completion_tokens": 0, "total_tokens": 0}
    assert (parsed(usage=broken).usage, parsed(usage=broken).cost_usd) == (Usage(), None)


@pytest.mark.parametrize(
    ("prompt", "completion", "content", "cost_usd"),
    [
        (0, 5, "a cat", None),
        (-5, 5, "a cat", None),
        (100, 0, "a cat", None),
        (100, 0, "", 1e-4),
        (100, 5, "a cat", 1.05e-4),
    ],
)
def test_a_cost_of_which_a_part_was_not_counted_is_unknown(
    prompt: int, completion: int, content: str, cost_usd: float | None
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 105}
    assert parsed(content=content, usage=usage).cost_usd == (cost_usd if cost_usd is None else pytest.approx(cost_usd))
