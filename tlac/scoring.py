"""Phase 2: transcripts to predictions, with a matching rule and a text encoder.

Plain numpy; asks no LMM. Equal embeddings give equal bits: float64 products rounded to 6 places, ties to
the lower class index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tlac.interfaces import TextEncoder
from tlac.matching import ClassIndex, MatchingRule, Verdict, apply_template
from tlac.types import Float32Array, Float64Array, Outcome, Prediction, Transcript

PLACES = 6
TOP = 5
# rows of similarities held at once: 4,096 x 1,000 float64 are 33 MB
_CHUNK_ROWS = 4096


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


def similarities(texts: Float32Array, classes: Float32Array) -> Float64Array:
    """Cosines of (t, d) and (c, d) rows of length 1: (t, c) float64 in [-1, 1], rounded to 6 places."""
    product = texts.astype(np.float64) @ classes.astype(np.float64).T
    # + 0.0 turns -0.0 into 0.0, which prints otherwise
    rounded: Float64Array = np.round(product, PLACES) + 0.0
    return rounded


def rank(scores: Float64Array, count: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], Float64Array]:
    """The `count` best columns of each row and their scores, best first, ties to the lower index."""
    columns = scores.shape[1]
    count = min(count, columns)
    # distinct integers that order by score, then by lower index, so that no sort has to be stable
    ordered = np.round(scores * 10**PLACES).astype(np.int64) * columns - np.arange(columns)
    best = np.argpartition(-ordered, count - 1, axis=1)[:, :count]
    within = np.argsort(-np.take_along_axis(ordered, best, axis=1), axis=1)
    indices = np.take_along_axis(best, within, axis=1)
    return indices, np.take_along_axis(scores, indices, axis=1)


class Scorer:
    """Scores texts against one class list with one encoder, template and matching rule."""

    def __init__(self, classes: Sequence[str], encoder: TextEncoder, rule: MatchingRule, template: str) -> None:
        self.index = ClassIndex(classes)
        self.rule = rule
        self._encoder = encoder
        self._template = template

    def encode_classes(self) -> None:
        """Encode the class names now, so that an encoder that can't be had is known before anything is paid."""
        self._encoder.encode(self._class_texts())

    def _class_texts(self) -> list[str]:
        return [apply_template(self._template, self.rule.class_text(name)) for name in self.index.classes]

    def score(self, transcripts: Sequence[Transcript]) -> Scored:
        """The predictions for these transcripts."""
        verdicts = [self._judge(transcript) for transcript in transcripts]
        texts = sorted({verdict.text for verdict in verdicts if verdict.text is not None})
        rows: dict[str, int] = {text: row for row, text in enumerate(texts)}
        wanted: dict[int, set[int]] = {}
        for verdict in verdicts:
            if verdict.text is not None and verdict.index is not None:
                wanted.setdefault(rows[verdict.text], set()).add(verdict.index)
        rankings: list[_Ranking] = []
        decided: dict[tuple[int, int], float] = {}
        truncated_texts = truncated_classes = 0
        if texts:
            encoded = self._encoder.encode([apply_template(self._template, text) for text in texts])
            classes = self._encoder.encode(self._class_texts())
            truncated_texts = int(encoded.is_truncated.sum())
            truncated_classes = int(classes.is_truncated.sum())
            for start in range(0, len(texts), _CHUNK_ROWS):
                scores = similarities(encoded.vectors[start : start + _CHUNK_ROWS], classes.vectors)
                indices, best = rank(scores, TOP + 1)
                rankings += [
                    _Ranking(tuple(row), tuple(values))
                    for row, values in zip(indices.tolist(), best.tolist(), strict=True)
                ]
                for row in range(start, start + len(scores)):
                    for index in wanted.get(row, ()):
                        decided[row, index] = float(scores[row - start, index])
        predictions = []
        for transcript, verdict in zip(transcripts, verdicts, strict=True):
            at = rows.get(verdict.text) if verdict.text is not None else None
            ranking = rankings[at] if at is not None else None
            own = decided.get((at, verdict.index)) if at is not None and verdict.index is not None else None
            predictions.append(self._predict(transcript, verdict, ranking, own))
        return Scored(tuple(predictions), truncated_texts, truncated_classes)

    def _judge(self, transcript: Transcript) -> Verdict:
        if transcript.failure is not None:
            return Verdict(Outcome.FAILED, reason=transcript.failure.reason)
        if transcript.stage1 is None:
            return Verdict(Outcome.FAILED, reason="nothing was asked")
        choice = transcript.stage2.response if transcript.stage2 else None
        return self.rule.judge(transcript.stage1.response, choice, self.index)

    def _predict(
        self, transcript: Transcript, verdict: Verdict, ranking: _Ranking | None, decided: float | None
    ) -> Prediction:
        predicted, score, margin = None, None, None
        top: tuple[tuple[int, float], ...] = ()
        if ranking is not None:
            predicted = ranking.indices[0] if verdict.index is None else verdict.index
            score = ranking.scores[0] if decided is None else decided
            others = [
                (index, value)
                for index, value in zip(ranking.indices, ranking.scores, strict=True)
                if index != predicted
            ]
            margin = round(score - others[0][1], PLACES) + 0.0
            top = ((predicted, score), *others[: TOP - 1])
        answer = transcript.stage1.response if transcript.stage1 else None
        return Prediction(
            sample=transcript.sample,
            image_sha256=transcript.image_sha256,
            label=transcript.label,
            outcome=verdict.outcome,
            answer=answer.text if answer else None,
            choice=verdict.choice,
            rung=verdict.rung,
            predicted=predicted,
            score=score,
            margin=margin,
            top5=top,
            stage1_key=transcript.stage1.key if transcript.stage1 else None,
            stage2_key=transcript.stage2.key if transcript.stage2 else None,
            words=self.index.find_words(answer.text) if answer else (),
            reason=verdict.reason,
        )
