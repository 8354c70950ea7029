"""The report's charts and tables for a paper: PDF, SVG, PNG, LaTeX and Markdown from the same numbers as the page.

matplotlib is imported when a figure is drawn: it comes with tlac[figures].
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from tlac.analysis.leaderboard import Point
from tlac.errors import UsageError
from tlac.report.charts import MEASURES, Bin, Histogram, call_histograms, confuse, reliability, risk_curve
from tlac.report.comparison import SIGNIFICANCE, Grid, arrange, compare_columns, cost_points, mark_cells
from tlac.report.run_page import decision_rows
from tlac.results.record import Run
from tlac.runtime.formatting import escape_markdown, interval, percent, printable
from tlac.runtime.safe_files import naming_failure
from tlac.scoring.predictions import Predictions

# one column, and both, of a conference's page
_SIZES_IN = {"": (3.35, 2.6), "-wide": (6.9, 3.0)}
# Okabe and Ito's colours, which people tell apart whatever colours they see; with shapes, also without colour
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#7a848f"
_COLORS = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX<>*"
_SETTINGS: Any = {
    # a $ in a class name is no formula
    "text.parse_math": False,
    # a paper's captions have 9 points; text stays text in PDF (TrueType, which publishers ask for) and SVG
    "font.size": 8,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    # equal input, equal file
    "svg.hashsalt": "tlac",
}


def draw_run(run: Run, folder: Path) -> list[Path]:
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
    for histogram in call_histograms(run.calls()):
        charts[_slug(histogram.title)] = partial(_histogram, histogram=histogram)
    return _draw(charts, folder)


def draw_reliability(panels: Mapping[str, Predictions], path: Path) -> None:
    """Accuracy by confidence, a panel for each of the named predictions, as one SVG file. Raises UsageError without
    matplotlib."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with _figure((3.35 * columns, 2.6 * rows)) as figure:
        for place, (title, predictions) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, place)
            _reliability(axes, reliability(predictions, "confidence"), "confidence")
            axes.set_title(f"{title} ({len(predictions):,})")
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def draw_comparison(runs: Sequence[Run], folder: Path) -> list[Path]:
    """The charts of several runs as files in `folder`, which is made. Raises UsageError without matplotlib."""
    grid = arrange(runs)
    charts: dict[str, Callable[[Any], None]] = {"accuracy": partial(_accuracies, grid=grid)}
    for title, points in zip(grid.titles, map(cost_points, grid.columns), strict=True):
        if any(point.cost_per_1000_usd for point in points.values()):
            charts[f"cost-{_slug(title)}"] = partial(_costs, names=grid.configurations, points=points)
    return _draw(charts, folder)


def _draw(charts: dict[str, Callable[[Any], None]], folder: Path) -> list[Path]:
    written = []
    for (name, fill), (suffix, size_in) in product(charts.items(), _SIZES_IN.items()):
        with _figure(size_in) as figure:
            fill(figure.add_subplot())
            with naming_failure(folder, "; choose another folder", "figures "):
                folder.mkdir(parents=True, exist_ok=True)
                # no date: equal input, equal file
                for form, stamp in (("pdf", {"CreationDate": None}), ("svg", {"Date": None}), ("png", {})):
                    path = folder / f"{name}{suffix}.{form}"
                    figure.savefig(path, dpi=300, bbox_inches="tight", metadata=stamp)
                    written.append(path)
    return written


@contextmanager
def _figure(size_in: tuple[float, float]) -> Iterator[Any]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("figures need matplotlib: pip install 'tlac[figures]'") from error
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # class names may be in a script that the font lacks: boxes are drawn for them
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield Figure(figsize=size_in, layout="constrained")


def _classes(axes: Any, run: Run) -> None:
    """Recall of the classes, by falling recall; with many classes a curve rather than bars."""
    recalls = sorted((entry.correct / entry.n for entry in run.metrics.per_class if entry.n), reverse=True)
    axes.bar(
        range(len(recalls)), [100 * recall for recall in recalls], width=1 if len(recalls) > 60 else 0.8, color=_BLUE
    )
    axes.set_xticks([])
    _label(axes, f"classes by recall ({len(recalls)})", "recall (%)")
    axes.set_ylim(0, 100)


