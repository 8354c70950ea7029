"""labels.review.html: the page on which a person reviews labels, and corrects them.

    write_review(labels, classes, Path("labels.review.html"))

The page is one file that asks for nothing. What is decided on it leaves it as a CSV file, which
`tlac.analysis.review` reads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from tlac.analysis.review import Correction, ReviewPlan, draw_order, plan_review
from tlac.images import shrink_image
from tlac.report.page import PAGE_FAILURE, PageImages, is_shown_by_browser, render_page, write_whole
from tlac.report.samples import TextTable
from tlac.results.labels import COLUMNS, Label
from tlac.runtime.safe_files import OWN_FOLDER_MARK, naming_failure
from tlac.scoring.confidence import DOUBTFUL_BELOW
from tlac.scoring.predictions import OUTCOMES
from tlac.types import Sample

# about 10 MB of page; whoever has a million labels reviews the doubtful ones and the random sample
MOST = 20_000
_SIDE_PX = 320
# up to so many thumbnails stand in the page, about 3 MB, so that it can be sent; more lie in a folder beside it
_MOST_INLINE = 200
_THREADS, _BLOCK = 2, 32
_FURTHER = ("candidates", "drawn", "thumbnail", "decided")
_SCRIPTS = ("core.js", "review.js")


def write_review(  # noqa: PLR0913 - by keyword what a labelling and its review have come to
    labels: Iterable[Label],
    classes: Sequence[str],
    path: Path,
    samples: Iterable[Sample] | None = None,
    *,
    plan: ReviewPlan | None = None,
    corrections: Mapping[str, Correction] | None = None,
    is_calibrated: bool = False,
) -> Path:
    """Write the page, replacing one of that name, and its thumbnails: in it, or in a folder of its name beside it.

    `labels` are gone through more than once, so they are no iterator. `samples` are the images, in their order; without
    them they are looked for at the labels' paths. An image that can't be read has no picture. `plan` says how many are
    drawn at random, `corrections` what was decided before, `is_calibrated` that the confidences come from a
    calibration. Of more than 20,000 labels the least certain ones are on the page, and those drawn or decided before.

    Raises TlacError where it can't be written.
    """
    known = corrections or {}
    plan = plan or plan_review(labels)
    drawn = _draw(labels, plan.sample)
    total, chosen = _choose(labels, drawn, known)
    table = _Table(classes)
    pictures = _Pictures(path, is_inline=len(chosen) <= _MOST_INLINE)
    with naming_failure(path, *PAGE_FAILURE):
        path.parent.mkdir(parents=True, exist_ok=True)
        images = samples if samples is not None else (Sample(one.path, Path(one.path)) for one in labels)
        rows = (
            (place, one, sample)
            for place, (one, sample) in enumerate(zip(labels, images, strict=True))
            if place in chosen
        )
        while block := list(islice(rows, _BLOCK)):
            thumbnails = pictures.add([(one.sha256, sample) for _, one, sample in block])
            for (place, one, _), thumbnail in zip(block, thumbnails, strict=True):
                table.add(one, place in drawn, thumbnail, known.get(one.path))
        content = table.content()
        name = path.name.removesuffix(".html").removesuffix(".review")
        content |= {"images": pictures.images(), "is_calibrated": is_calibrated, "corrected": f"{name}.corrected.csv"}
        context = {"name": name, "plan": plan, "left_out": total - len(chosen)}
        html = render_page("review.html", _SCRIPTS, context, content, ("report.css", "review.css"))
        write_whole(path, html.encode())
    return path


def _draw(labels: Iterable[Label], count: int) -> set[int]:
    """The places of the labels that are drawn at random."""
    labelled = {place: one.path for place, one in enumerate(labels) if one.label is not None}
    places = list(labelled)
    return {places[rank] for rank in draw_order(list(labelled.values()))[:count]}


def _choose(labels: Iterable[Label], drawn: set[int], known: Mapping[str, Correction]) -> tuple[int, set[int]]:
    """How many labels there are, and the places of those that are on the page."""
    certainties, chosen = [], set(drawn)
    for place, one in enumerate(labels):
        # what has no label comes after the doubtful
        certainties.append(DOUBTFUL_BELOW if one.confidence is None else one.confidence)
        if one.path in known and known[one.path].is_reviewed:
            chosen.add(place)
    chosen.update(sorted(range(len(certainties)), key=certainties.__getitem__)[:MOST])
    return len(certainties), chosen


class _Pictures:
    """Makes the page's thumbnails block by block, so that neither images nor pictures pile up."""

    def __init__(self, page: Path, is_inline: bool) -> None:
        # not resolved: a browser takes ".." out of an address by its letters
        self._page = page.parent.absolute()
        self._folder = self._page / page.name.removesuffix(".html")
        self._is_inline = is_inline
        self._numbers: dict[str, int] = {}
        self._inline: list[str] = []
        self._originals: dict[int, str] = {}
        self._pool = ThreadPoolExecutor(_THREADS)

    def add(self, images: Sequence[tuple[str | None, Sample]]) -> Iterator[int]:
        """The numbers of these images' thumbnails among the page's, -1 for those that have none."""
        new = {sha256: sample for sha256, sample in images if sha256 is not None and sha256 not in self._numbers}
        for (sha256, sample), content in zip(new.items(), self._pool.map(self._make, new, new.values()), strict=True):
            if content is None:
                continue
            self._numbers[sha256] = len(self._numbers)
            if self._is_inline:
                self._inline.append(base64.b64encode(content).decode("ascii"))
            if isinstance(sample.source, Path) and is_shown_by_browser(sample.source):
                place = os.path.relpath(sample.source.absolute(), self._page)
                self._originals[self._numbers[sha256]] = Path(place).as_posix()
        return (self._numbers.get(sha256 or "", -1) for sha256, _ in images)

    def _make(self, sha256: str, sample: Sample) -> bytes | None:
        """The thumbnail, or nothing but the sign that it lies beside the page; None where there is none."""
        file = self._folder / f"{sha256}.webp"
        # of an earlier page
        if not self._is_inline and file.is_file():
            return b""
        content = shrink_image(sample.source, sample.source_name, _SIDE_PX)
        if content is None or self._is_inline:
            return content
        self._folder.mkdir(exist_ok=True)
        (self._folder / OWN_FOLDER_MARK).touch()
        write_whole(file, content)
        return b""

    def images(self) -> PageImages:
        """What the page needs to know to show them."""
        self._pool.shutdown()
        beside = () if self._is_inline else tuple(f"{sha256}.webp" for sha256 in self._numbers)
        return PageImages(tuple(self._inline), beside, self._folder.name, self._originals)


