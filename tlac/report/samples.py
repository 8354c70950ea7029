"""Samples as a page shows them: thumbnails, and columns small enough for 50,000 samples in one page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tlac.images import shrink_image
from tlac.report.page import LONGEST_NAME, PageImages, cut
from tlac.results.folder import read_thumbnail
from tlac.results.usage import SampleCalls
from tlac.scoring.predictions import DECISIONS, OUTCOMES, Int32Array, Predictions, digest_texts
from tlac.types import Float64Array, Outcome, Sample, Source

# making one takes some milliseconds: a run of 50,000 must not wait minutes for pictures that nobody looks at
MOST = 3_000
_LARGE_SIDE_PX, _SMALL_SIDE_PX = 320, 160
_MOST_LARGE = 600
_THREADS = 2
# base64 text, so that a page of 2,000 samples stays under 10 MB
_INLINE_BYTES = 7_000_000


def make_thumbnails(
    samples: Iterable[Sample], predictions: Predictions, known: dict[tuple[str, int], bytes] | None = None
) -> tuple[dict[str, bytes], dict[str, Path]]:
    """WebP pictures by the sha256 of their image, and the files that they are of where these are files.

    `samples` are those of the predictions, in order. The `MOST` samples that are most worth looking at have one:
    those without an answer come first, then wrong ones, then correct ones by rising margin. An image that can't be
    decoded has none. `known` are pictures of an earlier run by sha256 and side, which are not made again; this run's
    take their place.
    """
    digests = digest_texts(predictions.image_sha256)
    wanted = {digests[place] for place in _by_interest(predictions)[:MOST]} - {None}
    side = _LARGE_SIDE_PX if len(wanted) <= _MOST_LARGE else _SMALL_SIDE_PX
    sources: dict[str, tuple[Source, str]] = {}
    # by position, since a dataset may hold one id twice
    for sample, sha256 in zip(samples, digests, strict=True):
        if sha256 is not None and sha256 in wanted:
            sources.setdefault(sha256, (sample.source, sample.id))
    known = {} if known is None else known
    pictures = {sha256: known[sha256, side] for sha256 in sources if (sha256, side) in known}
    new = {sha256: given for sha256, given in sources.items() if sha256 not in pictures}
    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(lambda given: shrink_image(given[0], given[1], side), new.values())
        pictures |= {sha256: content for sha256, content in zip(new, made, strict=True) if content is not None}
    known.clear()
    known.update(((sha256, side), content) for sha256, content in pictures.items())
    return pictures, {sha256: source for sha256, (source, _) in sources.items() if isinstance(source, Path)}


def _by_interest(predictions: Predictions) -> list[int]:
    """The places of the samples most worth looking at first: no answer, then wrong, then correct by rising margin."""
    is_answered = predictions.outcome == OUTCOMES.index(Outcome.ANSWERED)
    margin = np.where(is_answered, np.nan_to_num(predictions.decisions.margin)[predictions.decision], 0.0)
    order: list[int] = np.lexsort((margin, np.where(is_answered, 1 + predictions.is_correct, 0))).tolist()
    return order


def place_images(
    predictions: Predictions,
    thumbnails: Mapping[str, Path],
    folder: str,
    originals: Mapping[str, str] | None = None,
) -> tuple[PageImages, dict[str, int]]:
    """The page's images, the most interesting inline up to a limit, and their numbers by sha256.

    `originals` are paths of the images themselves, by sha256.
    """
    inline: list[str] = []
    beside: list[str] = []
    size = 0
    digests = digest_texts(predictions.image_sha256)
    # of samples with equal images the most interesting one counts
    ordered = dict.fromkeys(digests[place] for place in _by_interest(predictions))
    wanted = [sha256 for sha256 in ordered if sha256 is not None and sha256 in thumbnails]
    for sha256 in wanted:
        if size < _INLINE_BYTES:
            inline.append(base64.b64encode(read_thumbnail(thumbnails[sha256])).decode("ascii"))
            size += len(inline[-1])
        else:
            beside.append(f"{sha256}.webp")
    numbers = {sha256: place for place, sha256 in enumerate(wanted)}
    known = {numbers[sha256]: path for sha256, path in (originals or {}).items() if sha256 in numbers}
    return PageImages(tuple(inline), tuple(beside), folder, known), numbers


class TextTable:
    """Gives each distinct text a number, so that equal texts stand once in a page."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        """The number of a text, -1 for none."""
        return -1 if not text else self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> list[str]:
        """All texts in the order of their numbers, long ones cut."""
        return [cut(text) for text in self._numbers]


def to_columns(
    predictions: Predictions, numbers: Mapping[str, int], calls: Sequence[SampleCalls] = ()
) -> dict[str, object]:
    """One list a field, as the page's scripts read them; `numbers` gives an image's place among the page's.

    `decisions` are the columns of what equal answers come to, and `decision` a sample's row there. `cost_usd` (null
    where a price is not known) and `latency_s` are sums over a sample's `calls`, empty where these are not known.
    `answer`, `choice`, `reason` and the keys are indices into `texts`, `outcome` into `outcomes`, `decided_by` into
    `steps`, -1 where there is none; `top5` holds (class, score).
    """
    decisions, table = predictions.decisions, TextTable()
    # an older run may have none, and those of another run would be others
    is_known = [call.sample for call in calls] == list(predictions.samples)
    costs = [[facts.cost_usd for facts in call.calls] for call in calls] if is_known else []
    return {
        "sample": [cut(sample, LONGEST_NAME) for sample in predictions.samples],
        "label": _or_none(predictions.label),
        "decision": predictions.decision.tolist(),
        "shortlist": [predictions.shortlists[place] for place in predictions.shortlist.tolist()],
        "stage1_key": [table.number(key) for key in digest_texts(predictions.stage1_key)],
        "stage2_key": [table.number(key) for key in digest_texts(predictions.stage2_key)],
        "thumbnail": [numbers.get(sha256 or "", -1) for sha256 in digest_texts(predictions.image_sha256)],
        "cost_usd": [None if None in found else sum(cost or 0.0 for cost in found) for found in costs],
        "latency_s": [sum(facts.latency_s for facts in call.calls) for call in calls] if is_known else [],
        "decisions": {
            "outcome": decisions.outcome.tolist(),
            "decided_by": decisions.decided_by.tolist(),
            "predicted": _or_none(decisions.predicted),
            "score": _or_none(decisions.score),
            "margin": _or_none(decisions.margin),
            "confidence": _or_none(decisions.confidence),
            "top5": [decisions.top(row) for row in range(len(decisions))],
            "words": decisions.words,
            "votes": decisions.votes,
            **{name: [table.number(text) for text in getattr(decisions, name)] for name in _TEXTS},
        },
        "outcomes": [str(outcome) for outcome in OUTCOMES],
        "steps": DECISIONS,
        "texts": table.texts(),
    }


_TEXTS = ("answer", "choice", "reason")


def _or_none(column: Int32Array | Float64Array) -> list[float | None]:
    """A column as JSON has it: null for -1 in indices, and for NaN in numbers."""
    is_none = column < 0 if column.dtype == np.int32 else np.isnan(column)
    return [None if none else value for value, none in zip(column.tolist(), is_none.tolist(), strict=True)]
