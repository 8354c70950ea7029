"""A second sample: what it is asked, what it says for the predicted class, and that it decides nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.cars import SPEC, Cars, answer
from tests.support.fakes import FakeLMM, LetterEncoder, digest
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.errors import UnknownNameError, UsageError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import Runner
from tlac.results.folder import load_run
from tlac.results.record import Run
from tlac.scoring.confidence import confidences
from tlac.scoring.matching import find_rule
from tlac.scoring.scorer import Scorer
from tlac.types import SECOND_SAMPLE, LMMRequest, LMMResponse, Outcome, TextPart, Transcript, Turn

CLASSES = ("red car", "old car", "lorry", "zebra", "fig")
NAME_PROMPT = load_prompts("name").stage1["default"]


def is_second(request: LMMRequest) -> bool:
    return any(isinstance(part, TextPart) and part.text == NAME_PROMPT for part in request.messages[0].parts)


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.load_encoder_config", lambda name: SPEC.encoder)

    def ran(method: str, second: str | LMMResponse = "red car", **changes) -> tuple[Run, FakeLMM]:
        lmm = FakeLMM(lambda request: second if is_second(request) else answer(request))
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
        return Runner(store).run(replace(SPEC, method=method, **changes), tmp_path / "runs"), lmm

    return ran


@pytest.mark.parametrize("method", ["slac", "tlac", "tlac-shortlist:k=2", "slac-fused:view="])
def test_it_is_a_witness_and_changes_nothing_but_confidence(run, method: str) -> None:
    once, _ = run(method)
    twice, lmm = run(f"{method}{',' if ':' in method else ':'}second=name")
    assert [replace(one, second=None, further=()) for one in twice.predictions] == [
        replace(one, further=()) for one in once.predictions
    ]
    # the second sample says "red car" of every image, the first of every third
    named = [one.predicted == 0 for one in twice.predictions]
    assert [one.second for one in twice.predictions] == [1.0 if is_red else -1.0 for is_red in named]
    assert named[::3] == [True] * 3
    assert False in named
    before, after = (confidences(one.predictions.decisions)[one.predictions.decision] for one in (once, twice))
    assert [b < a for b, a in zip(before, after, strict=True)] == named
    # the others are in the store already
    assert [is_second(request) for request in lmm.asked] == [True] * 9


def test_its_words_speak_for_a_class_by_its_lead_among_them() -> None:
    first = Turn("stage1", digest("a"), LMMResponse(Outcome.ANSWERED, "an old car of sorts"))
    choice = Turn("stage2", digest("b"), LMMResponse(Outcome.ANSWERED, "old car"))
    second = Turn("stage1", digest("c"), LMMResponse(Outcome.ANSWERED, "some red cart"), SECOND_SAMPLE)
    transcript = Transcript("1.png", digest("i"), 0, first, choice, further=(second,))
    (found,) = Scorer(CLASSES, LetterEncoder(), find_rule("ladder"), "{}").score([transcript]).predictions
    vectors = LetterEncoder().encode([*CLASSES, "some red cart"]).vectors.astype(float)
    cosines = np.round(vectors[:-1] @ vectors[-1], 6)
    others = sorted(np.delete(cosines, 1), reverse=True)
    margin = cosines[1] - others[0]
    assert margin < 0
    # the lowest of the best five: the class and four others
    expected = margin / (abs(margin) + others[0] - others[3] + 0.01)
    assert (found.predicted, found.decided_by) == (1, "choice")
    assert found.second == pytest.approx(expected, abs=1e-5)


def test_a_second_sample_without_an_answer_says_nothing(run) -> None:
    found, _ = run("tlac:second=name", LMMResponse(Outcome.REFUSED, "", reason="policy"))
    assert {one.second for one in found.predictions} == {None}
    assert found.metrics.answered == 9


def test_the_run_folder_keeps_it_and_scoring_again_gives_the_same_bytes(run, store: Store, tmp_path: Path) -> None:
    first, _ = run("tlac:second=name", "a big old thing")
    assert load_run(first.folder).predictions == first.predictions
    assert len({one.second for one in first.predictions}) == 3
    again = rescore(first.folder, store, Rescoring(), tmp_path)
    assert (again.folder / "predictions.jsonl").read_bytes() == (first.folder / "predictions.jsonl").read_bytes()
    alone = rescore(first.folder, store, Rescoring(method="slac"), tmp_path)
    assert {one.second for one in alone.predictions} == {None}


def test_a_run_without_one_has_no_word_of_it(run) -> None:
    found, _ = run("tlac")
    assert b"second" not in (found.folder / "predictions.jsonl").read_bytes()


def test_hints_of_the_second_sample_are_shown_in_it_alone(run) -> None:
    names = {f"made up {place}" for place in range(30)}
    found, lmm = run("slac:second=default:hints=7", dataset=Cars(classes=tuple(sorted(names))))
    shown = [
        next(part.text for part in request.messages[0].parts if isinstance(part, TextPart)) for request in lmm.asked
    ]
    assert sorted(sum(name in text.split("\n") for name in names) for text in shown) == [0] * 9 + [7] * 9
    assert found.record.hints == ()


@pytest.mark.parametrize("method", ["tlac:second=default", "slac-fused:second=name", "tlac:second=paper"])
def test_the_same_words_again_are_refused_before_anybody_is_asked(run, method: str) -> None:
    with pytest.raises(UsageError, match=r"in the same words .*second=default:hints=30"):
        run(method)


def test_what_there_is_not_is_named_before_anybody_is_asked(run) -> None:
    with pytest.raises(UnknownNameError, match="nmae"):
        run("tlac:second=nmae")
    with pytest.raises(UsageError, match="30 of 3 class names"):
        run("tlac:second=default:hints=30")
    with pytest.raises(UnknownNameError, match="second"):
        run("vote:second=name", ensemble=(SPEC.backend,))
