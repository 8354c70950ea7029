"""The page of one run: headline, what was asked, how it went, and the gallery.

Does not know where a run comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlac.config.prompts import PromptSet
from tlac.report.charts import (
    MEASURES,
    ConfusionMatrix,
    Histogram,
    Reliability,
    RiskCurve,
    call_histograms,
    confuse,
    reliability,
    risk_curve,
)
from tlac.report.page import LONGEST_NAME, cut, dollars, duration, render_page
from tlac.report.samples import PageImages, SampleColumns, place_images, to_columns
from tlac.results.calls import SampleCalls
from tlac.results.record import RunRecord
from tlac.results.usage import StageCalls
from tlac.scoring.metrics import ClassMetrics, Metrics, wilson_interval
from tlac.types import Prediction


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what stands behind it."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FactGroup:
    """Facts under one title."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One step of the matching: how many samples it decided, of how many, and how well."""

    name: str
    n: int
    share: float
    accuracy: float
    ci95: tuple[float, float]


def describe_run(record: RunRecord) -> tuple[FactGroup, ...]:
    """The facts of a run, in groups."""
    return (
        FactGroup("Asked", _facts(_asked(record))),
        FactGroup("Matched", _facts(_matched(record))),
        FactGroup("Took", _facts(_took(record))),
    )


def describe_origin(record: RunRecord) -> tuple[FactGroup, ...]:
    """What a repetition needs: digests, versions, the run that this one re-scored."""
    named = {"run": record.run, "format": str(record.format)}
    if record.parent:
        named["re-scores"] = record.parent
    return (
        FactGroup("Run", _facts(named)),
        FactGroup("Digests (sha256)", _facts(record.digests)),
        FactGroup("Versions", _facts(record.versions)),
    )


def describe_prompts(record: RunRecord, prompts: PromptSet | None) -> tuple[Fact, ...]:
    """The words of the prompts, where the prompt set at hand is still the one that the run used."""
    if prompts is None or prompts.digest != record.digests.get("prompts"):
        return ()
    name = record.prompt if record.prompt in prompts.spec.stage1 else "default"
    words = prompts.spec.stage2
    stage2 = {
        "stage 2": f"{words.prefix}\n{words.question}",
        "stage 2, by index": f"{words.prefix_by_index}\n{words.question_by_index}",
    }
    shown = {f"stage 1 ({name})": prompts.spec.stage1[name]}
    return _facts(shown | stage2 if _has_stage2(record) else shown)


def decision_rows(metrics: Metrics) -> tuple[DecisionRow, ...]:
    """What decided, the one that decided most first."""
    total = sum(values.n for values in metrics.by_decision.values())
    rows = [
        DecisionRow(
            name, values.n, values.n / total, values.accuracy,
            wilson_interval(round(values.accuracy * values.n), values.n),
        )
        for name, values in metrics.by_decision.items()
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda row: -row.n))


def _facts(values: dict[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(name, cut(value, LONGEST_NAME * 10)) for name, value in values.items())


def _has_stage2(record: RunRecord) -> bool:
    return record.calls.stage2 != StageCalls()


def _asked(record: RunRecord) -> dict[str, str]:
    drawn = f", {record.limit:,} samples drawn with seed {record.seed}" if record.limit else ""
    part = "" if record.split == "all" else f" ({record.split} classes)"
    found = {
        "dataset": f"{record.dataset}{part}{drawn}",
        "protocol": record.protocol,
        "classes": f"{len(record.classes):,}",
        "method": record.method,
        "stage 1": f"{record.backend}: {record.model}",
    }
    if _has_stage2(record):
        found["stage 2"] = f"{record.stage2_backend}: {record.stage2_model}"
    if record.ensemble:
        found["voting with it"] = ", ".join(record.ensemble)
    if record.shuffle_classes is not None:
        found["class order"] = f"shuffled with seed {record.shuffle_classes}"
    if record.prompts:
        found["prompts"] = f"{record.prompts} ({record.prompt})" if record.prompt else record.prompts
    return found | {"at": record.created_at.replace("T", " ")}


def _matched(record: RunRecord) -> dict[str, str]:
    found = {"matching": record.matching, "text encoder": record.encoder, "template": record.template}
    if record.truncated_texts or record.truncated_classes:
        found["cut by the encoder"] = (
            f"{record.truncated_texts:,} texts and {record.truncated_classes:,} class names that are longer than "
            "its window"
        )
    if record.aliases:
        found["aliases"] = f"{sum(map(len, record.aliases.values())):,} further names"
    if record.abstain_below is not None:
        found["abstains"] = f"below a confidence of {record.abstain_below:g}"
    if record.calibration is not None:
        found["calibrated on"] = f"{record.calibration.n:,} samples of {', '.join(record.calibration.runs) or '?'}"
    trials = record.order_trials
    if trials is not None and trials.change_rate is not None:
        found["class order matters"] = (
            f"{100 * trials.change_rate:.1f}\N{NO-BREAK SPACE}% of choices change when the list is rotated "
            f"({trials.trials} rotations)"
        )
    return found


def _took(record: RunRecord) -> dict[str, str]:
    found = {"stage 1 calls": _calls(record.calls.stage1)}
    if _has_stage2(record):
        found["stage 2 calls"] = _calls(record.calls.stage2)
    tokens = record.tokens
    return found | {
        "tokens": f"{tokens.prompt:,} in ({tokens.cached:,} cached), {tokens.completion:,} out",
        "paid by this run": dollars(record.cost_usd),
        "cost of all its answers": dollars(record.answers_cost_usd),
        "time": duration(record.wall_s),
        "in flight": f"{record.concurrency} at most",
    }


def _calls(calls: StageCalls) -> str:
    return f"{calls.asked:,} asked, {calls.from_store:,} from the store"


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
    confusion: ConfusionMatrix
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
        "decisions": decision_rows(run.metrics),
        "facts": describe_run(run.record),
        "origin": describe_origin(run.record),
        "prompts": describe_prompts(run.record, run.prompts),
        "pictured": len(numbers),
    }
    return Page(render_page("run.html", _SCRIPTS, context, content), images)
