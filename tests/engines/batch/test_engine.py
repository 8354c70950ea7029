"""Runs through the three batch interfaces, against the emulator: the same predictions as live, each question once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from tests.support.batch_adapters import ADAPTERS
from tests.support.batched import INTERFACES, Party, predictions, run_spec
from tests.support.emulated import KEYS, backend_at, plant_keys
from tests.support.emulator import BatchControls, Emulator, Fault, Reply
from tlac.cache.store import Store
from tlac.config.registry import open_batch_interface
from tlac.config.schemas import Prices, load_backend
from tlac.engines.batch.engine import BatchEngine
from tlac.engines.batch.journal import Journal
from tlac.errors import TransientError, UsageError
from tlac.evaluation.runner import Runner
from tlac.types import Outcome


def test_batches_give_the_predictions_of_live_calls_to_the_byte(party: Party) -> None:
    live, batched = party.live(), party.batched()
    assert party.emulator.refused == []
    assert predictions(batched) == predictions(live)
    assert batched.record.is_complete
    # stage 1 in one batch, the distinct questions of stage 2 in another
    assert party.submitted == [9, batched.record.calls.stage2.asked]
    assert batched.record.calls == live.record.calls
    assert batched.record.tokens == live.record.tokens
    assert batched.record.cost_usd == pytest.approx((live.record.cost_usd or 0) / 2)
    assert_stored_alike(party)
    taken = party.submitted
    again = party.batched()
    assert predictions(again) == predictions(batched)
    assert (party.submitted, again.record.cost_usd) == (taken, 0.0)


@pytest.mark.parametrize("header", ["anthropic-beta", "anthropic-version"])
def test_a_batch_asks_for_the_same_interface_as_live_calls(emulator: Emulator, tmp_path: Path, header: str) -> None:
    party = Party(emulator, "claude", tmp_path)
    party.batched()
    party.live()
    _, stage2 = emulator.shelves["anthropic"].batches
    batched = {asked.headers.get(header) for asked in stage2.asked.values()}
    assert batched == {asked.headers.get(header) for asked in emulator.asked if asked.schema}
    assert None not in batched


def assert_stored_alike(party: Party) -> None:
    with Store(party.folder / "live-store") as live, Store(party.folder / "store") as batched:
        pairs = list(zip(live.entries(), batched.entries(), strict=True))
    assert len(pairs) > 9
    for one, other in pairs:
        assert (one.key, one.request, one.backend) == (other.key, other.request, other.backend)
        same = structs.replace(one.response, latency_s=0.0, created_at="", cost_usd=(one.response.cost_usd or 0) / 2)
        assert structs.replace(other.response, created_at="") == same


def test_only_what_has_no_answer_is_submitted_again(party: Party) -> None:
    fates = {3: "failed", 5: "expired"}
    if party.provider != "anthropic":
        # Anthropic counts every request as one with a result, and a result that is promised is waited for
        fates[7] = "missing"
    party.emulator.batching = BatchControls(fate=lambda number, _: fates.get(number, "answered"))  # type: ignore[arg-type, return-value]
    spec = run_spec(party.backend, method="slac")
    run = party.batched(spec)
    assert not run.record.is_complete
    failed = [prediction for prediction in run.predictions if prediction.outcome is Outcome.FAILED]
    reasons = sorted(prediction.reason for prediction in failed)
    assert len(reasons) == len(fates)
    for words in (("server",), ("expired", "deadline"), ("holds no result",))[: len(fates)]:
        assert any(word in reason for reason in reasons for word in words), reasons
    party.emulator.batching = BatchControls()
    assert party.batched(spec).record.is_complete
    assert party.submitted == [9, len(fates)]


def test_a_result_that_comes_twice_is_stored_once(party: Party) -> None:
    fates = ("twice", "twice otherwise", "answered")
    party.emulator.batching = BatchControls(fate=lambda number, _: fates[number % 3])  # type: ignore[arg-type, return-value]
    run = party.batched(run_spec(party.backend, method="slac"))
    assert {prediction.answer for prediction in run.predictions} == {
        "a red car",
        "something ruddy",
        "an ancient vehicle",
    }
    assert run.record.calls.stage1.asked == 9


# Anthropic refuses a batch when it is submitted, or not at all
@pytest.mark.parametrize(("name", "words"), [("gpt-4o", "enqueued tokens"), ("gemini", "enqueued tokens")])
def test_a_batch_that_is_refused_after_it_was_taken_says_so(
    emulator: Emulator, tmp_path: Path, name: str, words: str
) -> None:
    party = Party(emulator, name, tmp_path)
    emulator.batching = BatchControls(refusal="the enqueued tokens are too many")
    run = party.batched(run_spec(party.backend, 2, "slac"))
    assert not run.record.is_complete
    assert words in run.predictions[0].reason
    assert party.submitted == [2]


@pytest.mark.parametrize(
    ("name", "limit", "most", "sizes"),
    [
        ("gpt-4o", "max_requests", 4, [4, 4, 1]),
        ("claude", "max_requests", 4, [4, 4, 1]),
        ("gemini", "max_requests", 4, [4, 4, 1]),
        ("gpt-4o", "max_bytes", 3000, None),
        ("claude", "max_bytes", 3000, None),
        ("gemini", "max_bytes", 3000, None),
    ],
)
def test_batches_are_split_at_the_limits(  # noqa: PLR0917 - three fixtures and a row
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    limit: str,
    most: int,
    sizes: list[int] | None,
) -> None:
    party = Party(emulator, name, tmp_path)
    monkeypatch.setattr(f"{ADAPTERS[party.provider]}.{limit}", most)
    assert party.batched(run_spec(party.backend, method="slac")).record.is_complete
    assert party.submitted == (sizes or party.submitted)
    assert sum(party.submitted) == 9
    assert len(party.submitted) >= 3
    shelf = emulator.shelves[party.provider]
    files = [len(content) for content in shelf.files.values()]
    bodies = [int(next(iter(batch.asked.values())).headers.get("Content-Length", 0)) for batch in shelf.batches]
    frame = len('{"requests":[]}')
    assert limit == "max_requests" or max(files or [size - frame for size in bodies]) <= most


def test_a_request_that_no_batch_can_hold_fails_alone(openai_party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{ADAPTERS['openai']}.max_bytes", 100)
    run = openai_party.batched(run_spec(openai_party.backend, 2, "slac"))
    assert "larger than the 100 bytes" in run.predictions[0].reason
    assert openai_party.submitted == []


# --- faults of the interface ---------------------------------------------------------------------------------


def test_passing_faults_of_every_endpoint_cost_no_second_batch(party: Party) -> None:
    def faults() -> list[Fault | None]:
        return [Fault("dropped"), Fault(status=500), Fault(status=429, retry_after="3")]

    endpoints = ("upload", "create", "status", "results", "list")
    party.emulator.batching = BatchControls(faults={endpoint: faults() for endpoint in endpoints})  # type: ignore[misc]
    run = party.batched(run_spec(party.backend, 3))
    assert run.record.is_complete, party.said
    assert party.submitted == [3, 2]
    assert party.most_often == 1


def test_only_a_batch_that_was_turned_away_for_haste_is_handed_in_again_unseen(party: Party) -> None:
    # the provider took it, and a gateway on the way back says otherwise
    fault = Fault("error_inside", status=503, retry_after="3")
    party.emulator.batching = BatchControls(faults={"create": [fault]})
    assert party.batched(run_spec(party.backend, 3, "slac")).record.is_complete
    assert (party.submitted, party.most_often) == ([3], 1)


def test_results_that_are_cut_short_are_read_again(party: Party) -> None:
    party.emulator.batching = BatchControls(faults={"results": [Fault("malformed"), Fault("malformed")]})
    run = party.batched(run_spec(party.backend, 3, "slac"))
    assert run.record.is_complete
    assert party.submitted == [3]
    assert sum("asking again" in line for line in party.said) == 2


def test_a_refused_submission_ends_the_run_and_says_why(party: Party) -> None:
    status = 401 if party.provider == "openai" else 400
    party.emulator.batching = BatchControls(faults={"create": [Fault(status=status, message="no batches for you")]})
    run = party.batched(run_spec(party.backend, 2))
    assert "no batches for you" in (run.record.stopped or "")
    assert not run.record.is_complete
    assert party.submitted == []
    # nothing stands in the way of the next command
    assert party.batched(run_spec(party.backend, 2)).record.is_complete
    assert party.most_often == 1


def test_a_provider_that_is_down_ends_the_run_in_time(openai_party: Party) -> None:
    party = openai_party
    party.emulator.batching = BatchControls(faults={"create": [Fault(status=500)] * 50})
    run = party.batched()
    assert not run.record.is_complete
    assert "no batch arrives" in (run.record.stopped or "")
    assert party.submitted == []


def test_what_stopped_one_run_of_a_command_is_not_said_of_the_next_one_that_lacks_nothing(openai_party: Party) -> None:
    party = openai_party
    stored = run_spec(party.backend, 2, "slac")
    party.batched(stored)
    party.emulator.batching = BatchControls(faults={"create": [Fault(status=401, message="no batches for you")]})
    with Store(party.folder / "store") as store:
        policy = party.policy()
        runner = Runner(store, policy=policy, engine=BatchEngine(store, policy))
        records = [runner.run(spec, party.folder / "runs").record for spec in (run_spec(party.backend, 3), stored)]
    assert "no batches for you" in (records[0].stopped or "")
    assert (records[1].is_complete, records[1].stopped) == (True, None)


def test_answers_that_are_all_cut_are_told_as_cut_and_nothing_was_stopped(openai_party: Party) -> None:
    openai_party.emulator.script = lambda _: Reply("a red", finish="length")
    run = openai_party.batched(run_spec(openai_party.backend, 9, "slac"))
    assert [prediction.outcome for prediction in run.predictions] == [Outcome.TRUNCATED] * 9
    assert (run.record.is_complete, run.record.stopped) == (True, None)
    assert openai_party.submitted == [9]


# --- cost ----------------------------------------------------------------------------------------------------


def priced(party: Party) -> Party:
    prices = Prices(prompt=10.0, completion=40.0)
    party.backend = replace(party.backend, spec=msgspec.structs.replace(party.backend.spec, prices=prices))
    return party


def test_as_much_is_submitted_as_the_budget_is_sure_to_hold(openai_party: Party) -> None:
    party = priced(openai_party)
    spec = run_spec(party.backend, 20, "slac")
    # a question may cost 3,000 tokens of the image and 256 of the answer, at half the price: 0.0202 USD
    run = party.batched(spec, budget_usd=0.1)
    assert party.submitted == [4]
    assert "the budget of 0.1 USD is used up" in (run.record.stopped or "")
    assert "--max-cost" in (run.record.stopped or "")
    assert 0 < (run.record.cost_usd or 0) < 0.1
    assert party.batched(spec).record.is_complete
    assert (party.submitted, party.most_often) == ([4, 16], 1)


def test_a_batch_of_an_earlier_command_counts_against_the_budget(openai_party: Party) -> None:
    party = priced(openai_party)
    party.emulator.batching = BatchControls(polls=3)
    interrupt_waiting(party)
    with pytest.raises(Interrupted):
        party.batched(run_spec(party.backend, 4, "slac"))
    party.clock = type(party.clock)()
    run = party.batched(run_spec(party.backend, 8, "slac"), budget_usd=0.1)
    # 4 under way hold 0.08 of it
    assert party.submitted == [4]
    assert run.record.stopped is not None


def test_a_closed_batch_says_what_its_answers_cost(openai_party: Party) -> None:
    party = priced(openai_party)
    run = party.batched(run_spec(party.backend, 3, "slac"))
    with Store(party.folder / "store") as store:
        (record,) = Journal(store.path).records()
        costs = [entry.response.cost_usd or 0.0 for entry in store.entries()]
    assert (record.status, record.answered, record.failed) == ("collected", 3, {})
    assert min(costs) > 0
    assert record.cost_usd == pytest.approx(sum(costs)) == pytest.approx(run.record.cost_usd)


class Interrupted(BaseException):
    """Stands for a process that ends here."""


def interrupt_waiting(party: Party) -> None:
    async def sleep(_wait_s: float) -> None:
        raise Interrupted

    party.clock.sleep = sleep  # type: ignore[method-assign]


def test_an_answer_of_unknown_cost_counts_as_dear_as_it_can_have_been(
    openai_party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = openai_party
    monkeypatch.setattr("tlac.lmms.litellm_requests.prices_of", lambda *_: None)
    assert party.batched().record.is_complete
    with Store(party.folder / "store") as store:
        first = max(Journal(store.path).records(), key=lambda record: record.requests)
    party.folder = party.folder / "anew"
    run = party.batched(budget_usd=1.0001 * (first.highest_cost_usd or 0))
    # nothing is left for stage 2
    assert party.submitted == [9, 2, 9]
    assert "is used up" in (run.record.stopped or "")


# --- methods and backends ------------------------------------------------------------------------------------


def test_the_members_of_a_panel_are_asked_in_the_same_round(emulator: Emulator, tmp_path: Path) -> None:
    party = Party(emulator, "gpt-4o", tmp_path)
    further = (backend_at(emulator, "claude"), backend_at(emulator, "gemini"))
    spec = replace(run_spec(party.backend, method="vote"), ensemble=further)
    assert predictions(party.batched(spec)) == predictions(party.live(spec))
    for shelf in emulator.shelves.values():
        assert [batch.size for batch in shelf.batches] == [9, 2]


def test_several_views_of_an_image_are_asked_in_one_batch(openai_party: Party) -> None:
    spec = run_spec(openai_party.backend, method="slac-fused")
    assert predictions(openai_party.batched(spec)) == predictions(openai_party.live(spec))
    assert openai_party.submitted == [18]


def test_a_second_sample_is_asked_for_with_the_first_answer(openai_party: Party) -> None:
    spec = run_spec(openai_party.backend, method="tlac:second=name")
    assert predictions(openai_party.batched(spec)) == predictions(openai_party.live(spec))
    assert openai_party.submitted == [18, 2]


def test_what_a_cascade_asks_by_an_answer_waits_for_it_whatever_else_is_asked(openai_party: Party) -> None:
    spec = run_spec(openai_party.backend, method="tlac-cascade:view=name,second=default:hints=1")
    assert predictions(openai_party.batched(spec)) == predictions(openai_party.live(spec))
    # nine names; six descriptions and three second samples; two choices by descriptions; the other second samples
    assert openai_party.submitted == [9, 9, 2, 6]


def test_a_second_look_waits_for_the_choice_that_it_hangs_on(openai_party: Party) -> None:
    spec = run_spec(openai_party.backend, method="tlac-cascade:view=name,relook=true")
    found = openai_party.batched(spec)
    assert predictions(found) == predictions(openai_party.live(spec))
    looks = sum(any(member == 3 for member, _, _ in one.further) for one in found.predictions)
    assert looks > 0
    assert openai_party.submitted == [9, 6, 2, looks]


@pytest.mark.parametrize("name", ["embedded", "ollama", "vllm", "openai-compatible"])
def test_a_backend_without_a_batch_interface_is_told_at_once(openai_party: Party, name: str) -> None:
    with Store(openai_party.folder / "store") as store, pytest.raises(UsageError, match="no batch interface") as told:
        BatchEngine(store, openai_party.policy()).rest(load_backend(name))
    assert "anthropic, gemini, openai" in str(told.value)


def test_refusals_are_asked_again_on_demand(openai_party: Party) -> None:
    party = openai_party
    spec = run_spec(party.backend, 3, "slac")
    party.batched(spec)
    run = party.batched(spec, retry=(Outcome.ANSWERED,))
    assert party.submitted == [3, 3]
    assert run.record.calls.stage1.asked == 3


def test_parameters_that_a_live_call_refuses_are_refused(emulator: Emulator, tmp_path: Path) -> None:
    party = Party(emulator, "gemini", tmp_path)
    spec = msgspec.structs.replace(party.backend.spec, params={"temprature": 0})
    party.backend = replace(party.backend, spec=spec)
    with pytest.raises(UsageError, match="temprature"):
        party.batched()
    assert party.submitted == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "openai/o1-pro", "params": {}}, "not asked through the interface that batches take"),
        ({"params": {"api_version": "1"}}, "params hold what is not sent"),
    ],
)
def test_what_is_not_asked_by_chat_completions_is_refused(
    openai_party: Party, changes: dict[str, object], words: str
) -> None:
    party = openai_party
    party.backend = replace(party.backend, spec=msgspec.structs.replace(party.backend.spec, **changes))
    with pytest.raises(UsageError, match=words):
        party.batched()
    assert party.submitted == []


def test_an_image_that_can_not_be_read_leaves_the_others(openai_party: Party) -> None:
    party = openai_party
    spec = run_spec(party.backend, 3, "slac")
    broken = replace(spec.dataset.__class__(0), size=3)  # type: ignore[call-arg, type-var]

    class OneBroken(type(broken)):  # type: ignore[misc]
        def __iter__(self):  # type: ignore[no-untyped-def]
            for sample in super().__iter__():
                yield replace(sample, source=b"no image") if sample.id == "1.png" else sample

    run = party.batched(replace(spec, dataset=OneBroken(3)))
    assert [prediction.outcome for prediction in run.predictions].count(Outcome.FAILED) == 1
    assert "not an image" in run.predictions[1].reason
    assert party.submitted == [2]


def test_no_key_is_sent_that_the_backend_does_not_name(party: Party) -> None:
    party.backend = replace(party.backend, spec=msgspec.structs.replace(party.backend.spec, api_key_env=None))
    assert party.batched(run_spec(party.backend, 2, "slac")).record.is_complete
    (batch,) = party.emulator.shelves[party.provider].batches
    sent = " ".join(f"{asked.key} {asked.headers}" for asked in batch.asked.values())
    assert [key for key in KEYS.values() if key in sent] == []


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("gpt-4o", "api.openai.com"),
        ("claude", "api.anthropic.com"),
        ("gemini", "generativelanguage.googleapis.com"),
    ],
)
def test_batches_go_where_live_calls_go(monkeypatch: pytest.MonkeyPatch, name: str, host: str) -> None:
    plant_keys(monkeypatch)
    for variable in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.setenv(variable, "http://elsewhere.example/v1")
    asked: list[str] = []

    def getaddrinfo(wanted: str, *_: object, **__: object) -> None:
        asked.append(wanted)
        raise OSError("nobody is there")

    monkeypatch.setattr("socket.getaddrinfo", getaddrinfo)
    with pytest.raises(TransientError):
        open_batch_interface(load_backend(name)).status("batches/1")
    assert set(asked) == {host}


def test_no_key_is_written_down(party: Party) -> None:
    interrupt_waiting(party)
    with pytest.raises(Interrupted):
        party.batched()
    written = [path for path in party.folder.rglob("*") if path.is_file()]
    assert [path for path in written if path.parent.name == "batches"]
    for key in KEYS.values():
        assert [path for path in written if key.encode() in path.read_bytes()] == []
        assert key not in "".join(party.said)


# --- results that are not as published -----------------------------------------------------------------------


@pytest.mark.parametrize("name", INTERFACES)
@pytest.mark.parametrize(
    "line",
    [
        {},
        {"custom_id": 1, "key": [], "response": "no", "result": "no", "error": "no"},
        {"response": {"status_code": 200, "body": "<html>", "candidates": 3}, "result": {"type": "succeeded"}},
        {"response": None, "error": {"error": ["no"]}, "result": {"type": None, "error": 7}},
    ],
)
def test_a_result_of_any_shape_is_no_answer_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, name: str, line: dict[str, object]
) -> None:
    plant_keys(monkeypatch)
    interface: Any = open_batch_interface(load_backend(name))
    assert interface._read(line).response is None
    assert interface._read(line).reason
