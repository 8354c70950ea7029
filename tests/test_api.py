from __future__ import annotations

import asyncio
import concurrent.futures.thread
import threading
from pathlib import Path

import pytest

from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tlac import Classifier, Match, match
from tlac.errors import CallError, InputError, PermanentError, UsageError
from tlac.types import LMMRequest, LMMResponse, Outcome

CLASSES = ["red car", "old car", "red apple"]


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch):
    def opened(reply, **options) -> Classifier:
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: FakeLMM(reply))
        monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
        return Classifier("embedded", CLASSES, **options)

    return opened


def test_an_image_gets_a_class_a_score_and_its_words(classifier, tmp_path: Path) -> None:
    path = tmp_path / "car.png"
    path.write_bytes(make_png())
    found = classifier(lambda request: "a fast automobile" if request.stage == "stage1" else "red car").classify(path)
    assert (found.class_name, found.index, found.decided_by) == ("red car", 0, "choice")
    assert (found.answer, found.choice) == ("a fast automobile", "red car")
    assert found.top(2)[0] == ("red car", found.score)
    assert len(found.top(3)) == 3


def test_async_code_gives_the_same(classifier) -> None:
    asked = classifier(lambda request: "old car")
    assert asyncio.run(asked.aclassify(make_png())) == asked.classify(make_png())


def test_a_refusal_is_no_class(classifier) -> None:
    found = classifier(lambda request: LMMResponse(Outcome.REFUSED, "")).classify(make_png())
    assert (found.class_name, found.score, found.outcome, found.top()) == (None, None, Outcome.REFUSED, ())


def test_errors_reach_the_caller_after_all_images_were_asked_about(classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.png"):
        classifier(lambda request: "old car").classify(tmp_path / "none.png")

    def fail(request: LMMRequest) -> str:
        raise PermanentError("fake: down")

    with pytest.raises(CallError, match="fake: down"):
        classifier(fail).classify_many([make_png(1), make_png(2)])


def test_it_can_be_forgotten_in_the_midst_of_code_that_holds_a_lock(classifier) -> None:
    forgotten = [classifier(lambda request: "old car")]

    def forget() -> None:
        # a pool takes it whenever work is handed in, and garbage may be collected just then
        with concurrent.futures.thread._global_shutdown_lock:
            forgotten.clear()

    forgetting = threading.Thread(target=forget, daemon=True)
    forgetting.start()
    forgetting.join(60)
    assert not forgetting.is_alive()


@pytest.mark.parametrize("method", ["tlac-shortlist:k=2", "tlac-relook:k=2", "slac-fused"])
def test_every_method_about_one_image_works_here_too(classifier, method: str) -> None:
    found = classifier(
        lambda request: "a red car there" if request.stage == "stage1" else "red car", method=method
    ).classify(make_png())
    assert found.class_name == "red car"
    assert found.confidence is not None
    assert 0 < found.confidence < 1


@pytest.mark.parametrize("method", ["vote", "clip"])
def test_a_method_that_asks_nobody_or_several_is_for_bench(classifier, method: str) -> None:
    with pytest.raises(UsageError, match=f"the method {method} asks (no LMM|several backends)"):
        classifier(lambda request: "old car", method=method)


@pytest.mark.parametrize("classes", [[], ["a"], ["a", "a"], ["a", ""], ["a", "?!"]])
def test_a_class_list_that_can_not_be_told_apart_is_refused(classes: list[str]) -> None:
    with pytest.raises(UsageError, match="classes:"):
        match(["x"], classes, encoder=LetterEncoder())


@pytest.mark.parametrize("classes", [["a car", "The car"], ["C", "C++", "c"], ["T-shirt", "t shirt"]])
def test_names_that_differ_in_any_sign_are_different_classes(classes: list[str]) -> None:
    assert [one.class_name for one in match(classes, classes, encoder=LetterEncoder())] == classes


def test_a_name_that_stands_twice_is_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'crane' stands more than once"):
        (found,) = match(["crane"], ["crane", "stork", "crane"], encoder=LetterEncoder())
    assert found.index == 0


def test_match_maps_answers_and_choices() -> None:
    found = match(["a red car", "zzz", "..."], CLASSES, choices=[None, "red apple", None], encoder=LetterEncoder())
    assert [(one.class_name, one.decided_by) for one in found] == [
        ("red car", "exact"),
        ("red apple", "choice"),
        (None, None),
    ]
    assert found[2] == Match(None, None, None, None, None)


def test_match_needs_a_choice_for_each_answer() -> None:
    with pytest.raises(UsageError, match="1 given for 2 answers"):
        match(["a", "b"], CLASSES, choices=["c"], encoder=LetterEncoder())
