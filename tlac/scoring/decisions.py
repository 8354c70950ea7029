"""Judges transcripts one by one, what is equal in them once; what differs between samples is kept on disk.

Does not know encoders or scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import msgspec

from tlac.runtime.spooled_list import SpilledList
from tlac.scoring.matching import ClassIndex, MatchDecision, MatchingRule
from tlac.types import Combination, Outcome, Prediction, Stage, Transcript, Turn


def members_of(transcript: Transcript) -> list[Transcript]:
    """A transcript for each member, the first one's first. A failure is every member's."""
    numbers = sorted({turn.member for turn in transcript.further})
    first = replace(transcript, further=())
    members = [first]
    for number in numbers:
        turns = {turn.stage: turn for turn in transcript.further if turn.member == number}
        members.append(replace(first, stage1=turns.get("stage1"), stage2=turns.get("stage2")))
    return members


def fuse(transcript: Transcript, rule: MatchingRule, index: ClassIndex) -> MatchDecision:
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
    return MatchDecision(Outcome.ANSWERED, text, None, "similarity", also=tuple(also))


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


_Exchange: TypeAlias = tuple[object, ...]


class Head(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member's part of a sample, beside what was said: who was asked about what, under which keys.

    `finding` is the place of its Finding. A sample with several members has a head for each, the first of which
    counts the `members`; `further` is as in Prediction.
    """

    sample: str
    image_sha256: str | None
    label: int | None
    stage1_key: str | None
    stage2_key: str | None
    shortlist: tuple[int, ...]
    stage2_with_image: bool
    finding: int
    members: int
    further: tuple[tuple[int, Stage, str], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What all samples share about which the same was said: the verdict, the first answer, and the classes whose whole
    name stands in it."""

    verdict: MatchDecision
    answer: str | None
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """The distinct findings, and the heads of all samples in order."""

    findings: list[Finding]
    heads: SpilledList[Head]
    samples: int


def judge_all(transcripts: Iterable[Transcript], rule: MatchingRule, index: ClassIndex, combine: Combination) -> Judged:
    """Judge transcripts, each read once; `combine` says what becomes of several members."""
    places: dict[_Exchange, int] = {}
    findings: list[Finding] = []
    heads: SpilledList[Head] = SpilledList(Head)
    samples = 0
    for transcript in transcripts:
        samples += 1
        members = members_of(transcript) if combine == "vote" else (transcript,)
        for number, member in enumerate(members):
            exchange = _exchange(member)
            place = places.get(exchange)
            if place is None:
                place = places[exchange] = len(findings)
                findings.append(_find(member, rule, index, combine))
            heads.put(_head(member, place, 0 if number else len(members), () if number else transcript.further))
    return Judged(findings, heads, samples)


def _exchange(transcript: Transcript) -> _Exchange:
    """All that a verdict can depend on."""
    said: list[object] = [transcript.failure and transcript.failure.reason]
    for turn in transcript.turns:
        response = turn.response
        said += (turn.member, turn.stage, response.outcome.value, response.text, response.reason)
    return tuple(said)


def _find(transcript: Transcript, rule: MatchingRule, index: ClassIndex, combine: Combination) -> Finding:
    answer = transcript.stage1.response.text if transcript.stage1 else None
    words = () if answer is None else index.find_words(answer)
    return Finding(_judge(transcript, rule, index, combine), answer, words)


def _judge(transcript: Transcript, rule: MatchingRule, index: ClassIndex, combine: Combination) -> MatchDecision:
    if transcript.failure is not None:
        return MatchDecision(Outcome.FAILED, reason=transcript.failure.reason)
    if transcript.stage1 is None:
        return MatchDecision(Outcome.FAILED, reason="nothing was asked")
    if combine == "fuse":
        return fuse(transcript, rule, index)
    choice = transcript.stage2.response if transcript.stage2 else None
    return rule.judge(transcript.stage1.response, choice, index)


def _head(transcript: Transcript, finding: int, members: int, further: tuple[Turn, ...]) -> Head:
    stage1, stage2 = transcript.stage1, transcript.stage2
    return Head(
        transcript.sample,
        transcript.image_sha256,
        transcript.label,
        stage1.key if stage1 else None,
        stage2.key if stage2 else None,
        (stage2.candidates or ()) if stage2 else (),
        stage2 is not None and stage2.has_image,
        finding,
        members,
        tuple((turn.member, turn.stage, turn.key) for turn in further) if further else (),
    )
