from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.cars import Cars, answer
from tests.support.fakes import FakeLMM
from tests.support.made_runs import record_of
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.registry import open_method
from tlac.config.schemas import Backend, BackendSpec, Limits, Prices, load_backend, load_encoder_config
from tlac.errors import UsageError
from tlac.evaluation.collect import collect
from tlac.evaluation.estimate import Estimate, estimate, fit_budget
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.evaluation.run_config import RunConfig, plan_questions
from tlac.images import identify
from tlac.lmms.middleware.cache import StoredLMM
from tlac.methods.tlac import TLAC
from tlac.types import NearestClasses

BACKEND = Backend(
    "fake", "fake.yaml", BackendSpec(adapter="fake", model="m", prices=Prices(prompt=1.0, completion=10.0))
)


UNPRICED = Backend("u", "u.yaml", BackendSpec(adapter="fake", model="m"))


def inquiry(method: str = "tlac", backend: Backend = BACKEND, size: int = 9) -> RunConfig:
    encoder, prompts = load_encoder_config("minilm"), load_prompts("default")
    return RunConfig(backend, backend, Cars(size=size), method, encoder, prompts, "ladder")


def reckon(store: Store, given: RunConfig, size: int = 9) -> Estimate:
    return estimate(given, list(Cars(size=size)), store, concurrency=2)


def ask(store: Store, size: int) -> None:
    lmm = StoredLMM(FakeLMM(answer), store, "fake")
    bound_lmm = BoundLMM(BACKEND, lmm)
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("default"), Cars().classes)
    asyncio.run(collect(Cars(size=size), prompter, TLAC(), 1))


def test_with_nothing_stored_every_question_counts_by_rule_of_thumb(store: Store) -> None:
    found = reckon(store, inquiry())
    assert (found.stage1.calls, found.stage2.calls, found.stage1.learned_from) == (9, 9, 0)
    tokens = found.stage1.prompt_tokens + found.stage2.prompt_tokens
    completion = found.stage1.completion_tokens + found.stage2.completion_tokens
    assert found.cost_usd == pytest.approx((tokens * 1.0 + completion * 10.0) / 1e6)
    assert found.time_s == pytest.approx(18 * 2.0 / 2)


def test_equal_images_are_asked_about_once(store: Store) -> None:
    twice = [replace(one, id=f"{turn} {one.id}") for turn in range(2) for one in Cars()]
    found = estimate(inquiry(), twice, store, concurrency=2)
    assert (found.stage1.calls, found.stage2.calls) == (9, 9)
    ask(store, size=3)
    left = estimate(inquiry(), twice, store, concurrency=2)
    assert left.stage1 == reckon(store, inquiry()).stage1


def test_slac_asks_once_per_sample(store: Store) -> None:
    assert reckon(store, inquiry("slac")).stage2.calls == 0


def test_a_second_sample_is_one_more_question_with_an_image(store: Store) -> None:
    once, twice = reckon(store, inquiry()), reckon(store, inquiry("tlac:second=name"))
    assert (twice.stage1.calls, twice.stage2.calls) == (18, 9)
    assert twice.cost_usd > once.cost_usd  # type: ignore[operator]
    assert reckon(store, inquiry("slac:second=name")).stage2.calls == 0


def test_stored_answers_are_not_asked_again_and_teach_their_tokens(store: Store) -> None:
    ask(store, size=3)
    found = reckon(store, inquiry())
    assert (found.stage1.calls, found.stage1.stored, found.stage1.learned_from) == (6, 3, 3)
    # FakeLMM counts 10 prompt tokens a call
    assert found.stage1.prompt_tokens == 60
    # of three first answers two needed a choice: two thirds of the other six will
    assert (found.stage2.calls, found.stage2.stored) == (4, 2)


def test_a_run_that_is_stored_takes_nothing(store: Store) -> None:
    ask(store, size=9)
    found = reckon(store, inquiry())
    assert (found.stage1.calls, found.stage2.calls, found.cost_usd, found.time_s) == (0, 0, 0.0, 0.0)


