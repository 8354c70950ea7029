"""Samples as columns of plain values, small enough for 50,000 of them in one page.

Equal texts stand once. Does not know how a page shows them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlac.report.texts import LONGEST_NAME, cut
from tlac.report.thumbnails import interest
from tlac.types import Outcome, Prediction

# base64 text, so that a page of 2,000 samples stays under 10 MB
_INLINE_BYTES = 7_000_000


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """One entry a sample in each column. `answer`, `choice`, `reason` and the keys are indices into `texts`,
    -1 where there is none; `thumbnail` is one into the page's images; `top5` holds (class, score)."""

    texts: tuple[str, ...]
    sample: tuple[str, ...]
    label: tuple[int | None, ...]
    predicted: tuple[int | None, ...]
    outcome: tuple[int, ...]
    rung: tuple[int, ...]
    answer: tuple[int, ...]
    choice: tuple[int, ...]
    reason: tuple[int, ...]
    score: tuple[float | None, ...]
    margin: tuple[float | None, ...]
    confidence: tuple[float | None, ...]
    top5: tuple[tuple[tuple[int, float], ...], ...]
    words: tuple[tuple[int, ...], ...]
    shortlist: tuple[tuple[int, ...], ...]
    votes: tuple[tuple[int | None, ...], ...]
    stage1_key: tuple[int, ...]
    stage2_key: tuple[int, ...]
    thumbnail: tuple[int, ...]
    outcomes: tuple[str, ...]
    rungs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageImages:
    """Thumbnails: `inline` as base64, and further ones in files of these names in the folder `folder`."""

    inline: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    folder: str = ""


class TextTable:
    """Gives each distinct text a number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        """The number of a text, -1 for none."""
        return -1 if not text else self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> tuple[str, ...]:
        """All texts in the order of their numbers, long ones cut."""
        return tuple(cut(text) for text in self._numbers)


def to_columns(predictions: Sequence[Prediction], numbers: Mapping[str, int]) -> SampleColumns:
    """The columns of these predictions; `numbers` gives an image's place among the page's by its sha256."""
    table = TextTable()
    outcomes = [str(outcome) for outcome in Outcome]
    rungs = sorted({prediction.rung for prediction in predictions if prediction.rung is not None})
    places: dict[str | None, int] = {rung: place for place, rung in enumerate(rungs)}
    columns: dict[str, Any] = {
        "sample": tuple(cut(prediction.sample, LONGEST_NAME) for prediction in predictions),
        "outcome": tuple(outcomes.index(prediction.outcome) for prediction in predictions),
        "rung": tuple(places.get(prediction.rung, -1) for prediction in predictions),
        "thumbnail": tuple(numbers.get(prediction.image_sha256 or "", -1) for prediction in predictions),
    }
    for name in ("answer", "choice", "reason", "stage1_key", "stage2_key"):
        columns[name] = tuple(table.number(getattr(prediction, name)) for prediction in predictions)
    for name in ("label", "predicted", "score", "margin", "confidence", "top5", "words", "shortlist", "votes"):
        columns[name] = tuple(getattr(prediction, name) for prediction in predictions)
    return SampleColumns(texts=table.texts(), outcomes=tuple(outcomes), rungs=tuple(rungs), **columns)


def place_images(
    predictions: Sequence[Prediction], thumbnails: Mapping[str, bytes | Path], folder: str
) -> tuple[PageImages, dict[str, int]]:
    """The page's images, the most interesting inline up to a limit, and their numbers by sha256."""
    inline: list[str] = []
    beside: list[str] = []
    size = 0
    shown = {
        prediction.image_sha256 or "": prediction for prediction in sorted(predictions, key=interest, reverse=True)
    }
    wanted = [sha256 for sha256 in reversed(shown) if sha256 in thumbnails]
    for sha256 in wanted:
        if size < _INLINE_BYTES:
            source = thumbnails[sha256]
            content = source if isinstance(source, bytes) else source.read_bytes()
            inline.append(base64.b64encode(content).decode("ascii"))
            size += len(inline[-1])
        else:
            beside.append(f"{sha256}.webp")
    return PageImages(tuple(inline), tuple(beside), folder), {sha256: place for place, sha256 in enumerate(wanted)}
