from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from tlac.scoring.matching import ClassIndex, find_rule
from tlac.scoring.predictions import Predictions
from tlac.scoring.scorer import combine_votes, decide_all, fuse, members_of
from tlac.types import LMMResponse, Outcome, Prediction, Stage, Transcript, Turn

INDEX = ClassIndex(("red car", "old car", "lorry"))
LADDER = find_rule("ladder")


def turn(text: str, member: int = 0, stage: Stage = "stage1", outcome: Outcome = Outcome.ANSWERED) -> Turn:
    return Turn(stage, f"{member:064x}", LMMResponse(outcome, text), member)


def views(*turns: Turn) -> Transcript:
    return Transcript("1.png", None, 0, turns[0], further=turns[1:])


def vote(predicted: int | None, score: float = 0.5, answer: str = "") -> Prediction:
    outcome = Outcome.ANSWERED if predicted is not None else Outcome.REFUSED
    return Prediction("1.png", None, 0, outcome, answer, None, "similarity", predicted, score, 0.1, (), None, None)


def test_each_member_has_a_transcript_of_its_own() -> None:
    second = (turn("b", 1), turn("c", 1, "stage2"))
    first, other = members_of(views(turn("a"), *second))
    assert (first.stage1, first.stage2, first.further) == (turn("a"), None, ())
    assert (other.stage1, other.stage2) == second


def test_views_are_scored_together() -> None:
    verdict = fuse(views(turn("It is a car."), turn("a wagon", 1)), LADDER, INDEX)
    assert verdict.texts == ("It is a car", "a wagon")
    assert (verdict.index, verdict.decided_by) == (None, "similarity")


def test_a_view_that_names_a_class_decides_unless_another_names_another() -> None:
    verdict = fuse(views(turn("It is a car."), turn("lorry", 1)), LADDER, INDEX)
    assert (verdict.index, verdict.decided_by) == (2, "exact")
    assert verdict.texts == ("It is a car", "lorry")
    assert fuse(views(turn("red car"), turn("lorry", 1)), LADDER, INDEX).index is None


def test_an_average_leaves_nothing_to_a_name_that_all_views_say() -> None:
    said = turn("lorry")
    sure = structs.replace(said, response=structs.replace(said.response, logprob=-0.5))
    decided = {
        combine: decide_all([views(sure, turn("lorry", 1))], LADDER, INDEX, combine)[1][0]
        for combine in ("fuse", "average")
    }
    assert (decided["fuse"].index, decided["fuse"].decided_by, decided["fuse"].logprob) == (2, "exact", -0.5)
    assert (decided["average"].index, decided["average"].decided_by) == (None, "similarity")
    assert (decided["average"].texts, decided["average"].logprob) == (("lorry", "lorry"), None)


def test_a_view_without_an_answer_is_left_out_and_none_at_all_is_no_answer() -> None:
    refused = turn("no", outcome=Outcome.REFUSED)
    assert fuse(views(refused, turn("a wagon", 1)), LADDER, INDEX).texts == ("a wagon",)
    assert fuse(views(refused, turn("?", 1)), LADDER, INDEX).outcome is Outcome.REFUSED


def combined(*members: Prediction) -> Prediction:
    """What the members' predictions about one image come to."""
    decisions = combine_votes(Predictions.of(members).decisions, [rows_of(members)])
    return replace(Predictions.of(members[:1]), decisions=decisions, decision=np.zeros(1, np.int32))[0]


def rows_of(members: Sequence[Prediction]) -> tuple[int, ...]:
    return tuple(Predictions.of(members).decision.tolist())


def test_most_votes_win_and_the_score_decides_between_equals() -> None:
    found = combined(vote(2), vote(1, answer="mine"), vote(1))
    assert (found.predicted, found.answer, found.votes) == (1, "mine", (2, 1, 1))
    assert combined(vote(2, 0.4), vote(1, 0.6)).predicted == 1
    assert combined(vote(2, 0.5), vote(1, 0.5)).predicted == 1


def test_who_gave_no_answer_has_no_vote() -> None:
    found = combined(vote(None), vote(2))
    assert (found.predicted, found.outcome, found.votes) == (2, Outcome.ANSWERED, (None, 2))
    assert combined(vote(None), vote(None)).outcome is Outcome.REFUSED
