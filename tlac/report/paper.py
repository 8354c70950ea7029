"""The report's charts and tables for a paper: PNG, SVG, LaTeX and Markdown from the same numbers as the page.

matplotlib is imported when a figure is drawn: it comes with tlac[figures].
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tlac.errors import TlacError, UsageError
from tlac.report.charts import MEASURES, Bin, Histogram, call_histograms, confuse, reliability, risk_curve
from tlac.report.comparison import Grid, arrange, compare_columns, cost_points, mark_cells
from tlac.report.run_page import ReportedRun, decision_rows
from tlac.runtime.formatting import escape_markdown, interval, percent, printable

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
        if bins := reliability(run.predictions, by):
            charts[f"accuracy-by-{by}"] = partial(_reliability, bins=bins, by=by)
            charts["risk-coverage"] = partial(_risk, run=run)
    for histogram in call_histograms(run.calls):
        charts[_slug(histogram.title)] = partial(_histogram, histogram=histogram)
    return _draw(charts, folder)


def draw_comparison(runs: Sequence[ReportedRun], folder: Path) -> list[Path]:
    """The charts of several runs as files in `folder`, which is made. Raises UsageError without matplotlib."""
    grid = arrange(runs)
    charts: dict[str, Callable[[Any], None]] = {"accuracy": partial(_accuracies, grid=grid)}
    for column, title in enumerate(grid.titles):
        if any(point.cost_per_1000_usd for point in cost_points(grid, column).values()):
            charts[f"cost-{_slug(title)}"] = partial(_costs, grid=grid, column=column)
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
    _label(axes, f"classes by accuracy ({len(recalls)})", "top-1 accuracy (%)")
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
    axes.set(xlabel="predicted", ylabel="true class")


def _reliability(axes: Any, bins: Sequence[Bin], by: str) -> None:
    below = [100 * (entry.accuracy - entry.ci95[0]) for entry in bins]
    above = [100 * (entry.ci95[1] - entry.accuracy) for entry in bins]
    axes.errorbar(
        [entry.mean for entry in bins], [100 * entry.accuracy for entry in bins], yerr=[below, above],
        marker="o", color=_BLUE, ecolor=_GREY, capsize=2,
    )  # fmt: skip
    axes.set_ylim(0, 103)
    if by == "confidence":
        axes.plot([0, 1], [0, 100], color=_GREY, linestyle=":", linewidth=1)
    _label(axes, f"mean {by}", "accuracy (%)")


def _risk(axes: Any, run: ReportedRun) -> None:
    for by, color in zip(MEASURES, (_BLUE, _ORANGE, _GREEN), strict=True):
        curve = risk_curve(run.predictions, by)
        if curve is not None:
            shares = [100 * value for value in curve.coverage]
            axes.step(shares, [100 * value for value in curve.risk], where="post", color=color, label=by)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _label(axes, "coverage (%)", "risk: error rate (%)")


def _histogram(axes: Any, histogram: Histogram) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=_BLUE)
    axes.axvline(histogram.median, color="black", linestyle=":", linewidth=1)
    _label(axes, f"{histogram.title} ({histogram.unit})", "answers")


def _accuracies(axes: Any, grid: Grid) -> None:
    """Accuracy with its interval, configurations side by side within each dataset."""
    step = 0.8 / len(grid.configurations)
    for row, (name, runs) in enumerate(zip(grid.configurations, grid.runs, strict=True)):
        for column, run in enumerate(runs):
            if run is None or run.metrics.accuracy is None or run.metrics.accuracy_ci95 is None:
                continue
            accuracy, (low, high) = run.metrics.accuracy, run.metrics.accuracy_ci95
            # a label on the first of a colour alone, so that the legend names each configuration once
            shown = _short(name) if run is next(found for found in runs if found is not None) else None
            axes.errorbar(
                column - 0.4 + step * (row + 0.5), 100 * accuracy,
                yerr=[[100 * (accuracy - low)], [100 * (high - accuracy)]],
                color=f"C{row % 10}", marker="o", linestyle="", capsize=2, label=shown,
            )  # fmt: skip
    axes.set_xticks(range(len(grid.titles)), [_short(title) for title in grid.titles], rotation=20, ha="right")
    axes.legend(frameon=False, fontsize=7)
    _label(axes, "", "top-1 accuracy (%)")


def _costs(axes: Any, grid: Grid, column: int) -> None:
    points = [
        (point.cost_per_1000_usd, 100 * point.accuracy, point.is_dominated, grid.configurations[row])
        for row, point in cost_points(grid, column).items()
        if point.cost_per_1000_usd is not None
    ]
    frontier = [(cost, accuracy) for cost, accuracy, is_dominated, _ in points if not is_dominated]
    axes.step(*zip(*frontier, strict=True), where="post", color=_BLUE)
    for cost, accuracy, is_dominated, name in points:
        axes.plot(cost, accuracy, "o", color=_GREY if is_dominated else _BLUE)
        axes.annotate(_short(name), (cost, accuracy), fontsize=7, xytext=(4, 3), textcoords="offset points")
    _label(axes, "USD per 1,000 samples", "top-1 accuracy (%)")


def _label(axes: Any, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", alpha=0.3)


def _short(name: str) -> str:
    return printable(name, 28)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.")[:60]


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of texts: `name` for its file, headings, rows. All columns but the first `texts` are numbers."""

    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


