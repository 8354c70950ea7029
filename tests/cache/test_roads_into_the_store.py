"""Whatever a provider says is kept, on every road into the store, in a form that reading takes."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from tests.support.fake_answers import choice_request, image_request
from tests.support.fakes import FakeLMM
from tlac.cache.pack import Manifest, PackSpec, import_pack, read_pack, write_pack
from tlac.cache.serialization import (
    MAX_ANSWER_CHARACTERS,
    STORED_OUTCOMES,
    StoredAnswer,
    answer_text,
    parse_response,
    storable,
)
from tlac.cache.store import Store
from tlac.cache.verify import verify_store
from tlac.engines.ray.logs import AnswerLog, merge_logs, new_run_folder
from tlac.errors import SampleError
from tlac.hashing import response_key
from tlac.lmms.middleware.cache import StoredLMM
from tlac.types import LMMResponse, Outcome, Usage

# any string of Python's, lone surrogates too, and now and then a long one
TEXTS = st.text(max_size=200) | st.builds(lambda text: text * 10_000, st.text(min_size=1, max_size=10))
COUNTS = st.integers() | st.sampled_from([2**53 - 1, 2**53, 2**64, -1, 10**400, 1.5, math.nan, True])
AMOUNTS = st.floats() | st.sampled_from([1e308, -0.0, 1e9, 1.0000001e9, 5e-324])
RESPONSES = st.builds(
    LMMResponse,
    outcome=st.sampled_from(sorted(STORED_OUTCOMES)),
    text=TEXTS,
    reason=TEXTS,
    model_version=TEXTS,
    usage=st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS),
    cost_usd=st.none() | AMOUNTS,
    latency_s=AMOUNTS,
    created_at=TEXTS,
)
LONGEST = "\0" * (MAX_ANSWER_CHARACTERS + 1)
WORST = LMMResponse(Outcome.ANSWERED, LONGEST, LONGEST, LONGEST, Usage(-1), math.inf, math.nan, LONGEST)
MANIFEST = Manifest("", "", "fake", PackSpec("fake/model"))


def kept(store: Store, answers: list[StoredAnswer]) -> list[LMMResponse | None]:
    """What the store says to these questions, once it is known to hold nothing that it would refuse to read."""
    assert verify_store(store.path).problems == ()
    return [store.get_response(answer.key) for answer in answers]


def as_kept(answers: list[StoredAnswer]) -> list[LMMResponse]:
    return [structs.replace(answer.response, from_store=True) for answer in answers]


@settings(max_examples=300)
@given(RESPONSES)
def test_any_response_is_written_as_it_is_read(response: LMMResponse) -> None:
    answer = StoredAnswer.of(image_request(1), response, "fake")
    assert parse_response(answer_text(answer).encode()) == structs.replace(answer.response, from_store=True)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RESPONSES, min_size=1, max_size=20))
def test_any_responses_are_kept_on_every_road_as_the_caller_is_told_them(
    tmp_path_factory: pytest.TempPathFactory, responses: list[LMMResponse]
) -> None:
    folder = tmp_path_factory.mktemp("roads")
    asked = {response_key(request): request for request in map(image_request, range(len(responses)))}
    said = dict(zip(asked, responses, strict=True))
    answers = [StoredAnswer.of(asked[key], said[key], "fake") for key in sorted(asked)]
    with Store(folder / "live") as live, Store(folder / "ray") as ray, Store(folder / "pack") as packed:
        lmm = StoredLMM(FakeLMM(lambda request: said[response_key(request)]), live, "fake")

        async def ask_and_log(path: Path) -> list[LMMResponse]:
            log = AnswerLog(path)
            await asyncio.gather(*map(log.keep, answers))
            await log.close()
            return await asyncio.gather(*(lmm.ask(asked[answer.key]) for answer in answers))

        with new_run_folder(ray.path) as run:
            told = asyncio.run(ask_and_log(run.logs / "a.jsonl"))
            merge_logs(ray, run)
        write_pack(folder / "a.jsonl", MANIFEST, answers)
        import_pack(packed, folder / "a.jsonl")
        assert told == [answer.response for answer in answers]
        assert kept(live, answers) == kept(ray, answers) == kept(packed, answers) == as_kept(answers)


def test_the_worst_response_of_all_is_kept_and_marked(store: Store) -> None:
    told = asyncio.run(StoredLMM(FakeLMM(lambda _: WORST), store, "fake").ask(choice_request("a cat")))
    answers = [StoredAnswer.of(choice_request("a cat"), WORST, "fake")]
    assert kept(store, answers) == as_kept(answers)
    assert told.outcome is Outcome.TRUNCATED
    assert told.reason.startswith("cut by tlac after 2,500,000 of 2,500,001 characters")
    assert (told.usage, told.cost_usd, told.latency_s) == (Usage(), None, 0.0)


def test_a_sound_response_is_kept_as_it_is() -> None:
    response = LMMResponse(
        Outcome.ANSWERED, "a \u2603", "why", "v", Usage(2**53 - 1, 2, 3, 4), 1e9, 1e9, "2025-01-01T00:00:00Z"
    )
    assert storable(response) == response


def test_what_is_too_long_for_a_row_is_cut_at_its_bound() -> None:
    said = LMMResponse(Outcome.ANSWERED, "a cat", "r" * 100_001, "v" * 1_001, created_at="t" * 1_001)
    cut = storable(said)
    assert (cut.reason, cut.model_version, cut.created_at) == ("r" * 100_000, "v" * 1_000, "t" * 1_000)
    assert (cut.outcome, cut.text) == (Outcome.ANSWERED, "a cat")


@pytest.mark.parametrize(("amount", "is_kept"), [(0.0, True), (1e9, True), (1.0000001e9, False), (-1e-9, False)])
def test_an_amount_is_between_nothing_and_a_billion_or_not_known(amount: float, is_kept: bool) -> None:
    said = LMMResponse(Outcome.ANSWERED, "a cat", usage=Usage(7), cost_usd=amount, latency_s=amount)
    kept = storable(said)
    assert (kept.cost_usd, kept.latency_s) == ((amount, amount) if is_kept else (None, 0.0))


@pytest.mark.parametrize(
    ("logprob", "is_kept"), [(0.0, True), (-0.5, True), (-1e9, True), (-1.0000001e9, False), (0.5, False), (None, True)]
)
def test_a_log_probability_is_at_most_zero_or_not_known(logprob: float | None, is_kept: bool) -> None:
    said = LMMResponse(Outcome.ANSWERED, "a cat", logprob=logprob)
    assert storable(said).logprob == (logprob if is_kept else None)


def test_an_answer_of_just_the_longest_length_is_not_cut() -> None:
    assert storable(LMMResponse(Outcome.ANSWERED, "x" * 2_500_000)).outcome is Outcome.ANSWERED
    cut = storable(LMMResponse(Outcome.ANSWERED, "x" * 2_500_003, "stop"))
    assert (cut.outcome, len(cut.text)) == (Outcome.TRUNCATED, 2_500_000)
    assert cut.reason == "cut by tlac after 2,500,000 of 2,500,003 characters; stop"
    assert storable(LMMResponse(Outcome.ANSWERED, "x" * 2_500_001)).reason.endswith("2,500,001 characters")


@pytest.mark.parametrize("count", [-1, 2**53, 1.5, True])
def test_a_count_that_can_not_be_true_leaves_no_price(count: int) -> None:
    kept = storable(LMMResponse(Outcome.ANSWERED, "a cat", usage=Usage(7, count), cost_usd=0.5))
    assert (kept.usage, kept.cost_usd) == (Usage(7, 0), None)


def test_a_refusal_that_is_cut_stays_a_refusal() -> None:
    assert storable(structs.replace(WORST, outcome=Outcome.REFUSED)).outcome is Outcome.REFUSED


def test_a_lone_surrogate_becomes_one_replacement_character() -> None:
    assert storable(LMMResponse(Outcome.ANSWERED, "a \ud800 cat")).text == "a \ufffd cat"


def test_a_question_that_could_not_be_kept_is_not_paid_for(store: Store) -> None:
    fake = FakeLMM(lambda _: "a cat")
    with pytest.raises(SampleError, match="2,500,000 characters"):
        asyncio.run(StoredLMM(fake, store, "fake").ask(image_request(1, "x" * 2_500_001)))
    assert fake.asked == []
    asyncio.run(StoredLMM(fake, store, "fake").ask(image_request(1, "\0" * 2_500_000)))
    assert store.get_entry(response_key(image_request(1, "\0" * 2_500_000))) is not None
    assert verify_store(store.path).problems == ()


def test_a_pack_line_that_is_written_is_read(tmp_path: Path) -> None:
    answer = StoredAnswer.of(image_request(1), structs.replace(WORST, reason=""), "fake")
    assert len(answer_text(answer)) > 15_000_000
    write_pack(tmp_path / "a.jsonl", MANIFEST, [answer])
    (found,) = read_pack(tmp_path / "a.jsonl")
    assert found == replace(answer, response=structs.replace(answer.response, from_store=True))
