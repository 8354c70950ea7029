"""Predictions as columns: a row for each sample, and one for each distinct decision that samples point at.

Equal answers are judged, encoded and compared once; a dataset of a million samples with a thousand distinct answers
has a thousand decisions. The same table goes from scoring to disk, to the report and to whoever exports it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from tlac.errors import InputError
from tlac.types import BoolArray, Float64Array, MatchDecision, Outcome, Prediction, Stage

TOP = 5
NameT = TypeVar("NameT")
OUTCOMES = tuple(Outcome)
DECISIONS = ("exact", "choice", "similarity")
_OUTCOME_CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_DECISION_CODE: dict[str | None, int] = {None: -1, **{name: code for code, name in enumerate(DECISIONS)}}

Int32Array: TypeAlias = NDArray[np.int32]
Digests: TypeAlias = NDArray[np.uint8]
"""(n, 32): a sha256 in each row, all zeros where there is none."""

_BLOCK = 4096
_NO_DIGEST = bytes(32)
_NO_DIGEST_TEXT = _NO_DIGEST.hex()


@dataclass(frozen=True, slots=True)
class Decisions:
    """What equal answers come to, m of them, as columns of m rows.

    `outcome` and `decided_by` are codes (places in OUTCOMES and DECISIONS, -1 for none), `predicted` class indices
    (-1: none), `score`, `margin`, `confidence`, `second` and `logprob` float64 (NaN: none), `top_classes` and
    `top_scores` (m, 5) by falling score (-1 past the end). What they mean is said at `tlac.types.Prediction`.
    """

    outcome: NDArray[np.int8]
    decided_by: NDArray[np.int8]
    predicted: Int32Array
    score: Float64Array
    margin: Float64Array
    confidence: Float64Array
    top_classes: Int32Array
    top_scores: Float64Array
    answer: Sequence[str | None]
    choice: Sequence[str | None]
    reason: Sequence[str]
    words: Sequence[tuple[int, ...]]
    votes: Sequence[tuple[int | None, ...]]
    second: Float64Array
    logprob: Float64Array

    def __len__(self) -> int:
        return len(self.outcome)

    @classmethod
    def unscored(cls, decided: Sequence[MatchDecision] | Sequence[Prediction]) -> Decisions:
        """Decisions that have no class and no score yet."""
        count = len(decided)
        return cls(
            outcome=np.array([_OUTCOME_CODE[one.outcome] for one in decided], np.int8),
            decided_by=np.array([_DECISION_CODE[one.decided_by] for one in decided], np.int8),
            predicted=np.full(count, -1, np.int32),
            score=np.full(count, np.nan),
            margin=np.full(count, np.nan),
            confidence=np.full(count, np.nan),
            top_classes=np.full((count, TOP), -1, np.int32),
            top_scores=np.zeros((count, TOP)),
            answer=[one.answer for one in decided],
            choice=[one.choice for one in decided],
            reason=[one.reason for one in decided],
            words=[one.words for one in decided],
            votes=((),) * count,
            second=np.full(count, np.nan),
            logprob=_column(one.logprob for one in decided),
        )

    def take(self, rows: Sequence[int] | Int32Array) -> Decisions:
        """These decisions in this order."""
        places = np.asarray(rows, np.int64)
        listed = places.tolist()
        columns: dict[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        taken: dict[str, Any] = {
            name: column[places] if isinstance(column, np.ndarray) else [column[row] for row in listed]
            for name, column in columns.items()
        }
        return Decisions(**taken)

    def top(self, row: int) -> tuple[tuple[int, float], ...]:
        """The nearest classes of a decision and their scores, best first."""
        classes = self.top_classes[row].tolist()
        pairs = zip(classes, self.top_scores[row].tolist(), strict=True)
        return tuple(pair for pair in pairs if pair[0] >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions(Sequence[Prediction]):
    """The predictions of a run: n samples, each of which points at one of `decisions`.

    Going through it gives a `Prediction` for each sample; whoever looks at many should take the columns. `label` is
    (n,) with -1 for none, `decision` (n,) the row in `decisions`; `shortlist` and `further` are places in
    `shortlists` and `furthers`, whose first entry is the empty one.
    """

    samples: Sequence[str]
    image_sha256: Digests
    label: Int32Array
    decision: Int32Array
    stage1_key: Digests
    stage2_key: Digests
    decisions: Decisions
    stage2_with_image: BoolArray
    shortlist: Int32Array
    further: Int32Array
    shortlists: Sequence[tuple[int, ...]] = ((),)
    furthers: Sequence[tuple[tuple[int, Stage, str], ...]] = field(default=((),), repr=False)

    @classmethod
    def of(cls, rows: Iterable[Prediction]) -> Predictions:
        """The columns of predictions given one by one. Raises InputError for a key that is no sha256."""
        if isinstance(rows, Predictions):
            return rows
        table, known, distinct = PredictionTable(), dict[tuple[object, ...], int](), list[Prediction]()
        for row in rows:
            shared = (
                *(row.outcome, row.answer, row.choice, row.decided_by, row.predicted, row.score, row.margin),
                *(row.top5, row.words, row.reason, row.votes, row.confidence, row.second, row.logprob),
            )
            place = known.setdefault(shared, len(distinct))
            if place == len(distinct):
                distinct.append(row)
            table.put(
                (row.sample, row.image_sha256, row.label),
                place,
                (row.stage1_key, row.stage2_key),
                row.shortlist,
                row.stage2_with_image,
                row.further,
            )
        return table.finish(_decisions_of(distinct))

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Prediction, ...]: ...

    def __getitem__(self, place: int | slice) -> Prediction | tuple[Prediction, ...]:
        if isinstance(place, slice):
            return tuple(map(self._row, range(len(self))[place]))
        return self._row(range(len(self))[place])

    def __iter__(self) -> Iterator[Prediction]:
        return map(self._row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether the other sequence has equal predictions."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def outcome(self) -> NDArray[np.int8]:
        """(n,) codes of the outcomes, places in OUTCOMES."""
        return self.decisions.outcome[self.decision]

    @property
    def predicted(self) -> Int32Array:
        """(n,) class indices, -1 where there is none."""
        return self.decisions.predicted[self.decision]

    @property
    def is_correct(self) -> BoolArray:
        """(n,) whether a labelled sample was given its label."""
        correct: BoolArray = (self.label >= 0) & (self.predicted == self.label)
        return correct

    def _row(self, place: int) -> Prediction:
        decisions, decision = self.decisions, int(self.decision[place])
        label, predicted = int(self.label[place]), int(decisions.predicted[decision])
        code = int(decisions.decided_by[decision])
        digests = [digest_texts(one[place])[0] for one in (self.image_sha256, self.stage1_key, self.stage2_key)]
        return Prediction(
            self.samples[place],
            digests[0],
            label if label >= 0 else None,
            OUTCOMES[decisions.outcome[decision]],
            decisions.answer[decision],
            decisions.choice[decision],
            DECISIONS[code] if code >= 0 else None,
            predicted if predicted >= 0 else None,
            _number(decisions.score[decision]),
            _number(decisions.margin[decision]),
            decisions.top(decision),
            digests[1],
            digests[2],
            decisions.words[decision],
            decisions.reason[decision],
            self.shortlists[self.shortlist[place]],
            bool(self.stage2_with_image[place]),
            self.furthers[self.further[place]],
            decisions.votes[decision],
            _number(decisions.confidence[decision]),
            _number(decisions.second[decision]),
            _number(decisions.logprob[decision]),
        )


def find_twins(
    samples: Sequence[NameT], images: Digests, labels: NDArray[np.integer[Any]]
) -> tuple[int, int, tuple[int, NameT, NameT] | None]:
    """Of (n,) samples with their images (n, 32) and labels (n,), how many have the image of an earlier one (byte for
    byte), and how many of these images have several labels: the first sample that shows it, by its place, behind the
    one that it differs from, and itself."""
    starts = np.ascontiguousarray(images[:, :8]).view(np.uint64).ravel()
    ordered = np.sort(starts)
    # whole digests are compared of the few whose first eight bytes are equal
    alike = np.flatnonzero(np.isin(starts, ordered[1:][ordered[1:] == ordered[:-1]]))
    has_image = alike[images[alike].any(axis=1)]
    digests = np.ascontiguousarray(images[has_image]).view(np.dtype("V32")).ravel()
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    odd = np.flatnonzero(labels[has_image] != labels[has_image][first[group]])
    if not len(odd):
        return len(group) - len(first), 0, None
    place = int(has_image[odd[0]])
    example = (place, samples[has_image[first[group[odd[0]]]]], samples[place])
    return len(group) - len(first), len(np.unique(group[odd])), example


def describe_twins(extra: int, several: int, example: tuple[int, str, str] | None) -> str | None:
    """What there is to say of samples with equal images, as `find_twins` has found them; None where there are none.

    Such an image is asked about once and counted as often as it stands; where its labels differ, one at most is right.
    """
    if not extra:
        return None
    told = f"{extra:,} sample{'s have' if extra > 1 else ' has'} the image of another, byte for byte"
    if example is None:
        return told
    images = f"{several:,} image{'s have' if several > 1 else ' has'}"
    return f"{told}; {images} several labels, such as {example[1]} and {example[2]}"


class PredictionTable:
    """Takes samples one by one, each with the row of its decision, and gives their `Predictions`."""

    def __init__(self) -> None:
        self._samples: list[str] = []
        self._digests = (bytearray(), bytearray(), bytearray())
        self._label, self._decision, self._shortlist, self._further = (array("i") for _ in range(4))
        self._with_image = bytearray()
        self._shortlists: dict[tuple[int, ...], int] = {(): 0}
        self._furthers: list[tuple[tuple[int, Stage, str], ...]] = [()]
        # digests of the last samples in hex: to make many of them bytes at once takes a third of the time
        self._pending: tuple[list[str | None], ...] = ([], [], [])

    def __len__(self) -> int:
        return len(self._samples)

    def put(
        self,
        about: tuple[str, str | None, int | None],
        decision: int,
        keys: tuple[str | None, str | None] = (None, None),
        shortlist: tuple[int, ...] = (),
        with_image: bool = False,
        further: tuple[tuple[int, Stage, str], ...] = (),
    ) -> None:
        """Add a sample: `about` is its id, the sha256 of its image and its label, `keys` those of both stages.

        Raises InputError, here or later, for a key or an image that is not named by a sha256.
        """
        sample, image, label = about
        images, stage1, stage2 = self._pending
        images.append(image)
        stage1.append(keys[0])
        stage2.append(keys[1])
        self._samples.append(sample)
        self._label.append(-1 if label is None else label)
        self._decision.append(decision)
        self._shortlist.append(self._shortlists.setdefault(shortlist, len(self._shortlists)) if shortlist else 0)
        self._with_image.append(with_image)
        self._further.append(len(self._furthers) if further else 0)
        if further:
            self._furthers.append(further)
        if len(images) == _BLOCK:
            self._flush()

    def _flush(self) -> None:
        for digests, texts in zip(self._digests, self._pending, strict=True):
            digests.extend(_digests_of(texts))
            texts.clear()

    def finish(self, decisions: Decisions, rows: Int32Array | None = None) -> Predictions:
        """The predictions; `rows` (n,) are other rows of `decisions` than were put. Raises InputError as `put` does."""
        self._flush()
        images, stage1, stage2 = (np.frombuffer(column, np.uint8).reshape(-1, 32) for column in self._digests)
        return Predictions(
            self._samples,
            images,
            np.array(self._label, np.int32),
            self.rows if rows is None else rows,
            stage1,
            stage2,
            decisions,
            np.frombuffer(self._with_image, np.bool_),
            np.array(self._shortlist, np.int32),
            np.array(self._further, np.int32),
            tuple(self._shortlists),
            tuple(self._furthers),
        )

    @property
    def rows(self) -> Int32Array:
        """(n,) the rows of decisions that were put."""
        return np.array(self._decision, np.int32)

    @property
    def images(self) -> Digests:
        """(n, 32) the sha256 of every sample's image."""
        self._flush()
        return np.frombuffer(self._digests[0], np.uint8).reshape(-1, 32)


