"""The page of one run: headline, what was asked, how it went, and the gallery.

Does not know where a run comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlac.prompts import PromptSet
from tlac.report.calls import SampleCalls
from tlac.report.charts import MEASURES, Histogram, Reliability, RiskCurve, call_histograms, reliability, risk_curve
from tlac.report.columns import PageImages, SampleColumns, place_images, to_columns
from tlac.report.confusion import Confusion, confuse
from tlac.report.facts import describe_origin, describe_prompts, describe_run, rung_rows
from tlac.report.page import render_page
from tlac.report.texts import LONGEST_NAME, cut
from tlac.runs.folder import RunRecord
from tlac.scoring.metrics import ClassMetrics, Metrics
from tlac.types import Prediction

_SCRIPTS = ("core.js", "tables.js", "charts.js", "confusion.js", "cards.js", "gallery.js", "run.js")


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run and what lies beside it: times and costs of its calls, thumbnails by the sha256 of their image, and
    its prompts where they are at hand."""

    record: RunRecord
    predictions: Sequence[Prediction]
    metrics: Metrics
    calls: Sequence[SampleCalls] = ()
    thumbnails: Mapping[str, bytes | Path] | None = None
    prompts: PromptSet | None = None


@dataclass(frozen=True, slots=True)
class RunContent:
    """What the page's scripts show."""

    classes: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion: Confusion
    reliability: tuple[Reliability, ...]
    risk: tuple[RiskCurve, ...]
    is_calibrated: bool
    histograms: tuple[Histogram, ...]
    samples: SampleColumns
    images: PageImages


@dataclass(frozen=True, slots=True)
class Page:
    """A page's HTML, and the names of the thumbnails that it expects in the folder `images.folder` beside it."""

    html: str
    images: PageImages


def render_run(run: ReportedRun, images_folder: str) -> Page:
    """The page of one run. Thumbnails that are too many to stand inside it are looked for in `images_folder`."""
    thumbnails = run.thumbnails or {}
    images, numbers = place_images(run.predictions, thumbnails, images_folder)
    by_score = (reliability(run.predictions, by) for by in ("score", "confidence"))
    curves = (risk_curve(run.predictions, by) for by in MEASURES)
    content = RunContent(
        classes=tuple(cut(name, LONGEST_NAME) for name in run.record.classes),
        per_class=run.metrics.per_class,
        confusion=confuse(run.predictions),
        reliability=tuple(found for found in by_score if found is not None),
        risk=tuple(curve for curve in curves if curve is not None),
        is_calibrated=run.metrics.confidence is not None and run.metrics.confidence.is_calibrated,
        histograms=call_histograms(run.calls),
        samples=to_columns(run.predictions, numbers),
        images=images,
    )
    context = {
        "record": run.record,
        "metrics": run.metrics,
        "rungs": rung_rows(run.metrics),
        "facts": describe_run(run.record),
        "origin": describe_origin(run.record),
        "prompts": describe_prompts(run.record, run.prompts),
        "pictured": len(numbers),
    }
    return Page(render_page("run.html", _SCRIPTS, context, content), images)
