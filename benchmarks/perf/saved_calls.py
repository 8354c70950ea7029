"""Counts what stage 2 costs when every sample is asked about, as the paper does, and as tlac asks.

Nobody is asked: answers are real ones (imagenet100) or made up, tokens are characters / 4 and 258 an image, prices
those of the shipped backend for Gemini.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.perf.figures import Figure
from benchmarks.perf.workload import class_names, repeating_answers
from tlac.config.prompts import load_prompts
from tlac.config.schemas import load_backend
from tlac.evaluation.collect import collect
from tlac.evaluation.prompter import BoundLMM, TwoStagePrompter
from tlac.lmms.prices import cost_usd, prices_of
from tlac.methods.tlac import TLAC
from tlac.scoring.matching import ClassIndex, find_rule
from tlac.types import LMMRequest, LMMResponse, Outcome, Sample, Transcript, Usage

_BACKEND = "gemini"


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    classes: Sequence[str]
    answers: Sequence[str]
    choices: Mapping[str, str]
    target: str


class _Recorded:
    """Answers by the number that a sample's bytes hold; chooses by the answer. Asked twice, it answers from memory."""

    def __init__(self, case: _Case) -> None:
        self._case = case
        self._prices = prices_of(load_backend(_BACKEND).spec)

    async def ask(self, request: LMMRequest) -> LMMResponse:
        image = next(iter(request.images), None)
        characters = sum(len(part.text) for part in request.texts)
        if image is not None:
            assert isinstance(image.source, bytes)
            text = self._case.answers[int(image.source)]
        else:
            assert request.choice is not None
            text = self._case.choices[request.choice.answer]
        usage = Usage(characters // 4 + 258 * (image is not None), max(1, len(text) // 4))
        cost = cost_usd(usage, self._prices) if self._prices else None
        return LMMResponse(Outcome.ANSWERED, text, usage=usage, cost_usd=cost)


def saved_calls(answers: Path | None, samples: int) -> list[Figure]:
    """Calls, prompt tokens and cost, the paper's way and ours; `answers` is the file of real ones."""
    cases = [_synthetic(samples)]
    if answers is not None and answers.exists():
        cases.insert(0, _real(answers))
    return [figure for case in cases for figure in _count(case)]


def _real(path: Path) -> _Case:
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = [row["stage1"]["name"] for row in rows]
    choices = {row["stage1"]["name"]: row["stage2"]["name"] for row in rows}
    return _Case("imagenet100, names", IMAGENET_CLASSNAMES, names, choices, "<= 0.5")


def _synthetic(samples: int) -> _Case:
    classes = class_names(1000)
    answers = repeating_answers(samples, classes)
    choices = {answer: classes[number % len(classes)] for number, answer in enumerate(answers)}
    return _Case(f"{samples:,} made up", classes, answers, choices, "<= 0.1")


def _ask(case: _Case, accepts_exact: bool) -> tuple[Transcript, ...]:
    lmm = _Recorded(case)
    bound_lmm = BoundLMM(load_backend(_BACKEND), lmm)
    prompter = TwoStagePrompter(bound_lmm, bound_lmm, load_prompts("name"), case.classes, accepts_exact=accepts_exact)
    samples = [Sample(str(number), str(number).encode()) for number in range(len(case.answers))]
    transcripts, _ = asyncio.run(collect(samples, prompter, TLAC(), 1))
    return transcripts


def _decide(case: _Case, transcripts: Sequence[Transcript]) -> list[int | None]:
    rule, index = find_rule("ladder"), ClassIndex(case.classes)
    return [
        rule.judge(one.stage1.response, one.stage2.response if one.stage2 else None, index).index
        for one in transcripts
        if one.stage1
    ]


def _count(case: _Case) -> Iterator[Figure]:
    paper, ours = _ask(case, accepts_exact=False), _ask(case, accepts_exact=True)
    equal = sum(one == two for one, two in zip(_decide(case, paper), _decide(case, ours), strict=True))
    note = f"{equal:,} of {len(paper):,} predictions are equal"
    turns = [turn for one in paper for turn in one.turns]
    # one answer may serve many samples
    made = {turn.key: turn for one in ours for turn in one.turns}.values()
    group = f"calls saved: {case.name}"
    asked = sum(turn.stage == "stage2" for turn in made)
    distinct = len({one.stage1.response.text for one in ours if one.stage1 and one.stage2})
    yield Figure(
        group, "stage-2 calls", "calls", asked, against=len(paper), target=f"<= {distinct:,} distinct", note=note
    )
    spent, tokens = (sum(turn.response.usage.prompt for turn in asking) for asking in (made, turns))
    yield Figure(group, "prompt tokens, both stages", "tokens", spent, against=tokens, target=case.target)
    paid, cost = (sum(turn.response.cost_usd or 0.0 for turn in asking) for asking in (made, turns))
    yield Figure(group, "cost", "USD", paid, against=cost)
