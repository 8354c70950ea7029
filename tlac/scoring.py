"""Phase 2: transcripts to predictions, with a matching rule and a text encoder.

Plain numpy; asks no LMM. Equal embeddings give equal bits: float64 products rounded to 6 places, ties to
the lower class index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tlac.combining import combine_votes, fuse, members_of
from tlac.image_fusing import fuse_scores
from tlac.interfaces import TextEncoder
from tlac.matching import ClassIndex, MatchingRule, Verdict, apply_template, split_templates
from tlac.types import (
    BoolArray,
    Combination,
    Float32Array,
    Float64Array,
    LMMResponse,
    Outcome,
    Prediction,
    Transcript,
)

PLACES = 6
TOP = 5
# rows of similarities held at once: 1,024 x 1,000 float64 are 8 MB, and stay in the processor's cache
_CHUNK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions, one per transcript in their order, and how many distinct texts and class names were
    longer than the encoder's window."""

    predictions: tuple[Prediction, ...]
    truncated_texts: int
    truncated_classes: int


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The best classes of one text: indices and cosines by falling score."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one text lies among the classes: what a prediction says of it."""

    predicted: int | None = None
    score: float | None = None
    margin: float | None = None
    top5: tuple[tuple[int, float], ...] = ()


_NOWHERE = _Place()


def _place(ranking: _Ranking, index: int | None, decided: float | None) -> _Place:
    """The place of a text; `index` is the class where a rung decided, `decided` that class's score."""
    predicted = ranking.indices[0] if index is None else index
    score = ranking.scores[0] if decided is None else decided
    others = [pair for pair in zip(ranking.indices, ranking.scores, strict=True) if pair[0] != predicted]
    margin = round(score - others[0][1], PLACES) + 0.0
    return _Place(predicted, score, margin, ((predicted, score), *others[: TOP - 1]))


def similarities(texts: Float32Array, classes: Float32Array) -> Float64Array:
    """Cosines of (t, d) and (c, d) rows of length 1: (t, c) float64 in [-1, 1], rounded to 6 places."""
    product = texts.astype(np.float64) @ classes.astype(np.float64).T
    # + 0.0 turns -0.0 into 0.0, which prints otherwise
    rounded: Float64Array = np.round(product, PLACES, out=product)
    rounded += 0.0
    return rounded


def rank(scores: Float64Array, count: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], Float64Array]:
    """The `count` best columns of each row and their scores, best first, ties to the lower index."""
    columns = scores.shape[1]
    count = min(count, columns)
    # distinct whole numbers, exact in float64, that order by score, then by lower index, and hold their column:
    # partitioning such numbers is much faster than partitioning places
    ordered = np.rint(scores * 10**PLACES) * columns - np.arange(columns)
    ordered.partition(columns - count, axis=1)
    best = -np.sort(-ordered[:, columns - count :], axis=1)
    indices = (-best % columns).astype(np.int64)
    return indices, np.take_along_axis(scores, indices, axis=1)


def mean_vectors(vectors: Sequence[Float32Array]) -> Float32Array:
    """The mean of arrays (n, d) with rows of length 1, its rows of length 1 again. One array stays as it is."""
    if len(vectors) == 1:
        return vectors[0]
    total = np.sum([array.astype(np.float64) for array in vectors], axis=0)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    # opposite vectors have no mean direction; their zero row is equally far from every class
    unit: Float32Array = (total / np.where(length > 0, length, 1.0)).astype(np.float32)
    return unit