def _digests_of(texts: Sequence[str | None]) -> bytes:
    """The bytes of many, as `digest_bytes` makes them of each."""
    try:
        digests = bytes.fromhex("".join([text or _NO_DIGEST_TEXT for text in texts]))
    except ValueError:
        digests = b""
    if len(digests) == 32 * len(texts) and all(len(text) == 64 for text in texts if text):
        return digests
    return b"".join(map(digest_bytes, texts))


def digest_bytes(text: str | None) -> bytes:
    """The 32 bytes of a sha256 in hex, zeros for None or "". Raises InputError for anything else."""
    if not text:
        return _NO_DIGEST
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise InputError(f"{text[:80]!r} is not a sha256 (64 hex digits)")
    return digest


def digest_texts(digests: Digests) -> list[str | None]:
    """Rows of 32 bytes in hex, None for zeros."""
    if not digests.any():
        return [None] * len(digests)
    text = digests.tobytes().hex()
    pieces = [text[start : start + 64] for start in range(0, len(text), 64)]
    return [None if piece == _NO_DIGEST_TEXT else piece for piece in pieces]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _column(values: Iterable[float | None]) -> Float64Array:
    """(n,) values, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _decisions_of(rows: Sequence[Prediction]) -> Decisions:
    decisions = Decisions.unscored(rows)
    for place, row in enumerate(rows):
        for rank, (index, score) in enumerate(row.top5[:TOP]):
            decisions.top_classes[place, rank], decisions.top_scores[place, rank] = index, score
    return replace(
        decisions,
        predicted=np.array([-1 if row.predicted is None else row.predicted for row in rows], np.int32),
        score=_column(row.score for row in rows),
        margin=_column(row.margin for row in rows),
        confidence=_column(row.confidence for row in rows),
        second=_column(row.second for row in rows),
        votes=[row.votes for row in rows],
    )
