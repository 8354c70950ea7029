"""Phase 2: transcripts to predictions, with a matching rule and a text encoder.

What can be decided from answers alone is decided first, once for equal ones; what is left to similarity is plain numpy.
Asks no LMM. Equal embeddings give equal bits (see `tlac.scoring.similarity`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from tlac.interfaces import MatchingRule, TextEncoder
from tlac.scoring.confidence import lead
from tlac.scoring.matching import ClassIndex, apply_template, split_templates
from tlac.scoring.predictions import TOP, Decisions, Predictions, PredictionTable, digest_texts
from tlac.scoring.similarity import PLACES, ClassVectors, IntArray, fuse_scores, mean_vectors, rank
from tlac.types import (
    SECOND_SAMPLE,
    BoolArray,
    Combination,
    Float32Array,
    Float64Array,
    LMMResponse,
    MatchDecision,
    NearestClasses,
    Outcome,
    Transcript,
)

# images scored at once
_IMAGES = 1024

# the texts that are scored together, as one mean vector
_Unit: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions, one per transcript in their order; the distinct texts, and the number of class names, that were
    longer than the encoder's window."""

    predictions: Predictions
    cut_texts: Sequence[str]
    truncated_classes: int


def place_classes(
    decisions: Decisions,
    row: NDArray[np.int64],
    decided: NDArray[np.int64],
    nearest: tuple[IntArray, Float64Array],
    own: Float64Array,
) -> Decisions:
    """Give m decisions their class, score, margin and best classes.

    `nearest` holds the classes (u, w) by falling score and their scores, w = min(6, number of classes); `row` (m,) is
    each decision's place in it, -1 for those without words. `decided` (m,) is the class of a decision that similarity
    does not make, else -1, and `own` (m,) that class's score.
    """
    has_words = row >= 0
    indices, scores = nearest[0][row[has_words]], nearest[1][row[has_words]]
    is_decided = decided[has_words] >= 0
    first = np.where(is_decided, decided[has_words], indices[:, 0])
    score = np.where(is_decided, own[has_words], scores[:, 0])
    # the others in their order: the class itself goes behind them
    order = np.argsort(indices == first[:, None], axis=1, kind="stable")[:, :-1]
    others, lower = np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
    found = replace(
        decisions,
        predicted=decisions.predicted.copy(),
        score=decisions.score.copy(),
        margin=decisions.margin.copy(),
        top_classes=decisions.top_classes.copy(),
        top_scores=decisions.top_scores.copy(),
    )
    found.predicted[has_words] = first
    found.score[has_words] = score
    # + 0.0 turns -0.0 into 0.0, which prints otherwise
    found.margin[has_words] = np.round(score - lower[:, 0], PLACES) + 0.0
    width = min(TOP, indices.shape[1])
    found.top_classes[has_words, :width] = np.column_stack([first, others])[:, :width]
    found.top_scores[has_words, :width] = np.column_stack([score, lower])[:, :width]
    return found


