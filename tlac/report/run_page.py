"""The page of one run, its report.html: headline, what was asked, how it went, and the gallery."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from tlac.config.prompts import load_prompts
from tlac.errors import InputError, TlacError
from tlac.report.charts import MEASURES, call_histograms, confuse, reliability, risk_curve
from tlac.report.page import (
    LONGEST_NAME,
    PAGE_FAILURE,
    PageImages,
    cut,
    is_shown_by_browser,
    render_page,
    write_page,
    write_whole,
)
from tlac.report.samples import make_thumbnails, place_images, to_columns
from tlac.results.folder import THUMBNAILS, find_thumbnails
from tlac.results.record import Run, RunRecord
from tlac.results.usage import StageCalls
from tlac.runtime.formatting import dollars, duration, percent
from tlac.runtime.safe_files import naming_failure, read_json
from tlac.scoring.metrics import Metrics, wilson_interval
from tlac.types import Sample

REPORT_NAME = "report.html"
_ORIGINALS = "originals.json"
_SCRIPTS = ("core.js", "tables.js", "charts.js", "confusion.js", "cards.js", "gallery.js", "run.js")


def write_report(
    run: Run, samples: Iterable[Sample] | None = None, known: dict[tuple[str, int], bytes] | None = None
) -> Path:
    """Make the report.html of a finished run in its folder, and give its path.

    `samples` are the run's own, in order: their thumbnails are made and kept beside the page. Without them, those
    that the folder holds are shown. `known` is given to several runs of one dataset, so that each thumbnail is made
    once (see `make_thumbnails`). Raises InputError, and TlacError where the folder can't be written.
    """
    path, folder, originals = run.folder / REPORT_NAME, run.folder / THUMBNAILS, None
    if samples is not None:
        with naming_failure(path, *PAGE_FAILURE):
            made, files = make_thumbnails(samples, run.predictions, known)
            folder.mkdir(exist_ok=True)
            for sha256, content in made.items():
                write_whole(folder / f"{sha256}.webp", content)
            originals = {sha256: Path(os.path.relpath(file, run.folder)).as_posix() for sha256, file in files.items()}
            write_whole(folder / _ORIGINALS, json.dumps(originals, indent=0).encode())
    html, images = render_run(run, THUMBNAILS, originals)
    write_page(html, images, path, find_thumbnails(run.folder))
    return path


def find_originals(folder: Path) -> dict[str, str]:
    """The paths of a run's images that are still there, from its folder, by the sha256 of the image; a file of another
    form counts as none."""
    try:
        found = read_json(folder / THUMBNAILS / _ORIGINALS, dict[str, str], 2**24, within=folder)
        return {sha256: path for sha256, path in found.items() if is_shown_by_browser(folder / path)}
    except (OSError, ValueError, InputError):
        return {}


def render_run(run: Run, images_folder: str, originals: Mapping[str, str] | None = None) -> tuple[str, PageImages]:
    """The page of one run, and its images: those that are too many to stand inside it are looked for in
    `images_folder`. `originals` are paths of the images themselves by sha256, by default those that the run's folder
    names."""
    predictions, metrics, record, calls = run.predictions, run.metrics, run.record, run.calls()
    known = find_originals(run.folder) if originals is None else originals
    images, numbers = place_images(predictions, find_thumbnails(run.folder), images_folder, known)
    bins = {by: reliability(predictions, by) for by in ("score", "confidence")}
    curves = (risk_curve(predictions, by) for by in MEASURES)
    content = {
        "classes": [cut(name, LONGEST_NAME) for name in record.classes],
        "per_class": metrics.per_class,
        "confusion": confuse(predictions),
        "reliability": [{"by": by, "bins": found} for by, found in bins.items() if found],
        "risk": [curve for curve in curves if curve is not None],
        "is_calibrated": metrics.confidence is not None and metrics.confidence.is_calibrated,
        "histograms": call_histograms(calls),
        "samples": to_columns(predictions, numbers, calls),
        "images": images,
    }
    context = {
        "record": record,
        "metrics": metrics,
        "decisions": decision_rows(metrics),
        "facts": describe_run(run),
        "origin": describe_origin(record),
        "prompts": describe_prompts(record),
        "pictured": len(numbers),
    }
    return render_page("run.html", _SCRIPTS, context, content), images


def decision_rows(metrics: Metrics) -> list[tuple[str, int, float, float, tuple[float, float]]]:
    """What decided: name, samples, their share, accuracy and its 95 % interval; the most frequent first."""
    total = sum(values.n for values in metrics.by_decision.values())
    return [
        (name, found.n, found.n / total, found.accuracy, wilson_interval(round(found.accuracy * found.n), found.n))
        for name, found in sorted(metrics.by_decision.items(), key=lambda item: -item[1].n)
    ]


def describe_run(run: Run) -> dict[str, dict[str, str]]:
    """The facts of a run by name, in groups by title."""
    return {"Asked": _cut(_asked(run.record)), "Matched": _cut(_matched(run)), "Took": _cut(_took(run.record))}


def describe_origin(record: RunRecord) -> dict[str, dict[str, str]]:
    """What a repetition needs: digests, versions, the run that this one re-scored."""
    named = {"run": record.run, "format": str(record.format)}
    if record.parent:
        named["re-scores"] = record.parent
    return {"Run": _cut(named), "Digests (sha256)": _cut(record.digests), "Versions": _cut(record.versions)}


def describe_prompts(record: RunRecord) -> dict[str, str]:
    """The words of the prompts, where a prompt set of that name is here and still the one that the run used."""
    try:
        prompts = load_prompts(record.prompts)
        hints = record.hints or prompts.draw_hints(record.classes)
    except TlacError:
        return {}
    if prompts.digest != record.digests.get("prompts"):
        return {}
    name = record.prompt if record.prompt in prompts.stage1 else "default"
    words = prompts.spec.stage2
    before, after = prompts.stage1_words(name, hints)
    found = {f"stage 1 ({name})": f"{before}\n{after}" if before else after}
    if _has_stage2(record):
        found["stage 2"] = f"{words.prefix}\n{words.question}"
        found["stage 2, by index"] = f"{words.prefix_by_index}\n{words.question_by_index}"
    return _cut(found)


def _cut(facts: dict[str, str]) -> dict[str, str]:
    return {name: cut(value, LONGEST_NAME * 10) for name, value in facts.items()}


def _has_stage2(record: RunRecord) -> bool:
    return record.calls.stage2 != StageCalls()


def _asked(record: RunRecord) -> dict[str, str]:
    drawn = f", {record.limit:,} samples drawn with seed {record.seed}" if record.limit else ""
    part = "" if record.split == "all" else f" ({record.split} classes)"
    found = {
        "dataset": f"{record.dataset}{part}{drawn}",
        "protocol": record.protocol,
        **record.dataset_details,
        "classes": f"{len(record.classes):,}",
        "method": record.method,
        "stage 1": f"{record.backend}: {record.model}",
    }
    if record.dataset_notes:
        found["notes"] = "; ".join(record.dataset_notes)
    if _has_stage2(record):
        found["stage 2"] = f"{record.stage2_backend}: {record.stage2_model}"
    if record.ensemble:
        found["ensemble with"] = ", ".join(record.ensemble)
    if record.shuffle_classes is not None:
        found["class order"] = f"shuffled with seed {record.shuffle_classes}"
    if record.prompts:
        found["prompts"] = f"{record.prompts} ({record.prompt})" if record.prompt else record.prompts
    if record.hints:
        found["hints"] = f"{len(record.hints):,} class names shown: {', '.join(record.hints)}"
    return found | {"at": record.created_at.replace("T", " ")}


def _matched(run: Run) -> dict[str, str]:
    record = run.record
    found = {"matching": record.matching, "text encoder": record.encoder, "template": record.template}
    if record.truncated_texts or record.truncated_classes:
        found["truncated"] = (
            f"{record.truncated_texts:,} texts and {record.truncated_classes:,} class names that are longer than "
            "the encoder's window"
        )
    if run.metrics.accuracy_unhinted is not None:
        found["without hints"] = (
            f"{percent(run.metrics.accuracy_unhinted)}\N{NO-BREAK SPACE}% on the {run.metrics.unhinted:,} images whose "
            "class stage 1 was not shown"
        )
    if unread := run.unread_choices:
        found["unread choices"] = f"{unread:,} stage-2 answers named no class of the list; similarity decided"
    if record.aliases:
        found["aliases"] = f"{sum(map(len, record.aliases.values())):,} further names"
    if record.abstain_below is not None:
        found["abstains"] = f"below a confidence of {record.abstain_below:g}"
    if record.calibration is not None:
        found["calibrated on"] = f"{record.calibration.n:,} samples of {', '.join(record.calibration.runs) or '?'}"
    trials = record.order_trials
    if trials is not None and trials.change_rate is not None:
        found["effect of class order"] = (
            f"{percent(trials.change_rate)}\N{NO-BREAK SPACE}% of choices change when the list is rotated "
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
        "concurrency": f"at most {record.concurrency} calls at a time",
    }


def _calls(calls: StageCalls) -> str:
    return f"{calls.asked:,} asked, {calls.from_store:,} from the store"
