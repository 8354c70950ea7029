"""The report's charts for a paper: one PNG and one SVG each, drawn by matplotlib from the same numbers.

Does not know HTML. matplotlib is imported when a figure is drawn: it comes with tlac[figures].
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tlac.errors import TlacError, UsageError
from tlac.report.alignment import Grid, arrange
from tlac.report.charts import MEASURES, Histogram, Reliability, call_histograms, reliability, risk_curve
from tlac.report.comparison import column_title, cost_points
from tlac.report.confusion import confuse
from tlac.report.run_page import ReportedRun

_WIDTH_IN, _HEIGHT_IN = 4.2, 3.0
_BLUE, _ORANGE, _GREEN, _GREY = "#1f5fbf", "#b8420c", "#0b7a6b", "#7a848f"
_SETTINGS: Any = {
    # a $ in a class name is no formula
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    # equal input, equal file
    "svg.hashsalt": "tlac",
}


def draw_run(run: ReportedRun, folder: Path) -> list[Path]:
    """The charts of one run as files in `folder`, which is made. Raises UsageError without matplotlib."""
    charts: dict[str, Callable[[Any], None]] = {}
    if run.metrics.per_class:
        charts["classes"] = partial(_classes, run=run)
    if confuse(run.predictions).pairs:
        charts["confusions"] = partial(_confusions, run=run)
    for by in ("score", "confidence"):
        if (found := reliability(run.predictions, by)) is not None:
            charts[f"accuracy-by-{by}"] = partial(_reliability, found=found)
            charts["risk-coverage"] = partial(_risk, run=run)
    for histogram in call_histograms(run.calls):
        charts[_slug(histogram.title)] = partial(_histogram, histogram=histogram)
    return _draw(charts, folder)


def draw_comparison(runs: Sequence[ReportedRun], folder: Path) -> list[Path]:
    """The charts of several runs as files in `folder`, which is made. Raises UsageError without matplotlib."""
    grid = arrange(runs)
    charts: dict[str, Callable[[Any], None]] = {"accuracy": partial(_accuracies, grid=grid)}
    for column in {point.column for point in cost_points(grid) if point.cost_usd > 0}:
        name = f"cost-{_slug(column_title(grid.columns[column]))}"
        charts[name] = partial(_costs, grid=grid, column=column)
    return _draw(charts, folder)


def _draw(charts: dict[str, Callable[[Any], None]], folder: Path) -> list[Path]:
    written = []
    for name, fill in charts.items():
        with _axes() as (figure, axes):
            fill(axes)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for path in (folder / f"{name}.png", folder / f"{name}.svg"):
                    stamp = {"Date": None} if path.suffix == ".svg" else {}
                    figure.savefig(path, dpi=200, bbox_inches="tight", metadata=stamp)
                    written.append(path)
            except OSError as error:
                raise TlacError(
                    f"{folder}: figures can't be written: {error.strerror}; choose another folder"
                ) from error
    return written


@contextmanager
def _axes() -> Iterator[tuple[Any, Any]]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("figures need matplotlib: pip install 'tlac[figures]'") from error
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # class names may be in a script that the font lacks: boxes are drawn for them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        yield figure, figure.add_subplot()


def _classes(axes: Any, run: ReportedRun) -> None:
    """Recall of the classes, by falling recall; with many classes a curve rather than bars."""
    recalls = sorted((entry.correct / entry.n for entry in run.metrics.per_class if entry.n), reverse=True)
    axes.bar(
        range(len(recalls)), [100 * recall for recall in recalls], width=1 if len(recalls) > 60 else 0.8, color=_BLUE
    )
    axes.set_xticks([])
    _label(axes, f"classes by accuracy ({len(recalls)})", "right (%)")
    axes.set_ylim(0, 100)


def _confusions(axes: Any, run: ReportedRun) -> None:
    found = confuse(run.predictions)
    names = [_short(run.record.classes[index]) for index in found.classes]
    totals = [
        max(1, sum(row) + other + none)
        for row, other, none in zip(found.cells, found.others, found.unanswered, strict=True)
    ]
    axes.imshow(
        [[cell / total for cell in row] for row, total in zip(found.cells, totals, strict=True)],
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    for place, row in enumerate(found.cells):
        for column, cell in enumerate(row):
            if cell:
                color = "white" if cell / totals[place] > 0.5 else "black"
                axes.text(column, place, cell, ha="center", va="center", fontsize=6, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xlabel="taken for", ylabel="truth")


def _reliability(axes: Any, found: Reliability) -> None:
    bins = found.bins
    below = [100 * (entry.accuracy - entry.ci95[0]) for entry in bins]
    above = [100 * (entry.ci95[1] - entry.accuracy) for entry in bins]
    axes.errorbar(
        [entry.mean for entry in bins], [100 * entry.accuracy for entry in bins], yerr=[below, above],
        marker="o", color=_BLUE, ecolor=_GREY, capsize=2,
    )  # fmt: skip
    axes.set_ylim(0, 103)
    if found.by == "confidence":
        axes.plot([0, 1], [0, 100], color=_GREY, linestyle=":", linewidth=1)
    _label(axes, f"mean {found.by}", "right (%)")


def _risk(axes: Any, run: ReportedRun) -> None:
    for by, color in zip(MEASURES, (_BLUE, _ORANGE, _GREEN), strict=True):
        curve = risk_curve(run.predictions, by)
        if curve is not None:
            shares = [100 * value for value in curve.coverage]
            axes.step(shares, [100 * value for value in curve.risk], where="post", color=color, label=by)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _label(axes, "samples kept (%)", "wrong (%)")


def _histogram(axes: Any, histogram: Histogram) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=_BLUE)
    axes.axvline(histogram.median, color="black", linestyle=":", linewidth=1)
    _label(axes, f"{histogram.title} ({histogram.unit})", "answers")


def _accuracies(axes: Any, grid: Grid) -> None:
    """Accuracy with its interval, contenders side by side within each dataset."""
    step = 0.8 / len(grid.contenders)
    for row, (name, runs) in enumerate(zip(grid.contenders, grid.runs, strict=True)):
        for column, run in enumerate(runs):
            if run is None or run.metrics.accuracy is None or run.metrics.accuracy_ci95 is None:
                continue
            accuracy, (low, high) = run.metrics.accuracy, run.metrics.accuracy_ci95
            # a label on the first of a colour alone, so that the legend names each contender once
            shown = _short(name) if run is next(found for found in runs if found is not None) else None
            axes.errorbar(
                column - 0.4 + step * (row + 0.5), 100 * accuracy,
                yerr=[[100 * (accuracy - low)], [100 * (high - accuracy)]],
                color=f"C{row % 10}", marker="o", linestyle="", capsize=2, label=shown,
            )  # fmt: skip
    axes.set_xticks(
        range(len(grid.columns)), [_short(column_title(column)) for column in grid.columns], rotation=20, ha="right"
    )
    axes.legend(frameon=False, fontsize=7)
    _label(axes, "", "right (%)")


def _costs(axes: Any, grid: Grid, column: int) -> None:
    points = sorted((point for point in cost_points(grid) if point.column == column), key=lambda point: point.cost_usd)
    frontier = [point for point in points if point.is_frontier]
    axes.step(
        [point.cost_usd for point in frontier], [100 * point.accuracy for point in frontier], where="post", color=_BLUE
    )
    for point in points:
        axes.plot(point.cost_usd, 100 * point.accuracy, "o", color=_BLUE if point.is_frontier else _GREY)
        axes.annotate(
            _short(grid.contenders[point.contender]), (point.cost_usd, 100 * point.accuracy), fontsize=7,
            xytext=(4, 3), textcoords="offset points",
        )  # fmt: skip
    _label(axes, "USD per 1,000 samples", "right (%)")


def _label(axes: Any, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", alpha=0.3)


def _short(name: str) -> str:
    plain = "".join(character if character.isprintable() else " " for character in name)
    return plain if len(plain) <= 28 else f"{plain[:27]}…"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.")[:60]
