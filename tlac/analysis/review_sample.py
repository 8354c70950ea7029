"""How many labels a person should check, and which ones to draw for it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlac.errors import UsageError
from tlac.scoring.confidence import DOUBTFUL_BELOW
from tlac.scoring.metrics import Z95

# what a person wants to know about labels that nobody checked: about one in twenty wrong, known to within two points
ERROR_RATE, HALF_WIDTH = 0.05, 0.02


@dataclass(frozen=True, slots=True)
class ReviewPlan:
    """How many of `labelled` labels to check: the `doubtful` ones, because they are the likeliest to be wrong, and
    `sample` drawn at random from all, because only these tell how many are wrong.

    With about `error_rate` of the labels wrong, the sample gives that share to within `half_width` (95 %).
    """

    labelled: int
    doubtful: int
    sample: int
    error_rate: float = ERROR_RATE
    half_width: float = HALF_WIDTH

    def __str__(self) -> str:
        if not self.labelled:
            return "There is no label to review."
        below = f"(confidence below {DOUBTFUL_BELOW:g})"
        doubtful = f"{self.doubtful:,} of {self.labelled:,} labels are doubtful {below}: review these first."
        if not self.doubtful:
            doubtful = f"None of {self.labelled:,} labels is doubtful {below}."
        if self.sample == self.labelled:
            return f"{doubtful} To know how many are wrong, review all {self.labelled:,}."
        low, high = max(0.0, self.error_rate - self.half_width), min(1.0, self.error_rate + self.half_width)
        return (
            f"{doubtful} To know how many are wrong, review {self.sample:,} drawn at random: if "
            f"{100 * self.error_rate:g} % of these are wrong, {100 * low:g} to {100 * high:g} % of all are (95 %)."
        )


def plan_review(
    confidences: Iterable[float | None], error_rate: float = ERROR_RATE, half_width: float = HALF_WIDTH
) -> ReviewPlan:
    """What to review of labels with these confidences, None for those without a label, which are not counted.

    >>> print(plan_review([0.9] * 9_800 + [0.2] * 200))
    200 of 10,000 labels are doubtful (confidence below 0.5): review these first. To know how many are wrong, review \
437 drawn at random: if 5 % of these are wrong, 3 to 7 % of all are (95 %).

    Raises UsageError as sample_size does.
    """
    known = [confidence for confidence in confidences if confidence is not None]
    doubtful = sum(confidence < DOUBTFUL_BELOW for confidence in known)
    return ReviewPlan(len(known), doubtful, sample_size(len(known), error_rate, half_width), error_rate, half_width)


def sample_size(population: int, error_rate: float = ERROR_RATE, half_width: float = HALF_WIDTH) -> int:
    """How many of `population` labels to draw, so that the 95 % interval of a share near `error_rate` is that
    share +- `half_width`.

    Cochran's formula for a proportion with the correction for a finite population (Sampling Techniques, 1977, 4.4).
    Raises UsageError for a rate or a half width that is not between 0 and 1.
    """
    for name, value in (("error rate", error_rate), ("half width", half_width)):
        if not 0 < value < 1:
            raise UsageError(f"{name} {value:g}: a share between 0 and 1 is needed, such as 0.05")
    if population <= 0:
        return 0
    unlimited = Z95**2 * error_rate * (1 - error_rate) / half_width**2
    return min(population, math.ceil(unlimited / (1 + (unlimited - 1) / population)))


def draw_order(paths: Sequence[str]) -> list[int]:
    """The places of the paths in a random order that hangs on the paths alone: its first k are a random sample of k.

    So whoever drew, reviewed and merged means the same sample, and a longer one holds a shorter one.
    """
    ranks = [hashlib.sha256(f"draw {path}".encode("utf-8", "surrogatepass")).digest() for path in paths]
    return sorted(range(len(paths)), key=lambda place: (ranks[place], place))
