"""Phase 2: transcripts to predictions, with a matching rule and a text encoder.

Plain numpy; asks no LMM. Equal embeddings give equal bits (see `tlac.scoring.similarity`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tlac.interfaces import MatchingRule, TextEncoder
from tlac.scoring.confidence import lead
from tlac.scoring.decisions import combine_votes, decide_all
from tlac.scoring.matching import ClassIndex, apply_template, split_templates
from tlac.scoring.predictions import TOP, Decisions, Predictions, digest_texts
from tlac.scoring.similarity import PLACES, ClassVectors, IntArray, fuse_scores, mean_vectors, rank
from tlac.types import (
    BoolArray,
    Combination,
    Float32Array,
    Float64Array,
    LMMResponse,
    MatchDecision,
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

    @property
    def truncated_texts(self) -> int:
        """How many distinct texts were longer than the encoder's window."""
        return len(self.cut_texts)


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
    chosen = decided[has_words, None]
    is_decided = chosen >= 0
    # the others in their order: the decided class goes behind them
    order = np.argsort(is_decided & (indices == chosen), axis=1, kind="stable")
    start = np.where(is_decided, 0, 1)
    places = start + np.arange(indices.shape[1] - 1)
    others = np.take_along_axis(np.where(is_decided, np.take_along_axis(indices, order, 1), indices), places, 1)
    lower = np.take_along_axis(np.where(is_decided, np.take_along_axis(scores, order, 1), scores), places, 1)
    first = np.where(is_decided, chosen, indices[:, :1])
    score = np.where(is_decided, own[has_words, None], scores[:, :1])
    found = replace(
        decisions,
        predicted=decisions.predicted.copy(),
        score=decisions.score.copy(),
        margin=decisions.margin.copy(),
        top_classes=decisions.top_classes.copy(),
        top_scores=decisions.top_scores.copy(),
    )
    found.predicted[has_words] = first[:, 0]
    found.score[has_words] = score[:, 0]
    # + 0.0 turns -0.0 into 0.0, which prints otherwise
    found.margin[has_words] = np.round(score[:, 0] - lower[:, 0], PLACES) + 0.0
    width = min(TOP, indices.shape[1])
    found.top_classes[has_words, :width] = np.hstack([first, others])[:, :width]
    found.top_scores[has_words, :width] = np.hstack([score, lower])[:, :width]
    return found


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

    def nearest(self, answers: Sequence[str], count: int) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        """The `count` nearest classes of each answer and their cosines, best first; none where it has no words."""
        decided = [self.rule.judge(LMMResponse(Outcome.ANSWERED, answer), None, self.index) for answer in answers]
        texts = sorted({text for decision in decided for text in decision.texts})
        found: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = {}
        if texts:
            indices, best = self._encoded_classes[0].nearest(self._encode(texts)[0], count)
            found = {
                text: (tuple(row), tuple(values))
                for text, row, values in zip(texts, indices.tolist(), best.tolist(), strict=True)
            }
        return [found[decision.texts[0]] if decision.texts else ((), ()) for decision in decided]

    def _encode(self, texts: Sequence[str]) -> tuple[Float32Array, BoolArray]:
        """(n, d) vectors, and whether any template's text was longer than the encoder's window."""
        encoded = [
            self._encoder.encode([apply_template(template, text) for text in texts]) for template in self._templates
        ]
        cut: BoolArray = np.any([one.is_truncated for one in encoded], axis=0)
        return mean_vectors([one.vectors for one in encoded]), cut

    def _encode_units(self, units: Sequence[_Unit]) -> tuple[Float32Array, list[str]]:
        """One vector for each of sorted units of texts, (n, d), and the distinct texts that were cut."""
        has_single_texts = max(map(len, units)) == 1
        # these are in sorted order already
        texts = [unit[0] for unit in units] if has_single_texts else sorted({text for unit in units for text in unit})
        encoded, is_cut = self._encode(texts)
        cut_texts = [texts[row] for row in np.flatnonzero(is_cut).tolist()]
        if has_single_texts:
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
        fused = fuse_scores(classes.similarities(vectors[row[part]]), classes.similarities(seen), PLACES)
        indices[part], scores[part] = rank(fused, TOP + 1)
        own[part] = fused[np.arange(len(part)), index[part]]
    return place_classes(decisions, np.where(row >= 0, np.arange(len(row)), -1), index, (indices, scores), own)
