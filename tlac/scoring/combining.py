"""One verdict from several members: views of one image that are fused, or backends that vote.

Does not know how texts are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tlac.scoring.matching import ClassIndex, MatchingRule, Verdict
from tlac.types import Outcome, Prediction, Stage, Transcript


def members_of(transcript: Transcript) -> list[Transcript]:
    """A transcript for each member, the first one's first. A failure is every member's."""
    numbers = sorted({turn.member for turn in transcript.further})
    first = replace(transcript, further=())
    members = [first]
    for number in numbers:
        turns = {turn.stage: turn for turn in transcript.further if turn.member == number}
        members.append(replace(first, stage1=turns.get("stage1"), stage2=turns.get("stage2")))
    return members


def fuse(transcript: Transcript, rule: MatchingRule, index: ClassIndex) -> Verdict:
    """The verdict on several first answers about one image: their texts are scored together, as one mean vector.

    A rung decides where all views that it decides name the same class. Views without an answer are left out;
    the verdict has no answer where no view has one.
    """
    views = [member.stage1.response for member in members_of(transcript) if member.stage1 is not None]
    judged = [rule.judge(view, None, index) for view in views]
    answered = [verdict for verdict in judged if verdict.outcome is Outcome.ANSWERED]
    if not answered:
        return judged[0]
    text, *also = (text for verdict in answered for text in verdict.texts)
    named = {verdict.index for verdict in answered if verdict.index is not None}
    if len(named) == 1:
        decided = next(verdict for verdict in answered if verdict.index is not None)
        return replace(decided, text=text, also=tuple(also))
    return Verdict(Outcome.ANSWERED, text, None, "similarity", also=tuple(also))


def combine_votes(further: tuple[tuple[int, Stage, str], ...], members: Sequence[Prediction]) -> Prediction:
    """The prediction that most members made; between equals the one with the highest sum of scores, then the
    lower index. What else stands in it is from the first member that made it; `further` as in Prediction.

    A member without an answer has no vote; where none has an answer, the first member's outcome stands.
    """
    votes = tuple(member.predicted for member in members)
    first = members[0]
    rest = {
        "further": further,
        "votes": votes if len(votes) > 1 else (),
        "stage1_key": first.stage1_key,
        "stage2_key": first.stage2_key,
    }
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return replace(first, **rest)  # type: ignore[arg-type]
    sums = {index: sum(member.score or 0.0 for member in members if member.predicted == index) for index in counts}
    winner = min(counts, key=lambda index: (-counts[index], -sums[index], index))
    spokesman = next(member for member in members if member.predicted == winner)
    return replace(spokesman, **rest)  # type: ignore[arg-type]