def test_a_limit_of_calls_a_minute_bounds_the_time(store: Store) -> None:
    slow = Backend("slow", "slow.yaml", BackendSpec(adapter="fake", model="m", limits=Limits(requests_per_minute=6)))
    assert reckon(store, inquiry("slac", slow)).time_s == pytest.approx(90.0)


def test_batches_cost_half_and_take_a_day_for_each_stage(store: Store) -> None:
    asked = load_backend("gpt-4o")
    given, dataset = inquiry("tlac", asked), Cars(size=9)
    live, batch = (estimate(given, list(dataset), store, 2, is_batch) for is_batch in (False, True))
    assert batch.cost_usd == pytest.approx((live.cost_usd or 0) / 2)
    assert (batch.stage1.calls, batch.time_s) == (live.stage1.calls, 2 * 86_400)


def test_a_backend_without_batches_can_not_be_estimated_so(store: Store) -> None:
    dataset = Cars(size=1)
    with pytest.raises(UsageError, match="no batch interface"):
        estimate(inquiry(), list(dataset), store, 1, is_batch=True)


class AllClasses:
    """Finds the classes in their order."""

    async def nearest(self, answer: str, count: int) -> NearestClasses:
        return NearestClasses((0, 1, 2), (0.9, 0.5, 0.1))


def cascade(size: int = 9, method: str = "tlac-cascade") -> RunConfig:
    return replace(inquiry(method, size=size), prompts=load_prompts("default:hints=2"))


def test_a_cascade_is_taken_to_describe_every_image_as_long_as_nothing_is_known(store: Store) -> None:
    found = reckon(store, cascade())
    assert (found.stage1.calls, found.stage2.calls) == (18, 9)
    assert reckon(store, cascade(method="tlac-cascade:second=name")).stage1.calls == 27


def test_of_a_cascade_the_named_images_tell_how_many_of_the_others_are_described(store: Store) -> None:
    """One in three first answers is a class name; of six images none is described yet."""
    config = cascade()
    lmm = FakeLMM(lambda request: answer(request) if request.images else "lorry")
    bound = BoundLMM(BACKEND, StoredLMM(lmm, store, "fake"))
    prompter = plan_questions(config, lambda _: bound, AllClasses())
    for sample in Cars(size=6):
        asyncio.run(prompter.ask_stage1(identify(sample.source, sample.id)))
    found = reckon(store, config)
    # three first answers, four descriptions, and two of three other images
    assert (found.stage1.calls, found.stage1.stored) == (3 + 4 + 2, 6)
    assert found.stage2.calls == 4 + 2
    asyncio.run(collect(Cars(size=6), prompter, open_method("tlac-cascade"), 1))
    found = reckon(store, config)
    assert (found.stage1.calls, found.stage2.calls) == (3 + 2, 2)


def test_a_shortlist_is_reckoned_by_its_own_length(store: Store) -> None:
    many = replace(Cars(), classes=tuple(f"class number {n}" for n in range(1000)))
    tokens = [
        reckon(store, replace(inquiry(method), dataset=many)).stage2.prompt_tokens
        for method in ("tlac", "tlac-shortlist", "tlac-shortlist:k=50")
    ]
    assert tokens[0] > 10 * tokens[1]
    assert tokens[1] < tokens[2] < 2 * tokens[1]


def test_a_second_look_of_every_image_that_is_described_is_the_most_that_there_may_be(store: Store) -> None:
    plain, config = reckon(store, cascade()), cascade(method="tlac-cascade:relook=true")
    found = reckon(store, config)
    assert (found.stage1, found.stage2.calls) == (plain.stage1, 9 + 9)
    # an image each
    assert found.stage2.prompt_tokens > plain.stage2.prompt_tokens + 9 * 1000
    assert found.cost_usd > plain.cost_usd  # type: ignore[operator]
    # of three images two are described and chosen for; one choice is the nearest class, of the other a look is missing
    lmm = FakeLMM(
        lambda request: (
            answer(request) if request.images else "red car" if "truck" in request.choice.answer else "lorry"
        )
    )
    bound = BoundLMM(BACKEND, StoredLMM(lmm, store, "fake"))
    asyncio.run(
        collect(Cars(size=3), plan_questions(cascade(), lambda _: bound, AllClasses()), open_method("tlac-cascade"), 1)
    )
    left = reckon(store, config)
    assert (left.stage1.calls, left.stage1.stored) == (6 + 4, 5)
    assert (left.stage2.calls, left.stage2.stored) == (4 + 4 + 2, 2)


