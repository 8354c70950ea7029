"""Read litellm's responses as ours: what became of the question, the answer without thoughts, tokens and cost.

An answer is an answer only where the provider says, in its own word, that it is finished: litellm calls every word that
it does not know "stop".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from tlac.config.schemas import Backend, Prices
from tlac.errors import CallError, TransientError
from tlac.lmms.litellm_errors import facts_inside, parse_json, refusal_of, unreadable
from tlac.lmms.prices import cost_usd
from tlac.runtime.formatting import valid_unicode
from tlac.runtime.litellm_setup import load_litellm
from tlac.types import LMMResponse, Outcome, Usage

# in lower case, as the providers of litellm say it
_FINISHED = {"stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "tool_use", "tool_calls", "tool_call"}
_FILTERED = {
    *("content_filter", "content-filter", "content_filtered", "refusal", "safety", "recitation", "language"),
    *("prohibited_content", "spii", "image_safety", "image_prohibited_content", "image_recitation", "image_other"),
    *("other", "no_image", "escalation", "model_armor", "guardrail_intervened", "error_toxic", "sensitive"),
    "blocklist",
}
_BROKEN_OFF = {"error", "abort", "aborted", "cancelled", "network_error", "insufficient_system_resource"}
_CUT = {
    *("length", "max_tokens", "max_length", "model_length", "max_output_tokens", "token_limit", "continuation"),
    *("model_context_window_exceeded", "pause_turn", "compaction"),
}

# where providers count tokens
_COUNTS = {
    *("prompt_tokens", "completion_tokens", "total_tokens"),
    *("promptTokenCount", "candidatesTokenCount", "totalTokenCount", "thoughtsTokenCount", "cachedContentTokenCount"),
}

_THOUGHTS = r"think|thinking|thoughts?|reasoning|seed:think"
_PAIRS = re.compile(
    rf"<({_THOUGHTS})>.*?</\1>|\[think\].*?\[/think\]|◁think▷.*?◁/think▷|"
    r"<\|begin_of_thought\|>.*?<\|end_of_thought\|>|<\|channel>thought.*?<channel\|>",
    re.DOTALL | re.IGNORECASE,
)
# chat templates open the thought in the prompt, so that only its end stands in the answer
_ENDS = re.compile(rf"</(?:{_THOUGHTS})>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<channel\|>", re.IGNORECASE)
_STARTS = re.compile(rf"<(?:{_THOUGHTS})>|\[think\]|◁think▷|<\|begin_of_thought\|>|<\|channel>thought", re.IGNORECASE)
# gpt-oss: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
_HARMONY = re.compile(r"<\|channel\|>")
_HARMONY_FINAL = re.compile(
    r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)(?:<\|(?:end|return|call|start)\|>|$)",
    re.DOTALL,
)
# the same where a server drops special tokens
_HARMONY_BARE = re.compile(r"\s*analysis.*assistantfinal(.*)", re.DOTALL)
# what some models put around the answer itself
_WRAPPERS = re.compile(
    r"\s*(?:<answer>(.*?)(?:</answer>|$)|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)|"
    r"<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>|$))\s*",
    re.DOTALL | re.IGNORECASE,
)


def without_thoughts(text: str) -> str:
    """Return an answer without what a reasoning model thought before it; empty where it has only thoughts."""
    if _HARMONY.search(text):
        finals = _HARMONY_FINAL.findall(text)
        return finals[-1].strip() if finals else ""
    if bare := _HARMONY_BARE.fullmatch(text):
        return bare[1].strip()
    answer = _PAIRS.sub("", text)
    if ends := list(_ENDS.finditer(answer)):
        answer = answer[ends[-1].end() :]
    if start := _STARTS.search(answer):
        answer = answer[: start.start()]
    if wrapped := _WRAPPERS.fullmatch(answer):
        answer = next(inside for inside in wrapped.groups() if inside is not None)
    # an answer without thoughts stays as it is, to the last blank
    return text if answer == text else answer.strip()


def read_body(
    content: bytes, backend: Backend, prices: Prices | None, parse: Callable[[bytes], Any] | None = None
) -> LMMResponse:
    """Return the response in a provider's JSON, with its cost and without its times.

    `parse` makes litellm's response of the JSON; without it that is OpenAI's. Raises TransientError for what is no
    answer.
    """
    try:
        document = json.loads(content)
        if isinstance(document, dict) and document.get("error"):
            raise ValueError("an error stands beside the answer")
        sound = readable(document)
        response = (parse or _parse_openai)(content if sound is document else json.dumps(sound).encode())
        return with_logprob(read_response(response, prices, native_finish_reason(document)), document)
    except CallError as error:
        raise type(error)(f"{backend.name}: {error}", kind=error.kind) from error
    except Exception as error:
        # litellm's functions raise whatever a missing key or a wrong type makes them raise
        facts = facts_inside(content)
        if facts is not None and (refusal := refusal_of(facts)):
            return refusal
        raise unreadable(error, content, backend) from error


def _parse_openai(content: bytes) -> Any:
    document = json.loads(content)
    if not isinstance(document["choices"], list):
        raise TypeError("the choices are no list")
    return load_litellm().ModelResponse(**document)


def readable_body(content: bytes) -> bytes:
    """Return a body as `readable` makes it; as it is where it is no JSON."""
    document = parse_json(content)
    sound = readable(document)
    return content if sound is document else json.dumps(sound).encode()


def readable(document: Any) -> Any:
    """Return a provider's JSON as litellm can read it; the very same where it can.

    Messages' lists of parts are joined to text, but for thoughts. Counts of tokens that are missing or no numbers are
    0: litellm would reject the whole answer for them, or guess.
    """
    if not isinstance(document, dict):
        return document
    changes: dict[str, Any] = {}
    if isinstance(document.get("choices"), list):
        changes = _sound_usage(document, "usage")
        if any(isinstance(_content(choice), list) for choice in document["choices"]):
            changes["choices"] = [_joined_choice(choice) for choice in document["choices"]]
    elif not document.keys().isdisjoint(("candidates", "promptFeedback")):
        changes = _sound_usage(document, "usageMetadata")
    elif document.get("type") == "message":
        changes = _sound_usage(document, "usage", ("input_tokens", "output_tokens"))
        if document.get("content") is None:
            changes["content"] = []
    elif "done" in document:
        changes = _sound_counts(document, ("prompt_eval_count", "eval_count"))
    return {**document, **changes} if changes else document


def _sound_usage(document: Mapping[str, Any], name: str, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The usage of a document where it has to be another."""
    found = document.get(name)
    usage = found if isinstance(found, dict) else {}
    changes = _sound_counts(usage, tuple(needed or _COUNTS & usage.keys()))
    return {name: {**usage, **changes}} if changes or usage is not found else {}


