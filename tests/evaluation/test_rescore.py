from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cars import SPEC, answer
from tests.support.fakes import FakeLMM, LetterEncoder, digest
from tlac.cache.store import Store
from tlac.errors import MissingAnswersError, SampleError, UnknownNameError, UsageError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import RunConfig, Runner
from tlac.results.record import Run
from tlac.results.usage import read_calls
from tlac.types import LMMRequest, Outcome


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def ran(reply=answer, spec: RunConfig = SPEC) -> Run:
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(reply))
        monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
        monkeypatch.setattr("tlac.evaluation.rescore.open_encoder", lambda config: LetterEncoder())
        monkeypatch.setattr("tlac.evaluation.rescore.load_encoder_config", lambda name: spec.encoder)
        return Runner(store).run(spec, tmp_path / "runs")

    return ran


def test_the_same_scoring_gives_the_same_bytes_and_names_its_parent(run, store: Store, tmp_path: Path) -> None:
    first = run()
    again = rescore(first.folder, store, Rescoring(), tmp_path / "runs")
    assert again.record.parent == first.record.run
    assert again.folder != first.folder
    read = [(found.folder / "predictions.jsonl").read_bytes() for found in (first, again)]
    assert read[0] == read[1]
    assert again.record.cost_usd == 0
    assert again.record.calls.stage1.asked == again.record.calls.stage2.asked == 0


def test_pictures_and_times_are_taken_over_for_the_report(run, store: Store, tmp_path: Path) -> None:
    first = run()
    name = f"{digest('image')}.webp"
    (first.folder / "thumbnails").mkdir(exist_ok=True)
    (first.folder / "thumbnails" / name).write_bytes(b"RIFF....WEBP picture")
    again = rescore(first.folder, store, Rescoring(), tmp_path / "runs")
    for place in (f"thumbnails/{name}", "calls.jsonl"):
        assert (again.folder / place).read_bytes() == (first.folder / place).read_bytes()


def test_another_template_changes_scores_and_no_answer(run, store: Store, tmp_path: Path) -> None:
    first = run()
    again = rescore(first.folder, store, Rescoring(template="zzz {}"), tmp_path)
    assert [one.answer for one in again.predictions] == [one.answer for one in first.predictions]
    assert [one.score for one in again.predictions] != [one.score for one in first.predictions]
    assert again.record.template == "zzz {}"


def test_a_tlac_run_scored_as_slac_forgets_its_choices(run, store: Store, tmp_path: Path) -> None:
    again = rescore(run().folder, store, Rescoring(method="slac"), tmp_path)
    assert again.record.method == "slac"
    assert {one.decided_by for one in again.predictions} == {"exact", "similarity"}
    assert all(one.stage2_key is None for one in again.predictions)


def test_a_tlac_run_scored_as_slac_costs_what_its_first_answers_did(run, store: Store, tmp_path: Path) -> None:
    first = run()
    again = rescore(first.folder, store, Rescoring(method="slac"), tmp_path)
    asked = {one.stage1_key for one in first.predictions}
    chosen = {one.stage2_key for one in first.predictions} - {None}
    assert first.record.answers_cost_usd == pytest.approx(0.001 * (len(asked) + len(chosen)))
    assert again.record.answers_cost_usd == pytest.approx(0.001 * len(asked))
    told = [(call.stage, call.key) for one in read_calls(again.folder) for call in one.calls]
    assert told == [("stage1", one.stage1_key) for one in first.predictions]
    assert rescore(again.folder, store, Rescoring(), tmp_path).record.answers_cost_usd == again.record.answers_cost_usd


def test_a_rule_that_needs_more_answers_than_there_are_says_how_many(run, store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingAnswersError, match=r"3 samples were decided without stage 2.*--matching paper"):
        rescore(run().folder, store, Rescoring(matching="paper"), tmp_path)
    assert rescore(run().folder, store, Rescoring(matching="paper", method="slac"), tmp_path).record.is_complete


def test_a_rule_without_exact_answers_needs_no_choice_where_none_is_asked_for(
    run, store: Store, tmp_path: Path
) -> None:
    from dataclasses import replace

    fused = run(spec=replace(SPEC, method="slac-fused"))
    again = rescore(fused.folder, store, Rescoring(matching="paper"), tmp_path)
    assert {one.decided_by for one in again.predictions} == {"similarity"}
    assert "exact" in {one.decided_by for one in fused.predictions}


def test_a_paper_run_can_climb_the_ladder(run, store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    first = run(spec=replace(SPEC, matching="paper"))
    again = rescore(first.folder, store, Rescoring(matching="ladder"), tmp_path)
    assert {one.decided_by for one in again.predictions} == {"exact", "choice"}


def test_what_failed_stays_failed_unless_its_first_answer_is_enough(run, store: Store, tmp_path: Path) -> None:
    def fail_second(request: LMMRequest) -> str:
        if request.stage == "stage2":
            raise SampleError("fake: too large")
        return answer(request)

    first = run(fail_second)
    again = rescore(first.folder, store, Rescoring(), tmp_path)
    assert again.predictions[1].outcome is Outcome.FAILED
    assert again.predictions[1].reason == "fake: too large"
    assert not again.record.is_complete
    assert rescore(first.folder, store, Rescoring(method="slac"), tmp_path).record.is_complete


def test_an_answer_that_is_not_in_the_store_is_named(run, tmp_path: Path) -> None:
    first = run()
    with (
        Store(tmp_path / "other") as other,
        pytest.raises(MissingAnswersError, match=r"stage1 answer about 0.png .*--store"),
    ):
        rescore(first.folder, other, Rescoring(), tmp_path)


def test_a_run_can_not_become_what_it_did_not_ask(run, store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    slac = run(spec=replace(SPEC, method="slac"))
    with pytest.raises(UsageError, match="use `tlac bench --method tlac`"):
        rescore(slac.folder, store, Rescoring(method="tlac"), tmp_path)
    with pytest.raises(UnknownNameError):
        rescore(slac.folder, store, Rescoring(matching="papper"), tmp_path)


def test_a_run_that_asked_nobody_has_nothing_to_score_again(run, store: Store, tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.support.made_runs import write_run

    first = run()
    record = replace(first.record, run="clip", method="clip", prompts="")
    folder = write_run(tmp_path / "runs", record, first.predictions, first.metrics, {})
    with pytest.raises(UsageError, match="clip asked no LMM"):
        rescore(folder, store, Rescoring(), tmp_path)


def test_scoring_again_imports_neither_torch_nor_litellm(tmp_path: Path) -> None:
    program = (
        "import sys, tlac.evaluation.rescore, tlac.encoders.open_clip, tlac.encoders.sentence_transformers; "
        "print([name for name in ('torch', 'open_clip', 'litellm', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