class Scorer:
    """Scores texts against one class list with one encoder, template and matching rule.

    Several templates in one, split by "|", are averaged as vectors. A class with `aliases` is as near to a text
    as the nearest of its names. `by_number` is that of `ClassIndex`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        encoder: TextEncoder,
        rule: MatchingRule,
        template: str,
        aliases: Mapping[str, Sequence[str]] | None = None,
        by_number: bool = False,
    ) -> None:
        self.index = ClassIndex(classes, aliases, by_number)
        self.rule = rule
        self._encoder = encoder
        self._templates = split_templates(template)
        self._encoding: Future[tuple[ClassVectors, int]] | None = None

    def encode_classes(self) -> Future[tuple[ClassVectors, int]]:
        """Begin to encode the class names, on a thread of its own: an encoder takes seconds to load.

        Scoring waits for it. The result raises EncoderUnavailableError where the encoder can't be had.
        """
        if self._encoding is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="tlac-encoder")
            self._encoding = thread.submit(self._encode_classes)
            thread.shutdown(wait=False)
        return self._encoding

    @cached_property
    def _encoded_classes(self) -> tuple[ClassVectors, int]:
        """The classes' vectors, and how many of their names were cut."""
        return self._encode_classes() if self._encoding is None else self._encoding.result()

    def _encode_classes(self) -> tuple[ClassVectors, int]:
        vectors, cut = self._encode([self.rule.class_text(name) for _, name in self.index.names])
        return ClassVectors(vectors, [owner for owner, _ in self.index.names]), int(cut.sum())

    def score(
        self,
        transcripts: Iterable[Transcript],
        combine: Combination = "first",
        images: Mapping[str, Float32Array] | None = None,
    ) -> Scored:
        """The predictions for these transcripts, which are read once; `combine` says what becomes of several members.

        With `images`, vectors (d,) in the encoder's space by the sha256 of each answered image, scores are fused with
        the images' own (see `tlac.scoring.similarity.fuse_scores`); to "average", vectors of texts and images are.
        """
        table, decided, groups = decide_all(transcripts, self.rule, self.index, combine)
        decisions, cut_texts, truncated_classes = Decisions.unscored(decided), list[str](), 0
        rows, seconds = table.rows, [one.second for one in decided]
        units = sorted({one.texts for one in (*decided, *seconds) if one} - {()})
        if units:
            vectors, cut_texts = self._encode_units(units)
            classes, truncated_classes = self._encoded_classes
            places = {unit: row for row, unit in enumerate(units)}
            row = np.array([places.get(one.texts, -1) for one in decided], np.int64)
            index = np.array([-1 if one.index is None else one.index for one in decided], np.int64)
            if images is None:
                decisions = _place_texts(decisions, row, index, (classes, vectors))
            else:
                # what is decided about a sample hangs on its image too: each has a decision of its own
                seen = [images.get(sha256 or "") for sha256 in digest_texts(table.images)]
                if combine == "average":
                    row, averaged = self._average([decided[place].texts for place in rows.tolist()], seen)
                    decisions = _place_texts(decisions.take(rows), row, np.full(len(row), -1), (classes, averaged))
                else:
                    decisions = _place_fused(decisions.take(rows), row[rows], index[rows], (classes, vectors), seen)
                seconds = [seconds[place] for place in rows.tolist()]
                rows = np.arange(len(rows), dtype=np.int32)
            if any(seconds):
                said = np.array([places.get(second.texts, -1) if second else -1 for second in seconds], np.int64)
                decisions = _hear_seconds(decisions, said, seconds, (classes, vectors))
        if combine == "vote":
            decisions = combine_votes(decisions, groups)
        return Scored(table.finish(decisions, rows), cut_texts, truncated_classes)

    def nearest(self, answers: Sequence[str], count: int) -> list[NearestClasses]:
        """The `count` nearest classes of each answer."""
        decided = [self.rule.judge(LMMResponse(Outcome.ANSWERED, answer), None, self.index) for answer in answers]
        texts = sorted({text for decision in decided for text in decision.texts})
        found: dict[_Unit, NearestClasses] = {(): NearestClasses((), ())}
        if texts:
            indices, best = self._encoded_classes[0].nearest(self._encode(texts)[0], count)
            rows = zip(map(tuple, indices.tolist()), map(tuple, best.tolist()), strict=True)
            found |= {(text,): NearestClasses(*row) for text, row in zip(texts, rows, strict=True)}
        return [found[decision.texts[:1]] for decision in decided]

    def _encode(self, texts: Sequence[str]) -> tuple[Float32Array, BoolArray]:
        """(n, d) vectors, and whether any template's text was longer than the encoder's window."""
        encoded = [
            self._encoder.encode([apply_template(template, text) for text in texts]) for template in self._templates
        ]
        cut: BoolArray = np.any([one.is_truncated for one in encoded], axis=0)
        return mean_vectors([one.vectors for one in encoded]), cut

    def _encode_units(self, units: Sequence[_Unit]) -> tuple[Float32Array, list[str]]:
        """One vector for each of sorted units of texts, (n, d), and the distinct texts that were cut."""
        texts = sorted(dict.fromkeys(text for unit in units for text in unit))
        encoded, is_cut = self._encode(texts)
        cut_texts = [texts[row] for row in np.flatnonzero(is_cut).tolist()]
        if max(map(len, units)) == 1:
            # in the order of the units already
            return encoded, cut_texts
        places = {text: row for row, text in enumerate(texts)}
        rows = [mean_vectors([encoded[[places[text]]] for text in unit])[0] for unit in units]
        return np.stack(rows), cut_texts

    def _average(
        self, units: Sequence[_Unit], images: Sequence[Float32Array | None]
    ) -> tuple[NDArray[np.int64], Float32Array]:
        """The mean vector of the texts and the image of each unit that has texts, (n, d); and each unit's row in it,
        -1 for none."""
        texts = sorted({text for unit in units for text in unit})
        encoded, _ = self._encode(texts)
        places = {text: row for row, text in enumerate(texts)}
        has_texts = np.array([bool(unit) for unit in units])
        means = [
            mean_vectors([*(encoded[[places[text]]] for text in unit), image[None]])[0]
            for unit, image in zip(units, images, strict=True)
            if unit and image is not None
        ]
        return np.where(has_texts, np.cumsum(has_texts) - 1, -1), np.stack(means)