def _sound_counts(owner: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, int]:
    return {name: _count(owner.get(name)) for name in names if type(owner.get(name)) is not int}


def _count(value: Any) -> int:
    with suppress(ValueError, OverflowError):
        return int(float(value)) if isinstance(value, (str, float)) else 0
    return 0


def _joined_choice(choice: Any) -> Any:
    content = _content(choice)
    if not isinstance(content, list):
        return choice
    texts = [part if isinstance(part, str) else _part_text(part) for part in content]
    return {**choice, "message": {**choice["message"], "content": "".join(texts)}}


def _content(choice: Any) -> Any:
    message = choice.get("message") if isinstance(choice, dict) else None
    return message.get("content") if isinstance(message, dict) else None


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type", "text") in ("text", "output_text") else None
    return text if isinstance(text, str) else ""


def native_finish_reason(document: Any) -> str | None:
    """Return why a provider's JSON says that it ends, in the provider's own word; None where it has no place for it."""
    if not isinstance(document, dict):
        return None
    for name in ("choices", "candidates"):
        first = next(iter(document.get(name) or ()), None)
        if isinstance(first, dict):
            return str(first.get("finish_reason") or first.get("finishReason") or "")
    if "done" in document:
        # older Ollama servers give no reason
        return str(document.get("done_reason") or ("stop" if document["done"] else ""))
    return str(document["stop_reason"] or "") if "stop_reason" in document else None


def with_logprob(response: LMMResponse, document: Any) -> LMMResponse:
    """Return a response with the log-probability of its text, where a provider's JSON tells it.

    litellm drops Gemini's mean over tokens, and knows nothing of Ollama's list: so the JSON itself is read.
    """
    if response.outcome is not Outcome.ANSWERED or not isinstance(document, dict):
        return response
    found = None
    with suppress(KeyError, IndexError, TypeError, ValueError, AttributeError):
        found = _find_logprob(document, response.text)
    return response if found is None else replace(response, logprob=found)


def _find_logprob(document: dict[str, Any], text: str) -> float | None:
    """The log-probability of `text` in the JSON of OpenAI and those who speak like it, Ollama, or Gemini; None for
    another. Raises KeyError, IndexError, TypeError, ValueError or AttributeError for one that has none."""
    if "choices" in document:
        return _sum_over(text, [(one, one["logprob"]) for one in document["choices"][0]["logprobs"]["content"]])
    if "done" in document:
        return _sum_over(text, [(one, one["logprob"]) for one in document["logprobs"]])
    candidate, usage = document["candidates"][0], document["usageMetadata"]
    if "logprobsResult" in candidate:
        chosen = candidate["logprobsResult"]["chosenCandidates"]
        return _sum_over(text, [(one, one["logProbability"]) for one in chosen])
    if usage.get("thoughtsTokenCount"):
        # whether its mean is over thoughts too is nowhere said
        return None
    return _sound_logprob(float(candidate["avgLogprobs"]) * int(usage["candidatesTokenCount"]))