PRICED = replace(cascade(), dataset=replace(Cars(), classes=tuple(f"class number {n}" for n in range(1000))))


def test_a_budget_takes_the_most_that_an_image_can_be_asked_for_it(store: Store) -> None:
    full = fit_budget(PRICED, 1.0, store)
    assert full.method == "tlac-cascade:relook=true,k=25"
    steps = {step: usd for step, usd in full.budget_per_image.items() if step != "budget"}
    assert list(steps) == ["name", "describe", "choose", "look"]
    # a dollar a million prompt tokens and ten a million of the answer, of forty tokens
    assert steps["describe"] == pytest.approx((1000 + len(load_prompts("default").stage1["default"]) // 4 + 400) / 1e6)
    assert fit_budget(PRICED, sum(steps.values()), store).method == full.method
    plain = fit_budget(PRICED, sum(steps.values()) - 1e-6, store)
    assert plain.method == "tlac-cascade:relook=false,k=25"
    assert "look" not in plain.budget_per_image
    short = fit_budget(
        PRICED, sum(usd for step, usd in plain.budget_per_image.items() if step != "budget") - 2e-5, store
    )
    assert short.method == "tlac-cascade:relook=false,k=20"
    assert short.budget_per_image["choose"] < plain.budget_per_image["choose"] - 2e-5
    assert record_of(short).budget_per_image == short.budget_per_image


def test_what_is_not_asked_again_costs_nothing_and_a_second_sample_does(store: Store) -> None:
    """Without hints the description is asked for in the very words that have named the image."""
    bare = replace(PRICED, prompts=load_prompts("default"))
    assert list(fit_budget(bare, 1.0, store).budget_per_image) == ["budget", "name", "choose", "look"]
    listed = fit_budget(replace(PRICED, prompts=load_prompts("listed")), 1.0, store)
    assert listed.method == "tlac-cascade:relook=false,k=25", "a set without words for a second look has none"
    with_second = fit_budget(replace(PRICED, method="tlac-cascade:second=name"), 1.0, store)
    assert with_second.method == "tlac-cascade:second=name,relook=true,k=25"
    assert list(with_second.budget_per_image) == ["budget", "name", "describe", "second sample", "choose", "look"]


@pytest.mark.parametrize(
    ("config", "budget_usd", "complaint"),
    [
        (PRICED, 0.001, r"costs up to about \$0\.0\d+ \(name \$0\.0\d+, describe .*raise it, or ask once"),
        (replace(PRICED, method="tlac"), 1.0, "chooses k and relook of tlac-cascade, and not those of tlac:"),
        (replace(PRICED, method="tlac-cascade:k=9"), 1.0, "name that method without them"),
        (
            replace(PRICED, backend=UNPRICED, stage2_backend=UNPRICED),
            1.0,
            "no price is known for m: state `prices` in u.yaml",
        ),
    ],
)
def test_a_budget_that_can_not_be_kept_is_one_clear_line(
    store: Store, config: RunConfig, budget_usd: float, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        fit_budget(config, budget_usd, store)


def test_batches_stretch_a_budget(store: Store) -> None:
    asked = load_backend("gpt-4o")
    config = replace(PRICED, backend=asked, stage2_backend=asked)
    live, batch = (fit_budget(config, 1.0, store, is_batch).budget_per_image for is_batch in (False, True))
    assert {step: usd / 2 for step, usd in live.items() if step != "budget"} == pytest.approx(
        {step: usd for step, usd in batch.items() if step != "budget"}
    )