def _confusions(axes: Any, run: Run) -> None:
    found = confuse(run.predictions)
    # square cells, and names at both sides
    axes.figure.set_figheight(axes.figure.get_figwidth())
    names = [printable(run.record.classes[index], 20) for index in found.classes]
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


def _risk(axes: Any, run: Run) -> None:
    for by, color in zip(MEASURES, (_BLUE, _ORANGE, _GREEN), strict=True):
        curve = risk_curve(run.predictions, by)
        if curve is not None:
            shares = [100 * value for value in curve.coverage]
            axes.step(shares, [100 * value for value in curve.risk], where="post", color=color, label=by)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    _legend(axes)
    _label(axes, "coverage (%)", "risk: error rate (%)")


def _histogram(axes: Any, histogram: Histogram) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=_BLUE)
    axes.axvline(histogram.median, color="black", linestyle=":", linewidth=1)
    _label(axes, f"{histogram.title} ({histogram.unit})", "answers")


def _accuracies(axes: Any, grid: Grid) -> None:
    """Accuracy with its interval, configurations side by side within each dataset."""
    step = 0.8 / len(grid.configurations)
    for row, (name, runs) in enumerate(zip(grid.configurations, grid.runs, strict=True)):
        found = [
            (column - 0.4 + step * (row + 0.5), run.metrics.accuracy, run.metrics.accuracy_ci95)
            for column, run in enumerate(runs)
            if run is not None
        ]
        known = [(place, 100 * accuracy, ci95) for place, accuracy, ci95 in found if accuracy is not None and ci95]
        if known:
            places, accuracies, intervals = zip(*known, strict=True)
            below = [accuracy - 100 * low for accuracy, (low, _) in zip(accuracies, intervals, strict=True)]
            above = [100 * high - accuracy for accuracy, (_, high) in zip(accuracies, intervals, strict=True)]
            axes.errorbar(places, accuracies, yerr=[below, above], linestyle="", capsize=2, **_style(row, name))
    axes.set_xticks(range(len(grid.titles)), [printable(title, 40) for title in grid.titles], rotation=20, ha="right")
    _legend(axes)
    _label(axes, "", "top-1 accuracy (%)")


def _costs(axes: Any, names: Sequence[str], points: Mapping[int, Point]) -> None:
    """Accuracy against cost; the legend names the configurations, also those whose cost is unknown."""
    costs = [point.cost_per_1000_usd for point in points.values() if point.cost_per_1000_usd is not None]
    frontier = sorted(
        (point.cost_per_1000_usd, 100 * point.accuracy)
        for point in points.values()
        if point.cost_per_1000_usd is not None and not point.is_dominated
    )
    if len(frontier) > 1:
        axes.step(*zip(*frontier, strict=True), where="post", color=_GREY, linewidth=1, label="Pareto frontier")
    for row, point in sorted(points.items()):
        cost, style = point.cost_per_1000_usd, _style(row, names[row])
        if cost is None:
            axes.plot([], [], linestyle="", **{**style, "label": f"{style['label']}: cost unknown"})
        else:
            axes.plot(cost, 100 * point.accuracy, linestyle="", **style)
    if min(costs) > 0 and max(costs) > 20 * min(costs):
        axes.set_xscale("log")
        # the usual one writes formulas, which are switched off
        axes.xaxis.set_major_formatter("{x:g}")
    _legend(axes)
    _label(axes, "cost of 1,000 images (USD)", "top-1 accuracy (%)")


def _style(row: int, name: str) -> dict[str, Any]:
    """A configuration looks alike in all figures."""
    color, marker = _COLORS[row % len(_COLORS)], _MARKERS[row % len(_MARKERS)]
    return {"color": color, "marker": marker, "markersize": 4.5, "label": printable(name, 40)}