def _sum_over(text: str, tokens: Sequence[tuple[dict[str, Any], float]]) -> float | None:
    """The sum over the tokens that make up `text`: thoughts before it and marks behind it are no part of the answer.

    None where the tokens don't hold the text: a server may leave some out.
    """
    pieces = [bytes(one["bytes"]) if one.get("bytes") else str(one["token"]).encode() for one, _ in tokens]
    sought = text.strip().encode()
    start = b"".join(pieces).rfind(sought)
    if start < 0 or not sought:
        return None
    total, place = 0.0, 0
    for piece, (_, logprob) in zip(pieces, tokens, strict=True):
        if place < start + len(sought) and place + len(piece) > start:
            total += float(logprob)
        place += len(piece)
    return _sound_logprob(total)


def _sound_logprob(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) and value <= 0 else None


def read_response(response: Any, prices: Prices | None, finish: str | None = None) -> LMMResponse:
    """Return a litellm response as ours, without its times. `prices` are the model's, None where they are unknown.

    `finish` is the provider's own reason why it ends; without it that of litellm counts. Raises TransientError for an
    answer that the provider itself broke off.
    """
    usage = _read_usage(getattr(response, "usage", None))
    outcome, text, reason = _read_outcome(response.choices or (), finish)
    hidden = getattr(response, "_hidden_params", None) or {}
    version = hidden.get("provider_response_model") or response.model or ""
    # without a count of tokens the cost is as unknown as without a price: a question has some, and so has a text
    is_known = prices is not None and not (
        (prices.prompt and not usage.prompt) or (prices.completion and text and not usage.completion)
    )
    cost = cost_usd(usage, prices) if prices is not None and is_known else None
    return LMMResponse(outcome, valid_unicode(text), valid_unicode(reason), valid_unicode(str(version)), usage, cost)


def _read_outcome(choices: Any, finish: str | None) -> tuple[Outcome, str, str]:  # noqa: PLR0911 - one for each fate
    if not choices:
        return Outcome.EMPTY, "", "the response holds no candidates"
    message = choices[0].message
    text = without_thoughts(message.content or "")
    if finish is None:
        finish = str(_provider_fields(choices[0]).get("native_finish_reason") or choices[0].finish_reason or "")
    # in the one place or the other, by litellm's version
    refusal = getattr(message, "refusal", None) or _provider_fields(message).get("refusal")
    word = finish.lower().removeprefix("finish_reason_")
    if refusal:
        return Outcome.REFUSED, text, str(refusal)
    if word in _FILTERED:
        return Outcome.REFUSED, text, finish
    if word in _BROKEN_OFF:
        raise TransientError(f"the provider broke the answer off (finish reason {finish})", kind="broken off")
    if word in _CUT:
        return Outcome.TRUNCATED, text, "the answer was cut at max_tokens" if word != "model_length" else finish
    if not text.strip():
        thoughts = ", only thoughts" if (message.content or "").strip() else ""
        return Outcome.EMPTY, "", f"the answer holds no text{thoughts} (finish reason {finish or 'none'})"
    if word not in _FINISHED:
        reason = f"the provider did not say that the answer is finished ({finish or 'no reason'})"
        return Outcome.TRUNCATED, text, reason
    return Outcome.ANSWERED, text, ""


def _provider_fields(part: Any) -> Mapping[str, Any]:
    return getattr(part, "provider_specific_fields", None) or {}


def _read_usage(usage: Any) -> Usage:
    prompt_details = getattr(usage, "prompt_tokens_details", None)

    def count(owner: Any, name: str) -> int:
        found = getattr(owner, name, None)
        # a server that counts below zero does not count
        return max(0, int(found)) if isinstance(found, (int, float)) else 0

    return Usage(
        prompt=count(usage, "prompt_tokens"),
        completion=count(usage, "completion_tokens"),
        cached=count(prompt_details, "cached_tokens"),
        image=count(prompt_details, "image_tokens"),
        reasoning=count(getattr(usage, "completion_tokens_details", None), "reasoning_tokens"),
        cache_write=count(prompt_details, "cache_creation_tokens") or count(usage, "cache_creation_input_tokens"),
    )