class _Table:
    """Labels as columns, as the page's script reads them: -1 and null where there is nothing."""

    def __init__(self, classes: Sequence[str]) -> None:
        # a name that stands twice means its first class; further names come from labels of another list
        self._classes = {name: number for number, name in enumerate(dict.fromkeys(classes))}
        self._texts = TextTable()
        self._columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *_FURTHER)}

    def add(self, label: Label, is_drawn: bool, thumbnail: int, correction: Correction | None) -> None:
        """Add a row; -1 is decided where no class fits."""
        # a CSV file of labels holds no candidates
        known = label.candidates or [(name, None) for name in (label.label, label.runner_up) if name is not None]
        row = {
            "path": label.path,
            "label": self._class(label.label),
            "confidence": label.confidence,
            "runner_up": self._texts.number(label.runner_up),
            "margin": label.margin,
            "answer": self._texts.number(label.answer),
            "outcome": OUTCOMES.index(label.outcome),
            "reason": self._texts.number(label.reason),
            "cost_usd": label.cost_usd,
            "sha256": label.sha256,
            "candidates": [(self._class(name), score) for name, score in known],
            "drawn": int(is_drawn),
            "thumbnail": thumbnail,
            "decided": self._class(correction.corrected) if correction and correction.is_reviewed else None,
        }
        for name, value in row.items():
            self._columns[name].append(value)

    def _class(self, name: str | None) -> int:
        return -1 if name is None else self._classes.setdefault(name, len(self._classes))

    def content(self) -> dict[str, Any]:
        """All that the script needs, without the images."""
        shown = json.dumps([self._columns["path"], self._columns["label"], list(self._classes)])
        return {
            # under which the browser keeps what was decided
            "digest": hashlib.sha256(shown.encode()).hexdigest(),
            "base": hashlib.sha256(json.dumps(self._columns["decided"]).encode()).hexdigest(),
            "rows": self._columns,
            "classes": list(self._classes),
            "texts": self._texts.texts(),
            "outcomes": [str(outcome) for outcome in OUTCOMES],
            "columns": COLUMNS,
            "doubtful_below": DOUBTFUL_BELOW,
        }