class Scorer:
    """Scores texts against one class list with one encoder, template and matching rule.

    Several templates in one, split by "|", are averaged as vectors. A class with `aliases` is as near to a text
    as the nearest of its names.
    """

    def __init__(
        self,
        classes: Sequence[str],
        encoder: TextEncoder,
        rule: MatchingRule,
        template: str,
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.index = ClassIndex(classes, aliases)
        self.rule = rule
        self._encoder = encoder
        self._templates = split_templates(template)

    def encode_classes(self) -> None:
        """Encode the class names now, so that an encoder that can't be had is known before anything is paid."""
        self._encoded_classes  # noqa: B018 - encodes them

    @cached_property
    def _encoded_classes(self) -> tuple[Float32Array, BoolArray]:
        return self._encode([self.rule.class_text(name) for _, name in self.index.names])

    def score(
        self,
        transcripts: Sequence[Transcript],
        combine: Combination = "first",
        images: Mapping[str, Float32Array] | None = None,
    ) -> Scored:
        """The predictions for these transcripts; `combine` says what becomes of several members.

        With `images`, vectors (d,) in the encoder's space by the sha256 of each answered image, scores are fused with
        the images' own (see tlac.image_fusing).
        """
        if combine != "vote":
            judged = [(transcript, self._judge(transcript, combine)) for transcript in transcripts]
            return self._score(judged) if images is None else self._score_with_images(judged, images)
        panels = [members_of(transcript) for transcript in transcripts]
        members = [member for panel in panels for member in panel]
        scored = self._score([(member, self._judge(member, "first")) for member in members])
        pending = iter(scored.predictions)
        combined = [
            combine_votes(transcript, [next(pending) for _ in panel])
            for transcript, panel in zip(transcripts, panels, strict=True)
        ]
        return Scored(tuple(combined), scored.truncated_texts, scored.truncated_classes)

    def nearest(self, answers: Sequence[str], count: int) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """The `count` nearest classes of each answer and their cosines, best first; none where it has no words."""
        judged = [self.rule.judge(LMMResponse(Outcome.ANSWERED, answer), None, self.index) for answer in answers]
        texts = sorted({text for verdict in judged for text in verdict.texts})
        found: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
        if texts:
            indices, best = rank(self._similarities(self._encode(texts)[0]), count)
            found = {
                text: (tuple(row), tuple(values))
                for text, row, values in zip(texts, indices.tolist(), best.tolist(), strict=True)
            }
        return [found[verdict.texts[0]] if verdict.texts else ((), ()) for verdict in judged]

    def _encode(self, texts: Sequence[str]) -> tuple[Float32Array, BoolArray]:
        """(n, d) vectors, and whether any template's text was longer than the encoder's window."""
        encoded = [
            self._encoder.encode([apply_template(template, text) for text in texts]) for template in self._templates
        ]
        cut: BoolArray = np.any([one.is_truncated for one in encoded], axis=0)
        return mean_vectors([one.vectors for one in encoded]), cut

    def _similarities(self, vectors: Float32Array) -> Float64Array:
        """(n, d) vectors against the classes: (n, c), each class by the nearest of its names."""
        scores = similarities(vectors, self._encoded_classes[0])
        if len(self.index.names) == len(self.index.classes):
            return scores
        starts = np.flatnonzero(np.diff([owner for owner, _ in self.index.names], prepend=-1))
        nearest: Float64Array = np.maximum.reduceat(scores, starts, axis=1)
        return nearest

    def _score(self, judged: Sequence[tuple[Transcript, Verdict]]) -> Scored:
        units = sorted({verdict.texts for _, verdict in judged if verdict.texts})
        rows = {unit: row for row, unit in enumerate(units)}
        wanted: dict[int, set[int]] = {}
        for _, verdict in judged:
            if verdict.texts and verdict.index is not None:
                wanted.setdefault(rows[verdict.texts], set()).add(verdict.index)
        rankings: list[_Ranking] = []
        decided: dict[tuple[int, int | None], float] = {}
        truncated_texts = truncated_classes = 0
        if units:
            vectors, truncated_texts = self._encode_units(units)
            truncated_classes = int(self._encoded_classes[1].sum())
            for start in range(0, len(units), _CHUNK_ROWS):
                scores = self._similarities(vectors[start : start + _CHUNK_ROWS])
                indices, best = rank(scores, TOP + 1)
                rankings += [
                    _Ranking(tuple(row), tuple(values))
                    for row, values in zip(indices.tolist(), best.tolist(), strict=True)
                ]
                for row in range(start, start + len(scores)):
                    for index in wanted.get(row, ()):
                        decided[row, index] = float(scores[row - start, index])
        predictions = []
        places: dict[tuple[int, int | None], _Place] = {}
        for transcript, verdict in judged:
            place = _NOWHERE
            if verdict.texts:
                at = (rows[verdict.texts], verdict.index)
                if at not in places:
                    # answers repeat: 50,000 real ones are some thousand places
                    places[at] = _place(rankings[at[0]], verdict.index, decided.get(at))
                place = places[at]
            predictions.append(self._predict(transcript, verdict, place))
        return Scored(tuple(predictions), truncated_texts, truncated_classes)

    def _score_with_images(
        self, judged: Sequence[tuple[Transcript, Verdict]], images: Mapping[str, Float32Array]
    ) -> Scored:
        answered = [row for row, (_, verdict) in enumerate(judged) if verdict.texts]
        units = sorted({judged[row][1].texts for row in answered})
        if not units:
            return self._score(judged)
        rows = {unit: row for row, unit in enumerate(units)}
        vectors, truncated_texts = self._encode_units(units)
        places: dict[int, _Place] = {}
        for start in range(0, len(answered), _CHUNK_ROWS):
            chunk = answered[start : start + _CHUNK_ROWS]
            seen = np.stack([images[judged[row][0].image_sha256 or ""] for row in chunk])
            words = self._similarities(vectors[[rows[judged[row][1].texts] for row in chunk]])
            scores = fuse_scores(words, self._similarities(seen), PLACES)
            indices, best = rank(scores, TOP + 1)
            for row, own, order, values in zip(chunk, scores, indices.tolist(), best.tolist(), strict=True):
                index = judged[row][1].index
                decided = None if index is None else float(own[index])
                places[row] = _place(_Ranking(tuple(order), tuple(values)), index, decided)
        predictions = [self._predict(*pair, places.get(row, _NOWHERE)) for row, pair in enumerate(judged)]
        return Scored(tuple(predictions), truncated_texts, int(self._encoded_classes[1].sum()))

    def _encode_units(self, units: Sequence[tuple[str, ...]]) -> tuple[Float32Array, int]:
        """One vector for each unit of texts, (n, d), and how many distinct texts were cut."""
        texts = sorted({text for unit in units for text in unit})
        encoded, cut = self._encode(texts)
        places = {text: row for row, text in enumerate(texts)}
        longest = max(map(len, units))
        if longest == 1:
            # both are in sorted order
            return encoded, int(cut.sum())
        rows = [mean_vectors([encoded[[places[text]]] for text in unit])[0] for unit in units]
        return np.stack(rows), int(cut.sum())

    def _judge(self, transcript: Transcript, combine: Combination) -> Verdict:
        if transcript.failure is not None:
            return Verdict(Outcome.FAILED, reason=transcript.failure.reason)
        if transcript.stage1 is None:
            return Verdict(Outcome.FAILED, reason="nothing was asked")
        if combine == "fuse":
            return fuse(transcript, self.rule, self.index)
        choice = transcript.stage2.response if transcript.stage2 else None
        return self.rule.judge(transcript.stage1.response, choice, self.index)

    def _predict(self, transcript: Transcript, verdict: Verdict, place: _Place) -> Prediction:
        answer = transcript.stage1.response if transcript.stage1 else None
        stage2 = transcript.stage2
        return Prediction(
            sample=transcript.sample,
            image_sha256=transcript.image_sha256,
            label=transcript.label,
            outcome=verdict.outcome,
            answer=answer.text if answer else None,
            choice=verdict.choice,
            rung=verdict.rung,
            predicted=place.predicted,
            score=place.score,
            margin=place.margin,
            top5=place.top5,
            stage1_key=transcript.stage1.key if transcript.stage1 else None,
            stage2_key=stage2.key if stage2 else None,
            words=self.index.find_words(answer.text) if answer else (),
            reason=verdict.reason,
            shortlist=(stage2.offered or ()) if stage2 else (),
            looked_again=stage2 is not None and stage2.is_relook,
            further=tuple((turn.member, turn.stage, turn.key) for turn in transcript.further),
        )