def run_tables(run: ReportedRun) -> tuple[PaperTable, ...]:
    """The tables of one run: headline, what decided, most confused pairs."""
    metrics = run.metrics
    headline = (
        ("samples", f"{metrics.n}"),
        ("top-1 accuracy", percent(metrics.accuracy)),
        ("95 % interval", interval(metrics.accuracy_ci95)),
        ("coverage", percent(metrics.coverage)),
        ("top-1 accuracy when answered", percent(metrics.accuracy_answered)),
        ("top-5 accuracy", percent(metrics.top5)),
        ("mean per-class accuracy", percent(metrics.mean_per_class)),
        ("macro-F1", percent(metrics.macro_f1)),
    )
    decisions = tuple(
        (name, f"{n}", percent(share), percent(accuracy), interval(ci95))
        for name, n, share, accuracy, ci95 in decision_rows(metrics)
    )
    support = {one.index: one.n for one in metrics.per_class}
    classes = run.record.classes
    pairs = tuple(
        (classes[pair.label], classes[pair.predicted], f"{pair.n}", percent(pair.n / support[pair.label]))
        for pair in confuse(run.predictions).pairs[:20]
    )
    return (
        PaperTable("headline", ("measure", f"{run.record.backend}, {run.record.method}"), headline),
        PaperTable("decisions", ("decided by", "samples", "share", "accuracy", "95 % interval"), decisions),
        PaperTable("confusions", ("true class", "predicted", "samples", "of class"), pairs, texts=2),
    )


def comparison_tables(runs: Sequence[ReportedRun]) -> tuple[PaperTable, ...]:
    """The tables of several runs: accuracies, the significantly best marked *, and the tests."""
    grid = arrange(runs)
    tests = compare_columns(grid)
    marks = mark_cells(grid, tests)
    rows = []
    for row, (name, found) in enumerate(zip(grid.configurations, grid.runs, strict=True)):
        stars = [" *" if marks.get((row, column)) == "best" else "" for column in range(len(found))]
        cells = ["–" if run is None else percent(run.metrics.accuracy) for run in found]
        rows.append((name, *(cell + star for cell, star in zip(cells, stars, strict=True))))
    tested = tuple(
        (
            grid.titles[column], grid.configurations[test.first], grid.configurations[test.second],
            f"{test.counts.n}", f"{100 * test.difference.value:+.1f}",
            f"{100 * test.difference.low:+.1f} to {100 * test.difference.high:+.1f}", f"{test.p_holm:.3g}",
            "–" if test.kappa is None else f"{test.kappa:.2f}",
        )
        for column, found in tests.items()
        for test in found
    )  # fmt: skip
    heads = ("dataset", "first", "second", "n", "difference", "95 % interval", "p (Holm)", "kappa")
    return (
        PaperTable("accuracy", ("backend, method", *grid.titles), tuple(rows)),
        PaperTable("differences", heads, tested, texts=3),
    )


def to_latex(table: PaperTable) -> str:
    """The table as a tabular with booktabs' rules."""
    columns = "l" * table.texts + "r" * (len(table.headings) - table.texts)
    lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in (table.headings, *table.rows)]
    body = "\n".join(lines[1:])
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
    )


def to_markdown(table: PaperTable) -> str:
    """The table in the pipe form that GitHub shows."""
    rule = ["---"] * table.texts + ["---:"] * (len(table.headings) - table.texts)
    rows = [[escape_markdown(printable(cell, _LONGEST)) for cell in row] for row in (table.headings, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text, _LONGEST))