def _place_texts(
    decisions: Decisions,
    row: NDArray[np.int64],
    index: NDArray[np.int64],
    texts: tuple[ClassVectors, Float32Array],
) -> Decisions:
    """As `place_classes`, by the similarity of the texts (n, d) alone."""
    classes, vectors = texts
    own = np.zeros(len(row))
    is_own = (row >= 0) & (index >= 0)
    own[is_own] = classes.cosines(vectors, row[is_own], index[is_own])
    return place_classes(decisions, row, index, classes.nearest(vectors, TOP + 1), own)


def _hear_seconds(
    decisions: Decisions,
    row: NDArray[np.int64],
    seconds: Sequence[MatchDecision | None],
    texts: tuple[ClassVectors, Float32Array],
) -> Decisions:
    """Give m decisions that have their class what second samples say for it; `row` (m,) is each one's text, -1 for
    none."""
    has_second = (row >= 0) & (decisions.predicted >= 0)
    support = lead(_place_texts(decisions, np.where(has_second, row, -1), decisions.predicted.astype(np.int64), texts))
    named = np.array([-1 if one is None or one.index is None else one.index for one in seconds], np.int64)
    support = np.where(named >= 0, np.where(named == decisions.predicted, 1.0, -1.0), support)
    return replace(decisions, second=np.where(has_second, np.round(support, PLACES) + 0.0, np.nan))


def _place_fused(
    decisions: Decisions,
    row: NDArray[np.int64],
    index: NDArray[np.int64],
    texts: tuple[ClassVectors, Float32Array],
    images: Sequence[Float32Array | None],
) -> Decisions:
    """As `place_classes`, for decisions that each belong to one image whose own vector (d,) is scored as well."""
    classes, vectors = texts
    width = min(TOP + 1, len(classes))
    indices, scores = np.zeros((len(row), width), np.int64), np.zeros((len(row), width))
    own = np.zeros(len(row))
    answered = np.flatnonzero(row >= 0)
    for start in range(0, len(answered), _IMAGES):
        part = answered[start : start + _IMAGES]
        seen = np.stack([image for place in part if (image := images[place]) is not None])
        fused = fuse_scores(classes.similarities(vectors[row[part]]), classes.similarities(seen))
        indices[part], scores[part] = rank(fused, TOP + 1)
        own[part] = fused[np.arange(len(part)), index[part]]
    return place_classes(decisions, np.where(row >= 0, np.arange(len(row)), -1), index, (indices, scores), own)


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
    said: list[object] = [transcript.failure and transcript.reason]
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
        return MatchDecision(Outcome.FAILED, reason=transcript.reason)
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
    return replace(decisions.take(spokesmen), votes=all_votes)
