"""Labels and a person's review of them: which ones to look at, what was corrected, and what that teaches.

    merged = merge_corrections(labels, Path("labels.corrected.csv"), classes)
    write_labels(merged.labels, Path("labels.csv"))
    print(merged)

The file is what the review page downloads, or a labels.csv with two more columns that a person filled in:
`corrected_label` and `reviewed`.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tlac.datasets.text_files import parse_csv, read_text
from tlac.errors import InputError, UsageError
from tlac.results.labels import Label
from tlac.results.record import Run
from tlac.results.table_files import undo_defusing
from tlac.runtime.formatting import interval, percent
from tlac.scoring.confidence import DOUBTFUL_BELOW, Calibration, fit, fit_corrected
from tlac.scoring.metrics import Z95

# what a person wants to know about labels that nobody checked: about one in twenty wrong, known to within two points
ERROR_RATE, HALF_WIDTH = 0.05, 0.02
_WANTED = ("path", "label", "corrected_label", "reviewed")
_OPTIONAL = ("confidence", "sha256", "drawn", "calibrated")
_TRUE, _FALSE = frozenset(("yes", "true", "1", "x")), frozenset(("no", "false", "0", ""))


@dataclass(frozen=True, slots=True)
class ReviewPlan:
    """How many of `labelled` labels to check: the `doubtful` ones, because they are the likeliest to be wrong, and
    `sample` drawn at random from all, because only these tell how many are wrong.

    With about ERROR_RATE of the labels wrong, the sample gives that share to within about HALF_WIDTH (95 %).
    """

    labelled: int
    doubtful: int
    sample: int

    def __str__(self) -> str:
        if not self.labelled:
            return "There is no label to review."
        below = f"(confidence below {DOUBTFUL_BELOW:g})"
        doubtful = f"{self.doubtful:,} of {self.labelled:,} labels are doubtful {below}: review these first."
        if not self.doubtful:
            doubtful = f"None of {self.labelled:,} labels is doubtful {below}."
        if self.sample == self.labelled:
            return f"{doubtful} To know how many are wrong, review all {self.labelled:,}."
        wrong = round(ERROR_RATE * self.sample)
        shares = interval(sample_interval(wrong, self.sample, self.labelled), dash=" to ")
        return (
            f"{doubtful} To know how many are wrong, review {self.sample:,} drawn at random: if {wrong:,} of these are "
            f"wrong, {shares} % of all are (95 %)."
        )


def plan_review(labels: Iterable[Label]) -> ReviewPlan:
    """What to review of these labels; images without one are not counted.

    >>> sure, doubtful = Label("cat.jpg", "cat", 0.9), Label("dog.jpg", "dog", 0.2)
    >>> print(plan_review([sure] * 9_800 + [doubtful] * 200))
    200 of 10,000 labels are doubtful (confidence below 0.5): review these first. To know how many are wrong, review \
