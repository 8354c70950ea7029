"""What a bench makes of an engine, which has answers had elsewhere: here by a fake that asks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cars import SPEC, answer
from tests.support.fakes import FakeLMM, LetterEncoder
from tlac.cache.store import Store
from tlac.config.schemas import Backend
from tlac.errors import SampleError
from tlac.evaluation.collect import collect
from tlac.evaluation.prompter import BoundLMM
from tlac.evaluation.run_config import RunConfig, plan_questions
from tlac.evaluation.runner import Runner
from tlac.hashing import response_key
from tlac.interfaces import LMM, ClassFinder
from tlac.lmms.middleware.cache import StoredLMM
from tlac.runtime import aio
from tlac.types import LMMRequest, LMMResponse


class AskingEngine:
    """Asks with an LMM of its own, and remembers what it has paid for."""

    def __init__(self, store: Store, lmm: LMM) -> None:
        self._store = store
        self._lmm = lmm
        self.paid: set[str] = set()

    async def ask(self, request: LMMRequest) -> LMMResponse:
        response = await self._lmm.ask(request)
        self.paid.add(response_key(request))
        return response

    @contextmanager
    def fetch(self, config: RunConfig, finder: ClassFinder) -> Iterator[None]:
        lmm = StoredLMM(self, self._store, "fake")
        prompter = plan_questions(config, lambda backend: BoundLMM(backend, lmm), finder)
        aio.run(collect(config.dataset, prompter, config.asking_method, 3))
        yield None

    def rest(self, backend: Backend) -> LMM:
        def complain(request: LMMRequest) -> LMMResponse:
            raise SampleError("its batch expired")

        return FakeLMM(complain)


@pytest.fixture
def run_with(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())

    def run(reply: Callable[[LMMRequest], str | LMMResponse]):
        return Runner(store, engine=AskingEngine(store, FakeLMM(reply))).run(SPEC, tmp_path / "runs")

    return run


def test_answers_that_an_engine_had_count_as_asked_by_the_run(run_with) -> None:
    first, second = run_with(answer), run_with(answer)
    assert (first.record.calls.stage1.asked, first.record.calls.stage2.asked) == (9, 2)
    assert first.record.cost_usd == pytest.approx(0.011)
    assert (second.record.calls.stage1.asked, second.record.calls.stage2.asked) == (0, 0)
    assert second.record.cost_usd == 0


def test_a_run_through_an_engine_predicts_what_a_local_run_predicts(run_with, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(answer))
    with Store(tmp_path / "other") as other:
        local = Runner(other).run(SPEC, tmp_path / "runs")
    apart = run_with(answer)
    written = [(run.folder / "predictions.jsonl").read_bytes() for run in (local, apart)]
    assert written[0] == written[1]


def test_what_an_engine_could_not_have_fails_with_its_reason_and_is_had_by_the_next_run(run_with) -> None:
    def without_trucks(request: LMMRequest) -> str:
        if (said := answer(request)) == "a big truck":
            raise SampleError("refused")
        return said

    incomplete = run_with(without_trucks)
    assert (incomplete.record.is_complete, incomplete.metrics.failed) == (False, 3)
    assert {one.reason for one in incomplete.predictions if one.reason} == {"its batch expired"}
    whole = run_with(answer)
    assert whole.record.is_complete
    assert whole.record.calls.stage1.asked == 3


def test_options_of_different_engines_don_t_go_together(tlac_command) -> None:
    asked = ("bench", "--backend", "embedded", "--dataset", "cifar10-samples")
    for options, complaint in [
        (("--parallelism", "2"), "belong to --engine ray"),
        (("--engine", "ray", "--batch"), "choose one"),
        (("--batch", "--order-trials", "2"), "--order-trials asks from this process"),
    ]:
        done = tlac_command(*asked, *options)
        assert done.code == 2
        assert complaint in done.err
        assert done.err.count("\n") == 1
