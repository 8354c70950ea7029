"""Decides, for each sample, what can be decided from its answers alone; equal answers are decided once.

What no text decides is left to similarity: see `tlac.scoring.scorer`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import structs

from tlac.interfaces import MatchingRule
from tlac.scoring.matching import ClassIndex
from tlac.scoring.predictions import Decisions, PredictionTable
from tlac.types import SECOND_SAMPLE, Combination, LMMResponse, MatchDecision, Outcome, Transcript


def decide_all(
    transcripts: Iterable[Transcript], rule: MatchingRule, index: ClassIndex, combine: Combination
) -> tuple[PredictionTable, list[MatchDecision], list[tuple[int, ...]]]:
    """Decide transcripts, each read once; `combine` says what becomes of several members.

    Gives a table with a row for each sample, the distinct decisions that these point at, and the groups that they
    point at where members vote: the decisions of all members of a sample.
    """
    table, decisions = PredictionTable(), list[MatchDecision]()
    places: dict[tuple[object, ...], int] = {}
    groups: dict[tuple[int, ...], int] = {}

    def place_of(member: Transcript) -> int:
        place = places.setdefault(_said(member), len(decisions))
        if place == len(decisions):
            decisions.append(_decide_fully(member, rule, index, combine))
        return place

    for transcript in transcripts:
        if combine == "vote":
            row = groups.setdefault(tuple(map(place_of, members_of(transcript))), len(groups))
        else:
            row = place_of(transcript)
        stage1, stage2 = transcript.stage1, transcript.stage2
        table.put(
            (transcript.sample, transcript.image_sha256, transcript.label),
            row,
            (stage1.key if stage1 else None, stage2.key if stage2 else None),
            (stage2.candidates or ()) if stage2 else (),
            stage2 is not None and stage2.has_image,
            tuple([(turn.member, turn.stage, turn.key) for turn in transcript.further]) if transcript.further else (),
        )
    return table, decisions, list(groups)


def _said(transcript: Transcript) -> tuple[object, ...]:
    """All that a decision can depend on."""
    said: list[object] = [transcript.failure and transcript.failure.reason]
    for turn in transcript.turns:
        response = turn.response
        said += (turn.member, turn.stage, response.outcome, response.text, response.reason, response.logprob)
    return tuple(said)


def _decide_fully(transcript: Transcript, rule: MatchingRule, index: ClassIndex, combine: Combination) -> MatchDecision:
    decision = _decide(transcript, rule, index, combine)
    second = next((turn.response for turn in transcript.further if turn.member == SECOND_SAMPLE), None)
    answer = transcript.stage1.response.text if transcript.stage1 else None
    return structs.replace(
        decision,
        answer=answer,
        words=() if answer is None else index.find_words(answer),
        second=rule.judge(second, None, index) if second else None,
    )


def _decide(transcript: Transcript, rule: MatchingRule, index: ClassIndex, combine: Combination) -> MatchDecision:
    if transcript.failure is not None:
        return MatchDecision(Outcome.FAILED, reason=transcript.failure.reason)
    if transcript.stage1 is None:
        return MatchDecision(Outcome.FAILED, reason="nothing was asked")
    if combine in ("fuse", "average"):
        fused = fuse(transcript, rule, index)
        # an average leaves nothing to names
        if combine == "average" and fused.index is not None:
            return structs.replace(fused, index=None, decided_by="similarity", logprob=None)
        return fused
    choice = transcript.stage2.response if transcript.stage2 else None
    return _judge(rule, transcript.stage1.response, choice, index)


def _judge(rule: MatchingRule, answer: LMMResponse, choice: LMMResponse | None, index: ClassIndex) -> MatchDecision:
    """What the rule decides, with the log-probability of the answer that did."""
    decision = rule.judge(answer, choice, index)
    deciding = {"exact": answer, "choice": choice}.get(decision.decided_by or "")
    return decision if deciding is None else structs.replace(decision, logprob=deciding.logprob)


def members_of(transcript: Transcript) -> list[Transcript]:
    """A transcript for each member, the first one's first, without a second sample. A failure is every member's."""
    first = structs.replace(transcript, further=())
    members = [first]
    for number in sorted({turn.member for turn in transcript.further} - {SECOND_SAMPLE}):
        turns = {turn.stage: turn for turn in transcript.further if turn.member == number}
        members.append(structs.replace(first, stage1=turns.get("stage1"), stage2=turns.get("stage2")))
    return members


def fuse(transcript: Transcript, rule: MatchingRule, index: ClassIndex) -> MatchDecision:
    """The decision on several first answers about one image: their texts are scored together, as one mean vector.

    A name decides where all views that name a class name the same one. Views without an answer are left out; there
    is no answer where no view has one.
    """
    views = [member.stage1.response for member in members_of(transcript) if member.stage1 is not None]
    decided = [_judge(rule, view, None, index) for view in views]
    answered = [decision for decision in decided if decision.outcome is Outcome.ANSWERED]
    if not answered:
        return decided[0]
    text, *also = (text for decision in answered for text in decision.texts)
    named = [decision for decision in answered if decision.index is not None]
    if len({decision.index for decision in named}) == 1:
        return structs.replace(named[0], text=text, also=tuple(also))
    return MatchDecision(Outcome.ANSWERED, text, None, "similarity", also=tuple(also))


def combine_votes(decisions: Decisions, groups: Sequence[tuple[int, ...]]) -> Decisions:
    """A decision for each group of members' decisions: the class that most of them name.

    Between equals the one with the highest sum of scores is taken, then the lower index; what else is said is the
    first such member's. A member without an answer has no vote; where none has an answer, the first one's outcome
    stands.
    """
    spokesmen: list[int] = []
    all_votes: list[tuple[int | None, ...]] = []
    predicted, score = decisions.predicted.tolist(), decisions.score.tolist()
    for group in groups:
        counts = Counter(predicted[row] for row in group if predicted[row] >= 0)
        sums = {index: sum(score[row] for row in group if predicted[row] == index) for index in counts}
        winner = min(counts, key=lambda index: (-counts[index], -sums[index], index), default=None)
        spokesmen.append(next((row for row in group if predicted[row] == winner), group[0]))
        votes = tuple(predicted[row] if predicted[row] >= 0 else None for row in group)
        all_votes.append(votes if len(votes) > 1 else ())
    return decisions.take(spokesmen, all_votes)
