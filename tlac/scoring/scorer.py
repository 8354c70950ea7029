"""Phase 2: transcripts to predictions, with a matching rule and a text encoder.

Plain numpy; asks no LMM. Equal embeddings give equal bits (see tlac.scoring.similarity). Memory grows with the distinct
texts, not with the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeAlias

import numpy as np

from tlac.interfaces import TextEncoder
from tlac.runtime.spooled_list import LazySequence
from tlac.scoring.decisions import Finding, Head, Judged, combine_votes, judge_all
from tlac.scoring.matching import ClassIndex, MatchingRule, apply_template, split_templates
from tlac.scoring.similarity import PLACES, ClassVectors, fuse_scores, mean_vectors, rank
from tlac.types import BoolArray, Combination, Float32Array, LMMResponse, Outcome, Prediction, Transcript

TOP = 5
# images scored at once
_IMAGES = 1024

_Unit: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions, one per transcript in their order, made anew whenever they are gone through; and how many
    distinct texts and class names were longer than the encoder's window."""

    predictions: Sequence[Prediction]
    truncated_texts: int
    truncated_classes: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a text lies among the classes: what a prediction says of it."""

    predicted: int | None = None
    score: float | None = None
    margin: float | None = None
    top5: tuple[tuple[int, float], ...] = ()


_NOWHERE = _Place()


def _place(indices: Sequence[int], scores: Sequence[float], index: int | None, decided: float) -> _Place:
    """The place of a text with these nearest classes; `index` is the class where a rung decided, `decided` that
    class's score."""
    if index is None:
        margin = round(scores[0] - scores[1], PLACES) + 0.0
        return _Place(indices[0], scores[0], margin, tuple(zip(indices[:TOP], scores[:TOP], strict=True)))
    others = [pair for pair in zip(indices, scores, strict=True) if pair[0] != index]
    margin = round(decided - others[0][1], PLACES) + 0.0
    return _Place(index, decided, margin, ((index, decided), *others[: TOP - 1]))


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
    def _encoded_classes(self) -> tuple[ClassVectors, int]:
        """The classes' vectors, and how many of their names were cut."""
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
        the images' own (see tlac.scoring.similarity).
        """
        judged = judge_all(transcripts, self.rule, self.index, combine)
        units = sorted({finding.verdict.texts for finding in judged.findings if finding.verdict.texts})
        if not units:
            return Scored(
                LazySequence(judged.samples, lambda: _predict_all(judged, [_NOWHERE] * len(judged.findings))), 0, 0
            )
        rows = {unit: row for row, unit in enumerate(units)}
        vectors, truncated = self._encode_units(units)
        truncated_classes = self._encoded_classes[1]
        if images is not None:
            seen = _Seen(self._encoded_classes[0], vectors, rows, images)
            return Scored(LazySequence(judged.samples, lambda: seen.predict_all(judged)), truncated, truncated_classes)
        places = self._places(judged.findings, rows, vectors)
        return Scored(LazySequence(judged.samples, lambda: _predict_all(judged, places)), truncated, truncated_classes)

    def nearest(self, answers: Sequence[str], count: int) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """The `count` nearest classes of each answer and their cosines, best first; none where it has no words."""
        judged = [self.rule.judge(LMMResponse(Outcome.ANSWERED, answer), None, self.index) for answer in answers]
        texts = sorted({text for verdict in judged for text in verdict.texts})
        found: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
        if texts:
            indices, best = self._encoded_classes[0].nearest(self._encode(texts)[0], count)
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

    def _encode_units(self, units: Sequence[_Unit]) -> tuple[Float32Array, int]:
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

    def _places(self, findings: Sequence[Finding], rows: Mapping[_Unit, int], vectors: Float32Array) -> list[_Place]:
        """The place of each finding."""
        classes = self._encoded_classes[0]
        indices, scores = classes.nearest(vectors, TOP + 1)
        decided = [
            (rows[verdict.texts], verdict.index)
            for verdict in (finding.verdict for finding in findings)
            if verdict.texts and verdict.index is not None
        ]
        pairs = np.array(decided, np.int64).reshape(-1, 2)
        own = iter(classes.cosines(vectors, pairs[:, 0], pairs[:, 1]).tolist())
        nearest = list(zip(indices.tolist(), scores.tolist(), strict=True))
        return [
            _place(*nearest[rows[verdict.texts]], verdict.index, 0.0 if verdict.index is None else next(own))
            if verdict.texts
            else _NOWHERE
            for verdict in (finding.verdict for finding in findings)
        ]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Scores texts together with the images that they are about."""

    classes: ClassVectors
    vectors: Float32Array
    rows: Mapping[_Unit, int]
    images: Mapping[str, Float32Array]

    def predict_all(self, judged: Judged) -> Iterator[Prediction]:
        """A prediction for each head, in their order."""
        pending = iter(judged.heads)
        while heads := list(islice(pending, _IMAGES)):
            findings = [judged.findings[head.finding] for head in heads]
            answered = [place for place, finding in enumerate(findings) if finding.verdict.texts]
            places = [_NOWHERE] * len(heads)
            if answered:
                words = self.classes.similarities(self.vectors[[self._row(findings[place]) for place in answered]])
                seen = np.stack([self.images[heads[place].image_sha256 or ""] for place in answered])
                fused = fuse_scores(words, self.classes.similarities(seen), PLACES)
                indices, best = rank(fused, TOP + 1)
                for place, own, order, values in zip(answered, fused, indices.tolist(), best.tolist(), strict=True):
                    index = findings[place].verdict.index
                    places[place] = _place(order, values, index, 0.0 if index is None else float(own[index]))
            yield from map(_predict, heads, findings, places)

    def _row(self, finding: Finding) -> int:
        return self.rows[finding.verdict.texts]


def _predict_all(judged: Judged, places: Sequence[_Place]) -> Iterator[Prediction]:
    """The predictions; those of several members are combined."""
    heads = iter(judged.heads)
    for head in heads:
        ensemble = (head, *islice(heads, head.members - 1))
        predictions = [_predict(one, judged.findings[one.finding], places[one.finding]) for one in ensemble]
        yield predictions[0] if len(ensemble) == 1 else combine_votes(head.further, predictions)


def _predict(head: Head, finding: Finding, place: _Place) -> Prediction:
    verdict = finding.verdict
    return Prediction(
        head.sample,
        head.image_sha256,
        head.label,
        verdict.outcome,
        finding.answer,
        verdict.choice,
        verdict.decided_by,
        place.predicted,
        place.score,
        place.margin,
        place.top5,
        head.stage1_key,
        head.stage2_key,
        finding.words,
        verdict.reason,
        head.shortlist,
        head.stage2_with_image,
        head.further,
    )
