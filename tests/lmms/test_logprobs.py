"""Log-probabilities: asked for on the wire, read from each provider's JSON, kept, and passed on to confidence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from tests.support.batched import Party, predictions, run_spec
from tests.support.emulated import backend_at, choice_question, image_question, plant_keys
from tests.support.emulator import Asked, Emulator, Reply, script_of
from tests.support.fakes import LetterEncoder
from tests.support.made_runs import confidence_of
from tlac.cache.pack import export_pack
from tlac.cache.select import Selection
from tlac.cache.serialization import StoredAnswer, answer_text, parse_answer, parse_response
from tlac.cache.store import Store
from tlac.config.schemas import load_backend
from tlac.errors import ConfigError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import Runner
from tlac.lmms.litellm import LiteLLM
from tlac.lmms.litellm_responses import with_logprob
from tlac.runtime import aio
from tlac.types import LMMResponse, Outcome

PROVIDERS = ("gpt-4o", "gemini", "ollama")
ASKING = {"temperature": 0, "max_tokens": 200, "logprobs": True}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plant_keys(monkeypatch)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda _config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.open_encoder", lambda _config: LetterEncoder())


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    server.asked.clear()
    server.refused.clear()
    server.script = script_of(Reply("a dog", tokens=(("a", -0.5), (" dog", -0.25))))
    return server


def stored(emulator: Emulator, name: str, is_choice: bool = False, **changes: Any) -> LMMResponse:
    """The answer as it is kept."""
    backend = backend_at(emulator, name, **changes)
    request = choice_question(backend) if is_choice else image_question(backend)
    return StoredAnswer.of(request, aio.run(LiteLLM(backend).ask(request)), name).response


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_answer_has_the_sum_over_its_tokens_where_it_is_asked_for(emulator: Emulator, name: str) -> None:
    assert stored(emulator, name, params=ASKING).logprob == -0.75
    body = emulator.asked[-1].body
    assert True in (body.get("logprobs"), (body.get("generationConfig") or {}).get("responseLogprobs"))
    assert stored(emulator, name).logprob is None
    assert "ogprobs" not in json.dumps(emulator.asked[-1].body)
    assert emulator.refused == []


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_choice_by_number_is_as_probable_as_its_text_as_a_whole(emulator: Emulator, name: str) -> None:
    tokens = (('{"class', -0.0), ('_index": "', -0.0), ("1", -0.5), ('"}', -0.125))
    emulator.script = script_of(Reply("".join(token for token, _ in tokens), tokens=tokens))
    assert stored(emulator, name, is_choice=True, params=ASKING).logprob == -0.625


def test_thoughts_before_an_answer_and_marks_behind_it_do_not_count(emulator: Emulator) -> None:
    tokens = (("<think>", -3.0), ("a dog?", -2.0), ("</think>", -1.0), ("a", -0.5), (" dog", -0.25), ("<|end|>", -9.0))
    emulator.script = script_of(Reply("<think>a dog?</think>a dog", tokens=tokens))
    response = stored(emulator, "gpt-4o", params=ASKING)
    assert (response.text, response.logprob) == ("a dog", -0.75)


def openai_document(*tokens: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"logprobs": {"content": list(tokens)}}]}


def gemini_document(**usage: int) -> dict[str, Any]:
    return {"candidates": [{"avgLogprobs": -0.25}], "usageMetadata": {"candidatesTokenCount": 3, **usage}}


@pytest.mark.parametrize(
    ("document", "text", "expected"),
    [
        # half a letter in each token: the bytes tell
        (
            openai_document(
                {"token": "\\xc3", "bytes": [0xC3], "logprob": -1.0},
                {"token": "\\xa9", "bytes": [0xA9], "logprob": -0.5},
            ),
            "é",
            -1.5,
        ),
        (gemini_document(), "a dog", -0.75),
        (gemini_document(thoughtsTokenCount=5), "a dog", None),
        (openai_document({"token": "a cat", "logprob": -1.0}), "a dog", None),
        (openai_document({"token": "a dog", "logprob": 0.5}), "a dog", None),
        (openai_document({"token": "a dog", "logprob": float("-inf")}), "a dog", None),
        (openai_document({"token": "a dog", "logprob": None}), "a dog", None),
        (openai_document({"logprob": -1.0}), "a dog", None),
        (openai_document(), "a dog", None),
        ({"choices": [{"logprobs": None}]}, "a dog", None),
        ({"choices": [{"logprobs": [[-1.0]]}]}, "a dog", None),
        ({"choices": []}, "a dog", None),
        ({"done": True}, "a dog", None),
        ({"candidates": [{}], "usageMetadata": {}}, "a dog", None),
        ({"type": "message"}, "a dog", None),
        ([], "a dog", None),
    ],
)
def test_what_a_provider_does_not_tell_is_not_guessed(document: Any, text: str, expected: float | None) -> None:
    assert with_logprob(LMMResponse(Outcome.ANSWERED, text), document).logprob == expected
    assert with_logprob(LMMResponse(Outcome.TRUNCATED, text), document).logprob is None


@pytest.mark.parametrize(("name", "changes"), [("claude", {}), ("gpt-4o", {"model": "openai/gpt-5-mini"})])
def test_a_model_that_gives_none_is_named_before_it_is_asked(emulator: Emulator, name: str, changes: dict) -> None:
    with pytest.raises(ConfigError, match=r"'logprobs' is refused: .* change or remove it under params"):
        stored(emulator, name, params=ASKING, **changes)
    assert emulator.asked == []


def test_what_was_told_unasked_is_not_kept_and_rows_without_it_are_as_before(emulator: Emulator) -> None:
    backend = backend_at(emulator, "gemini")
    response = LMMResponse(Outcome.ANSWERED, "a dog", logprob=-0.5)
    unasked = StoredAnswer.of(image_question(backend), response, "gemini")
    assert "logprob" not in answer_text(unasked)
    asking = replace(image_question(backend), params=ASKING)
    kept = StoredAnswer.of(asking, response, "gemini")
    assert kept.key != unasked.key
    text = answer_text(kept, has_key=True).encode()
    assert parse_answer(text).response == structs.replace(response, from_store=True)
    assert parse_response(text).logprob == -0.5
    for wrong in (0.5, float("nan"), float("-inf"), "-0.5"):
        assert StoredAnswer.of(asking, structs.replace(response, logprob=wrong), "gemini").response.logprob is None


def describe(asked: Asked) -> Reply:
    """A class name, words, and other words; in stage 2 a sure and an unsure choice."""
    if asked.schema:
        text = json.dumps({"class_index": "1" if "ancient" in asked.text else "2"})
        return Reply(text, tokens=((text, -0.125 if "ancient" in asked.text else -2.0),))
    place = sum(asked.images[0]) % 3
    return Reply(("red car", "an ancient car", "a big truck")[place], tokens=())


def test_confidence_hears_how_probable_the_deciding_answer_was(server: Emulator, tmp_path: Path) -> None:
    server.script = describe
    party = Party(server, "gpt-4o", tmp_path)
    plain = party.live(run_spec(party.backend, method="tlac"))
    spec = run_spec(backend_at(server, "gpt-4o", params=ASKING), method="tlac")
    found = party.live(spec)
    assert [replace(one, logprob=None, stage1_key=None, stage2_key=None) for one in found.predictions] == [
        replace(one, stage1_key=None, stage2_key=None) for one in plain.predictions
    ]
    told = {(one.answer, one.decided_by): one.logprob for one in found.predictions}
    # seven letters in the emulator's pieces, at a 64th each
    known = {"red car": -7 / 64, "an ancient car": -0.125, "a big truck": -2.0}
    assert told == {key: pytest.approx(known[key[0]], abs=1e-6) for key in told}
    assert len(told) > 1
    for one, without in zip(found.predictions, plain.predictions, strict=True):
        before, after = (np.log(p / (1 - p)) for p in (confidence_of(without), confidence_of(one)))
        assert after - before == pytest.approx(2 * np.exp(one.logprob) - 1, abs=1e-3)
    assert b"logprob" not in (plain.folder / "predictions.jsonl").read_bytes()


def test_batches_packs_and_scoring_again_give_the_same_bytes(server: Emulator, tmp_path: Path) -> None:
    server.script = describe
    party = Party(server, "gpt-4o", tmp_path)
    spec = run_spec(backend_at(server, "gpt-4o", params=ASKING), method="tlac")
    live = party.live(spec)
    assert b'"logprob":-' in (live.folder / "predictions.jsonl").read_bytes()
    assert predictions(party.batched(spec)) == predictions(live)
    pack = tmp_path / "answers.jsonl"
    with Store(tmp_path / "live-store") as store:
        again = rescore(live.folder, store, Rescoring(encoder="minilm"), tmp_path / "again")
        export_pack(store, pack, Selection(), "a test")
    assert [one.logprob for one in again.predictions] == [one.logprob for one in live.predictions]
    asked = len(server.asked)
    replayed = load_backend(f"pack:{pack}")
    with Store(tmp_path / "empty") as store:
        repeated = Runner(store).run(run_spec(replayed, method="tlac"), tmp_path / "repeated")
    assert predictions(repeated) == predictions(live)
    assert len(server.asked) == asked
