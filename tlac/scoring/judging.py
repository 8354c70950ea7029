"""Judges transcripts one by one, what is equal in them once; what differs between samples is kept on disk.

Does not know encoders or scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from tlac.scoring.combining import fuse, members_of
from tlac.scoring.matching import ClassIndex, MatchingRule, Verdict
from tlac.spool import Spool
from tlac.types import Combination, Outcome, Stage, Transcript, Turn

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
    looked_again: bool
    finding: int
    members: int
    further: tuple[tuple[int, Stage, str], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What all samples share about which the same was said: the verdict, the first answer, and the classes whose whole
    name stands in it."""

    verdict: Verdict
    answer: str | None
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """The distinct findings, and the heads of all samples in order."""

    findings: list[Finding]
    heads: Spool[Head]
    samples: int


def judge_all(transcripts: Iterable[Transcript], rule: MatchingRule, index: ClassIndex, combine: Combination) -> Judged:
    """Judge transcripts, each read once; `combine` says what becomes of several members."""
    places: dict[_Exchange, int] = {}
    findings: list[Finding] = []
    heads: Spool[Head] = Spool(Head)
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


def _judge(transcript: Transcript, rule: MatchingRule, index: ClassIndex, combine: Combination) -> Verdict:
    if transcript.failure is not None:
        return Verdict(Outcome.FAILED, reason=transcript.failure.reason)
    if transcript.stage1 is None:
        return Verdict(Outcome.FAILED, reason="nothing was asked")
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
        (stage2.offered or ()) if stage2 else (),
        stage2 is not None and stage2.is_relook,
        finding,
        members,
        tuple((turn.member, turn.stage, turn.key) for turn in further) if further else (),
    )
