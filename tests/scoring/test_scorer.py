from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec import structs

from tests.support.fakes import LetterEncoder, digest
from tlac.scoring.matching import LadderMatching, Paper
from tlac.scoring.scorer import Scorer
from tlac.scoring.similarity import rank, similarities
from tlac.types import SECOND_SAMPLE, LMMResponse, Outcome, Transcript, Turn

CLASSES = ("aaa", "bbb", "abc", "bbb")


def transcript(answer: str, choice: str | None = None, sample: str = "s") -> Transcript:
    stage2 = Turn("stage2", digest("k2"), LMMResponse(Outcome.ANSWERED, choice)) if choice else None
    return Transcript(
        sample, digest("image"), 0, Turn("stage1", digest("k1"), LMMResponse(Outcome.ANSWERED, answer)), stage2
    )


def score(*transcripts: Transcript, rule: LadderMatching | Paper | None = None, classes: tuple[str, ...] = CLASSES):
    return Scorer(classes, LetterEncoder(), rule or LadderMatching(), "{}").score(transcripts)


def test_similarity_decides_where_no_rung_did() -> None:
    (prediction,) = score(transcript("aaaa b")).predictions
    assert (prediction.predicted, prediction.decided_by) == (0, "similarity")
    expected = (4 * 3 + 1) / np.sqrt((16 + 1 + 1) * (9 + 1))
    assert prediction.score == round(expected, 6)
    assert prediction.top5[0] == (0, prediction.score)
    assert prediction.margin == pytest.approx(prediction.score - prediction.top5[1][1], abs=1e-9)


def test_ties_go_to_the_lower_index_with_no_margin() -> None:
    (prediction,) = score(transcript("b")).predictions
    assert (prediction.predicted, prediction.margin) == (1, 0.0)
    assert [index for index, _ in prediction.top5[:2]] == [1, 3]


def test_a_choice_decides_and_its_margin_tells_that_the_words_point_elsewhere() -> None:
    (prediction,) = score(transcript("aaaa", choice="bbb")).predictions
    assert (prediction.predicted, prediction.decided_by) == (1, "choice")
    assert prediction.margin is not None
    assert prediction.margin < 0
    assert prediction.top5[0][0] == 1
    assert prediction.top5[1][0] == 0


def test_a_failed_sample_has_no_prediction() -> None:
    failed = Transcript("s", digest("image"), 0, failure="call", reason="the server is down")
    (prediction,) = score(failed).predictions
    assert (prediction.outcome, prediction.predicted, prediction.reason) == (
        Outcome.FAILED,
        None,
        "the server is down",
    )


def test_a_failed_second_stage_is_not_replaced_by_the_first() -> None:
    turn = Turn("stage1", digest("k1"), LMMResponse(Outcome.ANSWERED, "aaa"))
    (prediction,) = score(Transcript("s", digest("image"), 0, turn, failure="call", reason="x")).predictions
    assert (prediction.outcome, prediction.predicted, prediction.answer) == (Outcome.FAILED, None, "aaa")


def test_each_distinct_text_is_encoded_once() -> None:
    encoder = LetterEncoder()
    Scorer(CLASSES, encoder, LadderMatching(), "{}").score([transcript("b b"), transcript("b b"), transcript("c")])
    assert sorted(encoder.encoded) == sorted(["b b", "c", *CLASSES])


def test_texts_longer_than_the_window_are_counted() -> None:
    scored = score(transcript("a " * 30), classes=("aaa", "b" * 41))
    assert (len(scored.cut_texts), scored.truncated_classes) == (1, 1)


def test_no_answers_need_no_encoder() -> None:
    class Unavailable(LetterEncoder):
        def encode(self, texts):
            raise AssertionError("encoded")

    failed = Transcript("s", None, 0, failure="call", reason="x")
    assert Scorer(CLASSES, Unavailable(), LadderMatching(), "{}").score([failed]).predictions[0].predicted is None


@given(
    arrays(np.float32, (5, 8), elements=st.floats(-1, 1, width=32)),
    st.integers(1, 5),
)
def test_rank_is_a_stable_sort_by_falling_score(scores: np.ndarray, count: int) -> None:
    rounded = np.round(scores.astype(np.float64), 6) + 0.0
    indices, best = rank(rounded, count)
    for row in range(len(scores)):
        expected = sorted(range(8), key=lambda column: (-rounded[row, column], column))[:count]
        assert indices[row].tolist() == expected
        assert best[row].tolist() == [rounded[row, column] for column in expected]


def test_similarities_are_cosines_rounded_to_six_places() -> None:
    rows = np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert similarities(rows, rows).tolist() == [[1.0, 0.6], [0.6, 1.0]]


def with_second(answer: str, second: str, *members: str, outcome: Outcome = Outcome.ANSWERED) -> Transcript:
    """An answer, those of further members, and a second sample's, which is a member of none."""
    turns = [Turn("stage1", digest("k"), LMMResponse(Outcome.ANSWERED, text), n) for n, text in enumerate(members, 1)]
    said = Turn("stage1", digest("k3"), LMMResponse(outcome, second), SECOND_SAMPLE)
    return structs.replace(transcript(answer), further=(*turns, said))


def lead(second: str, own: int, best_other: int) -> float:
    """The lead of a class among the cosines of a text, by hand: as a share of itself, the others' spread and 0.01."""
    encoder = LetterEncoder()
    cosines = np.round(
        encoder.encode([second]).vectors.astype(np.float64) @ encoder.encode(CLASSES[:3]).vectors.T.astype(np.float64),
        6,
    )[0]
    margin = cosines[own] - cosines[best_other]
    spread = cosines[best_other] - min(np.delete(cosines, own))
    return float(margin / (abs(margin) + spread + 0.01))


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("aaa", 1.0),
        # another class's name, whether its index is lower or higher
        ("bbb", -1.0),
        ("aab", lead("aab", 0, 2)),
        ("cb", lead("cb", 0, 2)),
        ("?", None),
    ],
)
def test_a_second_sample_speaks_for_the_class_or_against_it_and_changes_none(second: str, says: float | None) -> None:
    (alone,) = score(transcript("aaaa b"), classes=CLASSES[:3]).predictions
    (found,) = score(with_second("aaaa b", second), classes=CLASSES[:3]).predictions
    assert found.second == (None if says is None else pytest.approx(says, abs=1e-5))
    assert (found.predicted, found.score, found.top5, found.votes) == (0, alone.score, alone.top5, ())
    assert alone.second is None


def test_a_second_sample_has_no_vote_and_a_refused_one_says_nothing() -> None:
    scorer = Scorer(CLASSES[:3], LetterEncoder(), LadderMatching(), "{}")
    (voted,) = scorer.score([with_second("abc", "abc", "abc", "aaa")], "vote").predictions
    assert (voted.predicted, voted.votes) == (2, (2, 2, 0))
    (refused,) = scorer.score([with_second("abc", "", outcome=Outcome.REFUSED)]).predictions
    assert (refused.predicted, refused.second) == (2, None)
