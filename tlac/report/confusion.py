"""Which classes are taken for which: the most confused pairs, and the matrix of the classes involved.

With 1000 classes the whole matrix shows nothing; the rows and columns of the worst pairs do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tlac.types import Prediction

_MOST_PAIRS = 200
_MOST_CLASSES = 16


@dataclass(frozen=True, slots=True)
class Pair:
    """`count` samples of class `truth` that were taken for `predicted`, of `n` samples of that class."""

    truth: int
    predicted: int
    count: int
    n: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """`cells[row][column]` counts samples of `classes[row]` that were taken for `classes[column]`; `others` and
    `unanswered` count, by row, those taken for other classes and those without an answer.

    `wrong_pairs` counts all distinct pairs, of which `pairs` are the most frequent.
    """

    pairs: tuple[Pair, ...]
    wrong_pairs: int
    classes: tuple[int, ...]
    cells: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]
    unanswered: tuple[int, ...]


def confuse(predictions: Sequence[Prediction]) -> Confusion:
    """The confusions among labelled predictions."""
    counts = Counter(
        (prediction.label, prediction.predicted) for prediction in predictions if prediction.label is not None
    )
    support: Counter[int] = Counter()
    for (label, _), count in counts.items():
        support[label] += count
    wrong = [
        Pair(label, predicted, count, support[label])
        for (label, predicted), count in counts.items()
        if predicted is not None and predicted != label
    ]
    wrong.sort(key=lambda pair: (-pair.count, -pair.count / pair.n, pair.truth, pair.predicted))
    classes = _involved(wrong)
    rows = [[counts[row, column] for column in classes] for row in classes]
    unanswered = [counts[row, None] for row in classes]
    others = [support[row] - sum(cells) - none for row, cells, none in zip(classes, rows, unanswered, strict=True)]
    return Confusion(
        tuple(wrong[:_MOST_PAIRS]),
        len(wrong),
        classes,
        tuple(tuple(cells) for cells in rows),
        tuple(others),
        tuple(unanswered),
    )


def _involved(pairs: Sequence[Pair]) -> tuple[int, ...]:
    """Classes of the most frequent pairs, pair by pair, those that are confused side by side."""
    found: dict[int, None] = {}
    for pair in pairs:
        added = [index for index in (pair.truth, pair.predicted) if index not in found]
        if len(found) + len(added) > _MOST_CLASSES:
            break
        found.update(dict.fromkeys(added))
    return tuple(found)
