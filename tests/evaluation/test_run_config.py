from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.support.cars import BACKEND, SPEC
from tests.support.fakes import FakeLMM, LetterEncoder
from tests.support.made_runs import record_of
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend
from tlac.errors import EncoderUnavailableError, UsageError
from tlac.evaluation.prompter import BoundLMM
from tlac.evaluation.run_config import ClassList, plan_questions
from tlac.types import Image


def test_stage_2_lists_the_classes_in_the_order_that_is_shown() -> None:
    lmm = FakeLMM(lambda request: "lorry")
    prompter = plan_questions(SPEC, lambda backend: BoundLMM(backend, lmm), order=(2, 0, 1))
    asyncio.run(prompter.ask_stage2("a big truck"))
    assert lmm.asked[0].choice.classes == ("lorry", "red car", "old car")


def test_each_member_of_an_ensemble_is_asked_by_itself() -> None:
    other = Backend("other", "other.yaml", BACKEND.spec)
    bound = []

    def bound_lmm(backend: Backend) -> BoundLMM:
        bound.append(backend.name)
        return BoundLMM(backend, FakeLMM(lambda request: "lorry"))

    prompter = plan_questions(replace(SPEC, ensemble=(other,)), bound_lmm)
    assert [member.stage1.backend.name for member in prompter.ensemble] == ["other"]
    assert sorted(bound) == ["fake", "fake", "other", "other"]


def test_without_a_backend_there_is_nobody_to_ask() -> None:
    with pytest.raises(UsageError, match="name one with --backend"):
        plan_questions(replace(SPEC, backend=None), lambda backend: BoundLMM(backend, FakeLMM(str)))


@pytest.mark.parametrize(("classes", "form"), [(("lorry", "zebra"), "name"), (("lorry", "zebra", "lorry"), "index")])
def test_names_are_held_by_a_schema_where_each_means_one_class_else_numbers_are(
    classes: tuple[str, ...], form: str
) -> None:
    lmm = FakeLMM(lambda request: "lorry")
    spec = msgspec.structs.replace(BACKEND.spec, choice_by_index=True, names_in_schema=True)
    held = Backend("fake", "fake.yaml", spec)
    config = replace(SPEC, backend=held, stage2_backend=held, dataset=replace(SPEC.dataset, classes=classes))
    asyncio.run(plan_questions(config, lambda own: BoundLMM(own, lmm)).ask_stage2("a big truck"))
    (request,) = lmm.asked
    assert (request.choice.by_schema, request.choice.by_index) == (form == "name", form == "index")
    text = request.messages[0].parts[0].text
    assert ("\nlorry\n" in text, "\n0: lorry\n" in text) == (form == "name", form == "index")
    assert record_of(config).names_in_schema


def test_a_set_in_free_text_asks_for_no_number_though_the_backend_could_be_held_to_one() -> None:
    lmm = FakeLMM(lambda request: "lorry")
    by_index = Backend("fake", "fake.yaml", msgspec.structs.replace(BACKEND.spec, choice_by_index=True))
    config = replace(SPEC, backend=by_index, stage2_backend=by_index)
    for prompts, expected in (("default", True), ("paper", False)):
        prompter = plan_questions(replace(config, prompts=load_prompts(prompts)), lambda own: BoundLMM(own, lmm))
        asyncio.run(prompter.ask_stage2("a big truck"))
        assert lmm.asked[-1].choice.by_index is expected


def test_every_view_of_an_image_is_asked_about_ones_own_domain() -> None:
    told = load_prompts("default").about("parts on a conveyor")
    config = replace(SPEC, method="slac-fused", prompts=told)
    lmm = FakeLMM(lambda request: "lorry")
    prompter = plan_questions(config, lambda own: BoundLMM(own, lmm))
    for prompts in (None, "name"):
        asyncio.run(prompter.ask_stage1(Image("0" * 64, b""), prompts=prompts))
    words = [request.texts[-1].text for request in lmm.asked]
    assert [text.startswith("This image is one of a set: parts on a conveyor. ") for text in words] == [True, True]
    assert words[0] != words[1]
    plain = replace(config, prompts=load_prompts("default"))
    assert config.digests["prompts name"] != plain.digests["prompts name"]


SPREAD = replace(
    SPEC,
    dataset=ClassList(("cart", "bus", "van", "barge", "boat", "barque")),
    method="slac",
    prompts=load_prompts("default:hints=3,spread=true"),
)


def test_hints_that_are_spread_are_drawn_once_and_workers_need_no_encoder(tmp_path: Path) -> None:
    encoder, own = LetterEncoder(), tmp_path / "own.yaml"
    own.write_text(
        "description: ours\nstage1: name\nhinted: {prefix: '{classes}', question: What?}\n"
        "hints: {count: 2, seed: 1, spread: true}\nstage2: {prefix: '{classes}', question: '{answer}', "
        "prefix_by_index: '{classes}', question_by_index: '{answer}'}\n",
        encoding="utf-8",
    )
    config = replace(SPREAD, method=f"slac:second={own}").resolve(encoder)
    assert sorted(encoder.encoded) == [f"a photo of a {name}" for name in sorted(SPREAD.dataset.classes)]
    assert config.resolve(encoder) is config.with_spread_hints(encoder) is config
    lmm = FakeLMM(lambda request: "lorry")
    prompter = plan_questions(pickle.loads(pickle.dumps(config)), lambda own: BoundLMM(own, lmm))
    for prompts in (None, str(own)):
        asyncio.run(prompter.ask_stage1(Image("0" * 64, b""), prompts=prompts))
    shown = [request.texts[0].text for request in lmm.asked]
    assert "\n".join(config.hints) in shown[0]
    assert set(shown[1].split("\n")) < set(SPREAD.dataset.classes)
    assert len(shown[1].split("\n")) == 2


def test_a_run_is_told_from_one_whose_hints_another_encoder_has_spread() -> None:
    config = SPREAD.with_spread_hints(LetterEncoder())
    moved = {hints: tuple(reversed(names)) for hints, names in config.prompts.drawn.items()}
    assert replace(config, prompts=replace(config.prompts, drawn=moved)).digests != config.digests
    assert "spread hints" not in SPEC.digests


def test_each_half_of_a_dataset_is_hinted_by_its_own_names() -> None:
    for half in (("cart", "bus", "van", "tram"), ("barge", "boat", "barque", "ship")):
        config = replace(SPREAD, dataset=ClassList(half), method="slac").with_spread_hints(LetterEncoder())
        assert set(config.hints) < set(half)


def test_without_an_encoder_hints_that_are_spread_are_refused_and_others_are_not() -> None:
    class Missing(LetterEncoder):
        def encode(self, texts):
            raise EncoderUnavailableError("no weights of letters here")

    with pytest.raises(UsageError, match="drawn with the text encoder letters, which can't be had: no weights"):
        SPREAD.with_spread_hints(Missing())
    assert SPEC.with_spread_hints(Missing()) is SPEC


def test_no_more_spread_hints_are_shown_than_there_are_other_classes() -> None:
    config = replace(SPREAD, dataset=ClassList(("cart", "bus", "van"))).with_spread_hints(LetterEncoder())
    with pytest.raises(UsageError, match="3 of 3 class names would be shown; show fewer than all"):
        config.check()
