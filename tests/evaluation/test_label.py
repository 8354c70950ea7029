from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cars import SPEC, answer
from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tlac.cache.store import Store
from tlac.errors import PermanentError
from tlac.evaluation.label import Labelling
from tlac.evaluation.run_config import ClassList, RunConfig
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.policy import CallPolicy
from tlac.results.labels import Label
from tlac.types import LMMRequest, LMMResponse, Outcome, Sample

CLASSES = SPEC.dataset.classes
IMAGES = [Sample(f"{number}.png", make_png(number)) for number in range(9)]
CONFIG = replace(SPEC, dataset=ClassList(CLASSES, images=IMAGES))


@pytest.fixture
def label(store: Store, monkeypatch: pytest.MonkeyPatch):
    def opened(
        reply: Callable[[LMMRequest], str | LMMResponse] = answer, config: RunConfig = CONFIG, **options
    ) -> tuple[Labelling, list[Label], FakeLMM]:
        lmm = FakeLMM(reply)
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
        monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
        labelling = Labelling(Runner(store, **options), config)
        return labelling, list(labelling.rows()), lmm

    return opened


def test_labels_are_what_a_run_predicts_with_the_next_best_class_beside(label, store: Store, tmp_path: Path) -> None:
    labelling, rows, _ = label()
    run = Runner(store, is_offline=True).run(SPEC, tmp_path / "runs")
    assert [CLASSES.index(row.label) for row in rows] == run.predictions.predicted.tolist()
    for row, prediction in zip(rows, run.predictions, strict=True):
        assert row.margin == prediction.margin
        assert row.candidates == tuple((CLASSES[index], score) for index, score in prediction.top5)
        assert (row.candidates[0][0], row.candidates[1][0]) == (row.label, row.runner_up)
        assert (row.path, row.sha256, row.answer) == (prediction.sample, prediction.image_sha256, prediction.answer)
        assert 0 < row.confidence < 1
    assert (labelling.count, labelling.labelled, labelling.failures.total()) == (9, 9, 0)


def test_the_costs_of_all_rows_are_the_cost_of_all_answers_each_counted_once(label) -> None:
    labelling, rows, lmm = label()
    # stage 2 is asked once for each of two distinct answers
    assert len(lmm.asked) == 11
    assert sum(row.cost_usd for row in rows) == pytest.approx(0.011)
    assert [row.cost_usd for row in rows] == [0.001, 0.002, 0.002, *[0.001] * 6]
    assert labelling.usage.answers_cost_usd == 0.011
    # what is stored cost as much when it was asked
    again, later, lmm = label()
    assert (later, lmm.asked, again.usage.cost_usd) == (rows, [], 0.0)


def test_an_image_that_can_not_be_read_is_one_row_with_its_reason(label, tmp_path: Path) -> None:
    images = [*IMAGES[:2], Sample("none.png", tmp_path / "none.png"), *IMAGES[2:]]
    labelling, rows, _ = label(config=replace(CONFIG, dataset=ClassList(CLASSES, images=images)))
    assert [row.outcome for row in rows].count(Outcome.FAILED) == 1
    assert (rows[2].path, rows[2].label, rows[2].confidence) == ("none.png", None, None)
    assert rows[2].reason == f"{tmp_path}/none.png: can't be read: No such file or directory"
    assert (labelling.labelled, labelling.failures) == (9, {"sample": 1})


def test_a_call_that_all_would_fail_alike_leaves_rows_that_say_so(label) -> None:
    def fail_after_three(request: LMMRequest) -> str:
        if request.stage == "stage1" and len(asked) == 3:
            raise PermanentError("fake: used up")
        asked.append(request)
        return answer(request)

    asked: list[LMMRequest] = []
    config = replace(CONFIG, method="slac")
    labelling, rows, _ = label(fail_after_three, config, policy=CallPolicy(concurrency=1))
    assert len(rows) == 9
    assert sum(row.label is not None for row in rows) == 3
    assert {row.reason for row in rows[3:]} == {"fake: used up", "not asked: fake: used up"}
    assert labelling.failures["stopped"] + labelling.failures["call"] == 6


def test_an_offline_run_has_a_row_for_what_is_missing(label) -> None:
    labelling, rows, lmm = label(is_offline=True)
    assert (len(rows), lmm.asked, labelling.failures) == (9, [], {"missing": 9})


def test_what_is_too_doubtful_has_no_label_and_keeps_its_candidates(label) -> None:
    labelling, rows, _ = label(config=replace(CONFIG, abstain_below=0.99))
    assert {row.outcome for row in rows} == {Outcome.ABSTAINED}
    assert all(row.label is None and row.confidence is not None and row.candidates for row in rows)
    assert labelling.labelled == 0


def test_rows_come_while_later_images_are_still_asked_about(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()

    class Waiting(FakeLMM):
        async def ask(self, request: LMMRequest) -> LMMResponse:
            if len(self.asked) == 8:
                # the ninth is answered once the first row is there
                await asyncio.to_thread(seen.wait, 60)
            return await super().ask(request)

    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: Waiting(lambda request: "red car"))
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    labelling = Labelling(Runner(store, policy=CallPolicy(concurrency=1)), replace(CONFIG, method="slac"))
    rows = labelling.rows()
    assert next(rows).path == "0.png"
    seen.set()
    assert [row.path for row in rows][-1] == "8.png"


def test_leaving_early_asks_about_no_more_than_was_under_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lmm = FakeLMM(lambda request: "red car")
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    images = [Sample(f"{number}.png", make_png(number)) for number in range(2000)]
    config = replace(CONFIG, method="slac", dataset=ClassList(CLASSES, images=images))
    rows = Labelling(Runner(store, policy=CallPolicy(concurrency=1)), config).rows()
    next(rows)
    rows.close()
    asked = len(lmm.asked)
    assert asked < 2000
    assert store.stats().answers == asked
