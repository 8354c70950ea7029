"""The methods beyond the paper's, as whole runs against fakes: what they ask, store, finish and score again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.cars import BACKEND, SPEC, Cars, answer
from tests.support.fakes import FakeLMM, LetterEncoder, make_png
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, BackendSpec
from tlac.errors import ConfigError, SampleError, UsageError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import Runner
from tlac.results.folder import load_run
from tlac.results.predictions import read_asked
from tlac.results.record import Run
from tlac.types import LMMRequest, LMMResponse, Outcome

Reply = Callable[[LMMRequest], "str | LMMResponse"]
INDEXED = Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m", choice_by_index=True))


@dataclass(frozen=True)
class Many(Cars):
    classes: tuple[str, ...] = ("red car", "old car", "lorry", "zebra", "quiz box", "fig", "hymn")


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.open_encoder", lambda config: LetterEncoder())
    monkeypatch.setattr("tlac.evaluation.rescore.load_encoder_config", lambda name: SPEC.encoder)

    def ran(method: str, reply: Reply = answer, **changes) -> tuple[Run, FakeLMM]:
        lmm = FakeLMM(reply)
        monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
        given = {"dataset": Many(), "method": method, **changes}
        return Runner(store).run(replace(SPEC, **given), tmp_path / "runs"), lmm

    return ran


METHODS = (
    *("tlac-shortlist:k=3", "tlac-relook:k=3", "tlac-cascade:k=3", "slac-fused", "vote"),
    *("tlac:second=name", "slac-fused:second=default:hints=2", "tlac-cascade:k=3,second=name"),
    "tlac-cascade:k=3,relook=true",
)


def settings(method: str) -> dict:
    other = Backend("other", "other.yaml", BackendSpec(adapter="fake", model="n"))
    return {"ensemble": (other,)} if method == "vote" else {}


@pytest.mark.parametrize("method", METHODS)
def test_a_second_run_asks_nobody_and_scoring_again_gives_the_same_bytes(
    run, store: Store, tmp_path: Path, method: str
) -> None:
    first, asked = run(method, **settings(method))
    assert first.record.is_complete
    assert load_run(first.folder).predictions == first.predictions
    second, none = run(method, **settings(method))
    assert (len(asked.asked) > 0, none.asked) == (True, [])
    third = rescore(first.folder, store, Rescoring(), tmp_path)
    written = {(one.folder / "predictions.jsonl").read_bytes() for one in (first, second, third)}
    assert len(written) == 1
    counted = third.record.calls
    assert counted.stage1.from_store == first.record.calls.stage1.asked + first.record.calls.stage1.from_store
    assert counted.stage2.from_store == first.record.calls.stage2.asked + first.record.calls.stage2.from_store
    keys = {key for line in read_asked(first.folder / "predictions.jsonl") for key in line.keys}
    assert keys == {entry.key for entry in store.entries()}


@pytest.mark.parametrize("method", METHODS)
def test_what_fails_leaves_the_run_incomplete_and_the_same_command_finishes_it(run, method: str) -> None:
    def flaky(request: LMMRequest) -> str:
        if answer_is_about_a_truck(request):
            raise SampleError("fake: too large")
        return answer(request)

    broken, _ = run(method, flaky, **settings(method))
    assert (broken.record.is_complete, broken.metrics.failed) == (False, 3)
    finished, lmm = run(method, **settings(method))
    assert finished.record.is_complete
    assert all(answer_is_about_a_truck(request) for request in lmm.asked)


def answer_is_about_a_truck(request: LMMRequest) -> bool:
    # a second look has no words
    said = request.choice.answer if request.choice else ""
    return "truck" in (said or answer(replace(request, stage="stage1")))


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_is_an_outcome_and_not_a_guess(run, method: str) -> None:
    refused = LMMResponse(Outcome.REFUSED, "", reason="policy")
    found, _ = run(method, lambda request: refused, **settings(method))
    assert found.record.is_complete
    assert found.metrics.refused == 9
    assert {one.predicted for one in found.predictions} == {None}


def test_a_shortlist_shows_stage_2_the_nearest_classes_alone_in_class_order(run) -> None:
    found, lmm = run("tlac-shortlist:k=3")
    shown = {request.choice.answer: request for request in lmm.asked if request.stage == "stage2"}
    assert shown.keys() == {"an ancient vehicle", "a big truck"}
    request = shown["a big truck"]
    assert len(request.choice.candidates) == 3
    assert list(request.choice.candidates) == sorted(request.choice.candidates)
    text = request.messages[0].parts[0].text
    listed = [name for name in Many().classes if f"\n{name}\n" in text]
    assert listed == [Many().classes[index] for index in request.choice.candidates]
    truck = found.predictions[2]
    assert truck.shortlist == request.choice.candidates
    assert found.metrics.shortlist.n == 6
    assert found.metrics.shortlist.mean_size == 3
    held = [one.label in one.shortlist for one in found.predictions if one.shortlist]
    assert found.metrics.shortlist.holds_label == sum(held) / len(held)


def test_a_choice_stays_an_index_into_the_datasets_classes(run) -> None:
    def pick_last(request: LMMRequest) -> str:
        if request.stage == "stage1":
            return answer(request)
        numbers = [line.partition(":")[0] for line in request.messages[0].parts[0].text.splitlines() if ": " in line]
        assert [int(number) for number in numbers] == list(request.choice.candidates)
        return json.dumps({"class_index": numbers[-1]})

    found, _ = run("tlac-shortlist:k=2", pick_last, backend=INDEXED, stage2_backend=INDEXED)
    chosen = {one.sample: one for one in found.predictions if one.decided_by == "choice"}
    assert len(chosen) == 6
    assert all(one.predicted == one.shortlist[-1] for one in chosen.values())


def test_a_shuffled_class_list_gives_the_same_shortlists_and_survives_scoring_again(
    run, store: Store, tmp_path: Path
) -> None:
    def pick_best(request: LMMRequest) -> str:
        if request.stage == "stage1":
            return answer(request)
        wanted = "old car" if "ancient" in request.choice.answer else "lorry"
        return json.dumps({"class_index": str(request.choice.classes.index(wanted))})

    plain, _ = run("tlac-shortlist:k=4", pick_best, backend=INDEXED, stage2_backend=INDEXED)
    shuffled, _ = run("tlac-shortlist:k=4", pick_best, backend=INDEXED, stage2_backend=INDEXED, shuffle_classes=7)
    assert [one.shortlist for one in shuffled.predictions] == [one.shortlist for one in plain.predictions]
    assert [one.predicted for one in shuffled.predictions] == [one.predicted for one in plain.predictions]
    again = rescore(shuffled.folder, store, Rescoring(), tmp_path)
    assert again.predictions == shuffled.predictions


def test_hints_are_shown_to_stage_1_alone_and_kept_for_scoring_again(run, store: Store, tmp_path: Path) -> None:
    made, lmm = run("tlac", prompts=load_prompts("default:hints=2,seed=1"))
    shown = {
        part.text
        for request in lmm.asked
        for part in request.messages[0].parts
        if "some of" in getattr(part, "text", "")
    }
    assert made.record.prompts == "default:hints=2,seed=1"
    assert len(made.record.hints) == 2
    assert len(shown) == 1
    assert "\n".join(made.record.hints) in shown.pop()
    assert made.metrics.unhinted == sum(Many().classes[one.label] not in made.record.hints for one in made.predictions)
    again = rescore(made.folder, store, Rescoring(), tmp_path)
    assert (again.record.hints, again.metrics.unhinted) == (made.record.hints, made.metrics.unhinted)
    assert load_run(made.folder).metrics == made.metrics


def test_another_seed_of_hints_asks_anew(run) -> None:
    run("slac", prompts=load_prompts("default:hints=2,seed=1"))
    again, _ = run("slac", prompts=load_prompts("default:hints=2,seed=1"))
    other, _ = run("slac", prompts=load_prompts("default:hints=2,seed=2"))
    assert again.record.calls.stage1.asked == 0
    assert other.record.calls.stage1.asked == len(other.predictions)


def test_an_answer_without_words_gets_no_second_stage(run) -> None:
    found, lmm = run("tlac-shortlist", lambda request: "?!")
    assert {request.stage for request in lmm.asked} == {"stage1"}
    assert found.metrics.unparsed == 9


@pytest.mark.parametrize(("below", "looks"), [("0", 0), ("1", 6)])
def test_a_doubtful_sample_is_looked_at_again(run, below: str, looks: int) -> None:
    found, lmm = run(f"tlac-relook:k=3,relook_below={below}")
    second = [request for request in lmm.asked if request.stage == "stage2"]
    with_image = [request for request in second if request.images]
    # without the image an answer is asked about once, with it every image is
    assert (len(second), len(with_image)) == ((6, 6) if looks else (2, 0))
    assert found.metrics.shortlist.stage2_with_image == looks
    assert sum(one.stage2_with_image for one in found.predictions) == looks
    assert all(len(request.choice.candidates) == 3 for request in second)
    assert [one.decided_by for one in found.predictions[:3]] == ["exact", "choice", "choice"]


def name_or_describe(request: LMMRequest) -> str | LMMResponse:
    """With hints a class name, or "vehicle", which hides what the description of the same image says."""
    is_hinted = request.stage == "stage1" and len(request.messages[0].parts) == 3
    return "vehicle" if is_hinted and answer(request) != "Red car." else answer(request)


HINTED = load_prompts("default:hints=2")


def test_a_cascade_has_described_what_it_can_not_name_and_lets_stage_2_choose_by_that(
    run, store: Store, tmp_path: Path
) -> None:
    found, lmm = run("tlac-cascade:k=3", name_or_describe, prompts=HINTED)
    first = [request for request in lmm.asked if request.stage == "stage1"]
    assert [len(request.messages[0].parts) for request in first].count(3) == 9
    assert len(first) == 9 + 6
    second = [request.choice for request in lmm.asked if request.stage == "stage2"]
    assert {choice.answer for choice in second} == {"an ancient vehicle", "a big truck"}
    assert {len(choice.candidates) for choice in second} == {3}
    assert [one.predicted for one in found.predictions] == [0, 1, 2] * 3
    assert [one.answer for one in found.predictions[:3]] == ["Red car.", "an ancient vehicle", "a big truck"]
    assert [one.decided_by for one in found.predictions[:3]] == ["exact", "choice", "choice"]
    assert [len(one.further) for one in found.predictions] == [0, 1, 1] * 3
    assert found.record.cost_usd == pytest.approx(0.001 * len(lmm.asked))
    assert "prompts default" in found.record.digests
    assert rescore(found.folder, store, Rescoring(), tmp_path).predictions == found.predictions
    with pytest.raises(UsageError, match="asked some images in other words: use `tlac bench --method slac`"):
        rescore(found.folder, store, Rescoring(method="slac"), tmp_path)


def test_a_cascade_goes_by_the_name_where_the_description_is_refused(run) -> None:
    def reply(request: LMMRequest) -> str | LMMResponse:
        said = name_or_describe(request)
        return LMMResponse(Outcome.REFUSED, "", reason="policy") if said == "a big truck" else said

    found, _ = run("tlac-cascade:k=3", reply, prompts=HINTED)
    assert [one.answer for one in found.predictions[:3]] == ["Red car.", "an ancient vehicle", "vehicle"]
    assert [one.outcome for one in found.predictions[:3]] == [Outcome.ANSWERED] * 3
    assert [len(one.further) for one in found.predictions[:3]] == [0, 1, 2]


def nearest_by_letters(text: str, count: int) -> list[str]:
    """The classes nearest to a text, worked out apart from the method."""
    found = LetterEncoder().encode([f"a photo of a {name}" for name in (text, *Many().classes)]).vectors
    cosines = dict(zip(Many().classes, found[1:] @ found[0], strict=True))
    return sorted(cosines, key=lambda name: -cosines[name])[:count]


def choosing(choice: str | LMMResponse, look: str | LMMResponse) -> Reply:
    """Stage 2 gives this choice of words, and this one of an image."""

    def reply(request: LMMRequest) -> str | LMMResponse:
        if request.stage == "stage1":
            return name_or_describe(request)
        return look if request.images else choice

    return reply


def test_a_choice_that_is_not_the_nearest_class_is_looked_at_again_without_the_first_words(
    run, store: Store, tmp_path: Path
) -> None:
    near = nearest_by_letters("a big truck", 3)
    assert near == nearest_by_letters("a big truck", 7)[:3]
    assert "hymn" not in near
    found, lmm = run("tlac-cascade:k=3,relook=true", choosing("hymn", "lorry"), prompts=HINTED)
    looks = [request for request in lmm.asked if request.stage == "stage2" and request.images]
    assert len(looks) == 6
    assert all("ancient" not in text and "truck" not in text for request in looks for text in map(str, request.texts))
    assert "first look: " not in looks[0].texts[-1].text
    left = {tuple(request.choice.names) for request in looks}
    assert tuple(name for name in Many().classes if name in {*near, "hymn"}) in left
    assert [one.predicted for one in found.predictions] == [0, 2, 2] * 3
    assert [one.stage2_with_image for one in found.predictions[:3]] == [False, True, True]
    assert [[member for member, _, _ in one.further] for one in found.predictions[:3]] == [[], [1, 3], [1, 3]]
    assert found.metrics.shortlist.stage2_with_image == 6
    assert found.record.cost_usd == pytest.approx(0.001 * len(lmm.asked))
    assert rescore(found.folder, store, Rescoring(), tmp_path).predictions == found.predictions
    assert run("tlac-cascade:k=3,relook=true", prompts=HINTED)[1].asked == []


def test_a_cascade_looks_again_by_option_alone(run) -> None:
    _, lmm = run("tlac-cascade:k=3", choosing("hymn", "lorry"), prompts=HINTED)
    assert not [request for request in lmm.asked if request.stage == "stage2" and request.images]


@pytest.mark.parametrize(("logprob", "looks"), [(None, 0), (-0.69, 0), (-0.70, 6)])
def test_the_nearest_class_is_looked_at_again_where_the_choice_was_less_likely_than_all_else(
    run, logprob: float | None, looks: int
) -> None:
    """The probability of half a choice is exp(-0.6931)."""
    best = nearest_by_letters("a big truck", 1)[0]

    def reply(request: LMMRequest) -> str | LMMResponse:
        if request.stage == "stage1":
            return "a big truck" if name_or_describe(request) == "an ancient vehicle" else name_or_describe(request)
        return LMMResponse(Outcome.ANSWERED, best, cost_usd=0.001, logprob=logprob)

    asked = Backend("fake", "fake.yaml", BackendSpec(adapter="fake", model="m", params={"logprobs": True}))
    _, lmm = run("tlac-cascade:k=3,relook=true", reply, prompts=HINTED, backend=asked, stage2_backend=asked)
    assert sum(request.stage == "stage2" and bool(request.images) for request in lmm.asked) == looks


@pytest.mark.parametrize("look", ["none of these", LMMResponse(Outcome.REFUSED, "", reason="policy")])
def test_the_choice_stands_where_a_second_look_names_no_class(run, look: str | LMMResponse) -> None:
    found, _ = run("tlac-cascade:k=3,relook=true", choosing("hymn", look), prompts=HINTED)
    assert [one.predicted for one in found.predictions[:3]] == [0, 6, 6]
    assert [one.stage2_with_image for one in found.predictions[:3]] == [False] * 3
    assert [[member for member, _, _ in one.further] for one in found.predictions[:3]] == [[], [1, 3], [1, 3]]


def test_a_second_look_needs_words_for_it_before_anybody_is_asked(run) -> None:
    with pytest.raises(ConfigError, match="needs 'relook', the words that show the image again"):
        run("tlac-cascade:relook=true", prompts=load_prompts("listed"))


@pytest.mark.parametrize(("k", "listed"), [(3, 3), (4, None)])
def test_a_shortlist_of_half_the_classes_or_more_is_the_whole_list(run, k: int, listed: int | None) -> None:
    found, lmm = run(f"tlac-shortlist:k={k}")
    second = [request for request in lmm.asked if request.stage == "stage2"]
    assert {request.choice.candidates and len(request.choice.candidates) for request in second} == {listed}
    if listed is None:
        assert found.metrics.shortlist is None
        assert run("tlac")[1].asked == []


def test_fused_views_are_asked_in_two_wordings_and_scored_as_one(run) -> None:
    found, lmm = run("slac-fused:samples=2")
    assert len(lmm.asked) == 36
    assert sorted({request.repeat for request in lmm.asked}) == [0, 1]
    words = {request.messages[0].parts[1].text for request in lmm.asked}
    assert len(words) == 2
    assert [(member, stage) for member, stage, _ in found.predictions[0].further] == [
        (1, "stage1"),
        (2, "stage1"),
        (3, "stage1"),
    ]
    assert "prompts name" in found.record.digests


def test_a_fused_run_scored_as_slac_takes_its_first_view(run, store: Store, tmp_path: Path) -> None:
    def two_views(request: LMMRequest) -> str:
        place = [make_png(number) for number in range(9)].index(request.images[0].source)
        return "hymn" if "without a sentence" in request.messages[0].parts[1].text else f"it is a {place} fig"

    fused, _ = run("slac-fused", two_views)
    assert {one.predicted for one in fused.predictions} == {6}
    again = rescore(fused.folder, store, Rescoring(method="slac"), tmp_path)
    assert {one.predicted for one in again.predictions} == {5}
    assert all(not one.further for one in again.predictions)


def test_backends_vote_and_each_is_paid_once(run) -> None:
    others = tuple(
        Backend(name, f"{name}.yaml", BackendSpec(adapter="fake", model=name)) for name in ("second", "third")
    )

    def disagree(request: LMMRequest) -> str:
        if request.stage == "stage1":
            return "zebra" if request.model == "m" else "a big truck"
        return "lorry"

    found, lmm = run("vote", disagree, ensemble=others)
    assert {one.predicted for one in found.predictions} == {2}
    assert found.predictions[0].votes == (3, 2, 2)
    assert found.record.backend == "fake+second+third"
    assert found.record.ensemble == ("second", "third")
    assert {"panel second", "panel third"} <= found.record.digests.keys()
    assert found.record.cost_usd == pytest.approx(0.001 * len(lmm.asked))
    assert len(lmm.asked) == 3 * 9 + 2


@pytest.mark.parametrize(
    ("method", "changes", "complaint"),
    [
        ("vote", {}, "give --backend more than once"),
        ("vote", {"ensemble": (BACKEND,), "shuffle_classes": 1}, "no --shuffle-classes"),
        ("tlac-shortlist", {"order_trials": 2}, "--order-trials"),
    ],
)
def test_what_does_not_go_together_is_said_before_anybody_is_asked(
    run, method: str, changes: dict, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        run(method, **changes)


def test_aliases_decide_by_name_and_are_kept_for_scoring_again(run, store: Store, tmp_path: Path) -> None:
    first, lmm = run("tlac", aliases={"lorry": ("big truck",)})
    assert [one.decided_by for one in first.predictions[:3]] == ["exact", "choice", "exact"]
    assert {request.choice.answer for request in lmm.asked if request.stage == "stage2"} == {"an ancient vehicle"}
    assert "aliases" in first.record.digests
    assert rescore(first.folder, store, Rescoring(), tmp_path).predictions == first.predictions


def test_several_templates_are_averaged(run) -> None:
    plain, _ = run("slac", template="{}")
    both, _ = run("slac", template="{} | quartz {}")
    assert both.record.template == "{} | quartz {}"
    assert [one.score for one in both.predictions] != [one.score for one in plain.predictions]
    assert all(-1 <= one.score <= 1 for one in both.predictions)


def test_the_paper_rule_scores_the_choice_from_a_shortlist(run) -> None:
    found, _ = run("tlac-shortlist:k=3", matching="paper")
    assert {one.decided_by for one in found.predictions} == {"similarity"}
    assert found.metrics.shortlist.n == 9


def test_a_shortlist_run_tells_how_many_known_choices_from_the_whole_list_it_holds(run) -> None:
    blind, _ = run("tlac-shortlist:k=2")
    assert (blind.record.shortlist_recall.known, blind.record.shortlist_recall.inside) == (0, 0)
    full, _ = run("tlac")
    assert full.record.shortlist_recall is None
    told, lmm = run("tlac-shortlist:k=2")
    assert lmm.asked == []
    chosen = {one.sample: one.predicted for one in full.predictions if one.decided_by == "choice"}
    inside = sum(chosen[one.sample] in one.shortlist for one in told.predictions if one.shortlist)
    assert (told.record.shortlist_recall.known, told.record.shortlist_recall.inside) == (6, inside)
    assert load_run(told.folder).record == told.record