def _legend(axes: Any) -> None:
    """Below the axes, where it covers nothing, in room of its own."""
    figure = axes.figure
    columns = 1 if figure.get_figwidth() < 5 else 2
    rows = -(-len(axes.get_legend_handles_labels()[1]) // columns)
    figure.set_figheight(figure.get_figheight() + 0.14 * rows)
    figure.legend(loc="outside lower center", frameon=False, fontsize=7, ncols=columns)


def _label(axes: Any, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y", alpha=0.3)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.")[:60]


_LATEX = str.maketrans(
    {
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
)
_LONGEST = 80
_ACCURACY_NOTE = "Top-1 accuracy in %; samples without an answer count as wrong; intervals are Wilson's."
_BEST_NOTE = (
    "* Significantly better than every other configuration on the dataset (McNemar's exact test on the images that "
    f"both have, p < {SIGNIFICANCE} after Holm's correction)."
)
_TEST_NOTE = (
    "Difference of top-1 accuracies in points, first less second, on the n images that both have, with Newcombe's "
    "95 % interval; p of McNemar's exact test after Holm's correction for all pairs; Cohen's kappa of the predictions."
)


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of texts: `name` for its file, headings, rows, and the notes under it.

    All columns but the first `texts` are numbers.
    """

    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    notes: tuple[str, ...] = ()


def run_tables(run: Run) -> tuple[PaperTable, ...]:
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
        PaperTable(
            "headline",
            ("measure", f"{run.record.backend}, {run.record.method}"),
            headline,
            notes=(_ACCURACY_NOTE, *([] if run.record.is_complete else ["The run is incomplete."])),
        ),
        PaperTable("decisions", ("decided by", "samples", "share", "accuracy", "95 % interval"), decisions),
        PaperTable("confusions", ("true class", "predicted", "samples", "of class"), pairs, texts=2),
    )


def comparison_tables(runs: Sequence[Run]) -> tuple[PaperTable, ...]:
    """The tables of several runs: accuracies, the significantly best marked *, and the tests."""
    grid = arrange(runs)
    tests = compare_columns(grid)
    marks = mark_cells(grid, tests)
    rows = []
    for row, (name, found) in enumerate(zip(grid.configurations, grid.runs, strict=True)):
        stars = [" *" if marks.get((row, column)) == "best" else "" for column in range(len(found))]
        cells = [
            "–" if run is None else percent(run.metrics.accuracy) + ("" if run.record.is_complete else " †")
            for run in found
        ]
        rows.append((name, *(cell + star for cell, star in zip(cells, stars, strict=True))))
    marks_used = "".join(cell for row in rows for cell in row[1:])
    notes = [_ACCURACY_NOTE]
    if "*" in marks_used:
        notes.append(_BEST_NOTE)
    if "†" in marks_used:
        notes.append("† The run is incomplete: samples whose call failed count as wrong.")
    tested = tuple(
        (
            grid.titles[column], grid.configurations[test.first], grid.configurations[test.second],
            f"{test.n}", f"{100 * test.difference.value:+.1f}",
            f"{100 * test.difference.low:+.1f} to {100 * test.difference.high:+.1f}", f"{test.p_holm:.3g}",
            "–" if test.kappa is None else f"{test.kappa:.2f}",
        )
        for column, found in tests.items()
        for test in found
    )  # fmt: skip
    heads = ("dataset", "first", "second", "n", "difference", "95 % interval", "p (Holm)", "kappa")
    return (
        PaperTable("accuracy", ("backend, method", *grid.titles), tuple(rows), notes=tuple(notes)),
        PaperTable("differences", heads, tested, texts=3, notes=(_TEST_NOTE,)),
    )


def to_latex(table: PaperTable) -> str:
    """The table as a tabular with booktabs' rules, and its notes below."""
    columns = "l" * table.texts + "r" * (len(table.headings) - table.texts)
    rows = [[printable(cell, _LONGEST).translate(_LATEX) for cell in row] for row in (table.headings, *table.rows)]
    head, *body = (" & ".join(row) + r" \\" for row in rows)
    notes = "".join(f"\n\n{{\\footnotesize {note.translate(_LATEX)}}}" for note in table.notes)
    lines = (
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    )
    return "\n".join(lines) + f"{notes}\n"


def to_markdown(table: PaperTable) -> str:
    """The table in the pipe form that GitHub shows, and its notes below."""
    rule = ["---"] * table.texts + ["---:"] * (len(table.headings) - table.texts)
    rows = [[escape_markdown(printable(cell, _LONGEST)) for cell in row] for row in (table.headings, *table.rows)]
    notes = "".join(f"\n{escape_markdown(note)}\n" for note in table.notes)
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])) + "\n" + notes