437 drawn at random: if 22 of these are wrong, 3.2 to 7.5 % of all are (95 %).
    """
    known = [one.confidence for one in labels if one.label is not None and one.confidence is not None]
    doubtful = sum(confidence < DOUBTFUL_BELOW for confidence in known)
    return ReviewPlan(len(known), doubtful, sample_size(len(known)))


def sample_size(population: int, error_rate: float = ERROR_RATE, half_width: float = HALF_WIDTH) -> int:
    """How many of `population` labels to draw, so that the 95 % interval of a share near `error_rate` is that
    share +- `half_width`, both between 0 and 1.

    Cochran's formula for a proportion with the correction for a finite population (Sampling Techniques, 1977, 4.4).
    """
    if population <= 0:
        return 0
    unlimited = Z95**2 * error_rate * (1 - error_rate) / half_width**2
    return min(population, math.ceil(unlimited / (1 + (unlimited - 1) / population)))


def sample_interval(right: int, n: int, population: int) -> tuple[float, float]:
    """The 95 % interval of the share that is right in all, where `right` of `n` drawn without replacement are.

    It inverts the hypergeometric test, 2.5 % in either tail (Buonaccorsi, The American Statistician 41, 1987): covers
    the share at least 95 times in 100, and holds none that the drawn ones rule out. For 0 <= right <= n, n >= 1.
    """
    low = _fewest(right, n, population)
    return low / population, (population - _fewest(n - right, n, population)) / population


def _fewest(seen: int, n: int, population: int) -> int:
    """The smallest number in all of a kind of which `seen` or more of `n` are drawn in over 2.5 % of draws."""

    def chance(total: int) -> float:
        draws = _log_choose(population, n)
        counts = range(max(seen, n - (population - total)), min(n, total) + 1)
        logs = (_log_choose(total, one) + _log_choose(population - total, n - one) - draws for one in counts)
        return math.fsum(map(math.exp, logs))

    possible = range(seen, population - (n - seen) + 1)
    # the last one where rounding denies it
    return possible[min(bisect_right(possible, 0.025, key=chance), len(possible) - 1)]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def draw_order(paths: Sequence[str]) -> list[int]:
    """The places of the paths in a random order that hangs on the paths alone: its first k are a random sample of k.

    So whoever drew, reviewed and merged means the same sample, and a longer one holds a shorter one.
    """
    ranks = [hashlib.sha256(f"draw {path}".encode("utf-8", "surrogatepass")).digest() for path in paths]
    return sorted(range(len(paths)), key=lambda place: (ranks[place], place))


@dataclass(frozen=True, slots=True)
class Correction:
    """A row: what the image had been labelled and, where it `is_reviewed`, what a person says that it shows, None where
    no class fits.

    `is_drawn` says that it belongs to the random sample that was to be reviewed, `is_calibrated` that its confidence
    comes from a calibration.
    """

    line: int
    label: str | None
    corrected: str | None
    confidence: float | None
    sha256: str | None
    is_reviewed: bool
    is_drawn: bool
    is_calibrated: bool


@dataclass(frozen=True, slots=True)
class Merged:
    """Labels with a person's corrections in them, and what these say about the labels as they were.

    Of `reviewed` labels `right` were right; of `drawn` ones, which are a whole random sample of all `labelled` (0 where
    there was none), `drawn_right` were. `found` images without a label have one now.

    What was reviewed is known, in the sample and beside it; only about the rest anything is inferred.
    """

    labels: tuple[Label, ...]
    labelled: int
    reviewed: int
    right: int
    found: int
    drawn: int
    drawn_right: int

    def __str__(self) -> str:
        found = f"; {self.found:,} without a label got one" if self.found else ""
        if not self.reviewed:
            return f"no label was reviewed{found}"
        wrong = self.reviewed - self.right
        if self.reviewed == self.labelled:
            share = percent(self.right / self.reviewed)
            return f"all {self.labelled:,} labels reviewed: {share} % were right, {wrong:,} are corrected{found}."
        said = (
            f"{self.reviewed:,} of {self.labelled:,} labels reviewed: {percent(self.right / self.reviewed)} % of these "
            f"were right, {wrong:,} are corrected{found}. "
        )
        if self.drawn:
            share = percent(self.drawn_right / self.drawn)
            return (
                f"{said}Of the {self.drawn:,} drawn at random {share} % were right: by these and all that is known, "
                f"{interval(self.share_right(), dash=' to ')} % of all labels are (95 %)."
            )
        return (
            f"{said}They are no random sample (the doubtful come first), so this does not hold for the others: review "
            "those drawn at random to know about all."
        )

    def share_right(self) -> tuple[float, float]:
        """The 95 % interval of the share of all labels that were right, by a random sample of them.

        That of `sample_interval`, without what the labels reviewed beside the sample rule out: these are no random
        choice, and so they say nothing about the rest. Where they rule out all of it, all that is possible.
        """
        least, most = self.right / self.labelled, (self.labelled - self.reviewed + self.right) / self.labelled
        low, high = sample_interval(self.drawn_right, self.drawn, self.labelled)
        return (least, most) if high < least or most < low else (max(low, least), min(high, most))


def merge_corrections(labels: Iterable[Label], path: Path, classes: Collection[str] | None = None) -> Merged:
    """Put the corrections in a CSV file into labels. With `classes`, a correction has to be one of them.

    A reviewed label has confidence 1. One that no class fits has none any more; its reason says what it was.

    Raises InputError naming the line for a row that can't be used: an image that is none of these, or whose bytes are
    others now, an unknown class, and what is reviewed and not reviewed at once.
    """
    before = tuple(labels)
    known = {label.path: label for label in before}
    rows = read_corrections(path, classes, known)
    for name, row in rows.items():
        sha256 = known[name].sha256
        if row.is_reviewed and sha256 and row.sha256 and sha256 != row.sha256:
            raise InputError(f"{path}, line {row.line}: {name!r} is another image now: review it again")
    reviewed = {name: row for name, row in rows.items() if row.is_reviewed}
    labelled = {label.path: label for label in before if label.label is not None}
    hits = {name: labelled[name].label == row.corrected for name, row in reviewed.items() if name in labelled}
    drawn = {name for name, row in rows.items() if row.is_drawn}
    names = list(labelled)
    # all of it, and drawn from these very labels: else it is no random sample of them
    is_sample = drawn <= hits.keys() and drawn == {names[place] for place in draw_order(names)[: len(drawn)]}
    return Merged(
        tuple(_correct(label, reviewed.get(label.path)) for label in before),
        len(labelled),
        len(hits),
        sum(hits.values()),
        sum(name not in labelled and row.corrected is not None for name, row in reviewed.items()),
        len(drawn) if is_sample else 0,
        sum(hits[name] for name in drawn) if is_sample else 0,
    )


def read_corrections(
    path: Path, classes: Collection[str] | None = None, images: Collection[str] | None = None
) -> dict[str, Correction]:
    """The rows of a CSV file of corrections, by path; with `images`, each has to be one of them.

    Where several rows are about one image, those that are reviewed count. Raises InputError naming the line.
    """
    known = None if classes is None else frozenset(classes)
    found: dict[str, Correction] = {}
    for line, row in parse_csv(read_text(path), path, _WANTED, _OPTIONAL, is_free_text=True):
        if not any(cell.strip() for cell in row.values()):
            # a spreadsheet's empty rows
            continue
        where = f"{path}, line {line}"
        corrected = undo_defusing(row["corrected_label"]).strip() or None
        is_reviewed = _read_flag(row["reviewed"], f"{where}: reviewed")
        if corrected is not None and row["reviewed"].strip() and not is_reviewed:
            raise InputError(f"{where}: has a corrected_label and is not reviewed: write yes, or leave both empty")
        if known is not None and corrected is not None and corrected not in known:
            raise InputError(f"{where}: corrected_label {corrected[:80]!r} is none of the classes")
        name = undo_defusing(row["path"])
        if images is not None and name not in images:
            raise InputError(
                f"{where}: {name!r} is none of the labelled images: run the command in the folder and with the images "
                "as before; if they were moved, write in the column path where they are now"
            )
        correction = Correction(
            line,
            undo_defusing(row["label"]) or None,
            corrected,
            _read_share(row.get("confidence", ""), f"{where}: confidence"),
            row.get("sha256", "").strip() or None,
            # whoever fills in a class by hand has looked
            is_reviewed or corrected is not None,
            _read_flag(row.get("drawn", ""), f"{where}: drawn"),
            _read_flag(row.get("calibrated", ""), f"{where}: calibrated"),
        )
        before = found.get(name)
        if before is None or not before.is_reviewed:
            found[name] = correction
        elif correction.is_reviewed and before.corrected != corrected:
            raise InputError(f"{where}: {name!r} stands in line {before.line} as well, with another class")
    return found


def calibrate(runs: Sequence[Run]) -> Calibration:
    """What labelled runs of one text encoder teach.

    Raises UsageError where they have different encoders, or nothing that can be learnt from.
    """
    encoders = sorted({(run.record.encoder, run.record.digests.get("encoder", "")) for run in runs})
    if len(encoders) > 1:
        raise UsageError(
            f"runs of several text encoders ({', '.join(name for name, _ in encoders)}), "
            "or with and without the image: their margins mean different things; calibrate each by itself"
        )
    predictions = [prediction for run in runs for prediction in run.predictions]
    found = fit(predictions, encoders[0][1] if encoders else "", tuple(run.record.run for run in runs))
    if found is None:
        raise UsageError(
            f"{len(predictions)} predictions teach nothing: it takes labelled ones, some of them right and some wrong"
        )
    return found


def calibrate_corrections(path: Path) -> Calibration:
    """What a file of corrections teaches about confidence, which has to be that without a calibration.

    Raises InputError as read_corrections does, UsageError where there is nothing that can be learnt from.
    """
    rows = [row for row in read_corrections(path).values() if row.is_reviewed and row.label is not None]
    if any(row.is_calibrated for row in rows):
        raise UsageError(
            f"{path}: these confidences come from a calibration already: label without --calibration first"
        )
    # 1 is the confidence of a label that a person gave before
    pairs = [(row.confidence, row.label == row.corrected) for row in rows if row.confidence not in (None, 1.0)]
    sure, right = np.array(pairs, np.float64).reshape(-1, 2).T
    found = fit_corrected(sure, right, path.name)
    if found is None:
        raise UsageError(
            f"{path}: {len(pairs)} reviewed labels teach nothing: it takes some right and some wrong ones, and right "
            "ones of a higher confidence"
        )
    return found


def _correct(label: Label, correction: Correction | None) -> Label:
    if correction is None:
        return label
    if correction.corrected is None:
        reason = f"reviewed: no class fits, was {label.label}" if label.label else label.reason
        return replace(label, label=None, confidence=None, runner_up=None, margin=None, reason=reason)
    if correction.corrected == label.label:
        return replace(label, confidence=1.0, reason="reviewed")
    reason = f"reviewed: was {label.label}" if label.label else "reviewed: had no label"
    return replace(label, label=correction.corrected, confidence=1.0, runner_up=None, margin=None, reason=reason)


def _read_flag(cell: str, where: str) -> bool:
    word = cell.strip().lower()
    if word not in _TRUE | _FALSE:
        raise InputError(f"{where} is {cell[:40]!r}: write yes, or nothing")
    return word in _TRUE


def _read_share(cell: str, where: str) -> float | None:
    if not cell.strip():
        return None
    try:
        share = float(cell.strip().replace(",", "."))
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{where} is {cell[:40]!r}, no number from 0 to 1")
    return share
