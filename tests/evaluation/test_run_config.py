from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.support.cars import BACKEND, SPEC
from tests.support.fakes import FakeLMM
from tlac.config.schemas import Backend
from tlac.errors import UsageError
from tlac.evaluation.run_config import plan_questions
from tlac.methods.base import BoundLMM


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
