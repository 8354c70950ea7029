"""The report's tables for a paper, as LaTeX (booktabs) and Markdown.

Text from outside is escaped for either. Does not know files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlac.report.alignment import arrange
from tlac.report.comparison import column_title, compare_pairs, mark_cells
from tlac.report.confusion import confuse
from tlac.report.facts import rung_rows
from tlac.report.run_page import ReportedRun

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
_MARKDOWN = "\\`*_{}[]<>#|~!&$"
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of texts: `name` for its file, headings, rows. All columns but the first `texts` are numbers."""

    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


def run_tables(run: ReportedRun) -> tuple[PaperTable, ...]:
    """The tables of one run: headline, rungs, most confused pairs."""
    metrics = run.metrics
    headline = (
        ("samples", f"{metrics.n}"),
        ("top-1", _share(metrics.accuracy)),
        ("95 % interval", _interval(metrics.accuracy_ci95)),
        ("coverage", _share(metrics.coverage)),
        ("top-1 when answered", _share(metrics.accuracy_answered)),
        ("top-5", _share(metrics.top5)),
        ("mean per class", _share(metrics.mean_per_class)),
        ("macro F1", _share(metrics.macro_f1)),
    )
    rungs = tuple(
        (row.name, f"{row.n}", _share(row.share), _share(row.accuracy), _interval(row.ci95))
        for row in rung_rows(metrics)
    )
    classes = run.record.classes
    pairs = tuple(
        (classes[pair.truth], classes[pair.predicted], f"{pair.count}", _share(pair.count / pair.n))
        for pair in confuse(run.predictions).pairs[:20]
    )
    return (
        PaperTable("headline", ("measure", f"{run.record.backend}, {run.record.method}"), headline),
        PaperTable("rungs", ("decided by", "samples", "share", "right", "95 % interval"), rungs),
        PaperTable("confusions", ("truth", "taken for", "times", "of class"), pairs, texts=2),
    )


def comparison_tables(runs: Sequence[ReportedRun]) -> tuple[PaperTable, ...]:
    """The tables of several runs: the matrix, its best marked * where the tests tell, and the tests."""
    grid = arrange(runs)
    tests = compare_pairs(grid)
    marks = mark_cells(grid, tests)
    titles = tuple(column_title(column) for column in grid.columns)
    rows = []
    for row, (name, found) in enumerate(zip(grid.contenders, grid.runs, strict=True)):
        cells = []
        for column, run in enumerate(found):
            mark = marks.get((row, column))
            star = " *" if mark is not None and mark.is_best else ""
            cells.append("–" if run is None else _share(run.metrics.accuracy) + star)
        rows.append((name, *cells))
    tested = tuple(
        (
            titles[test.column], grid.contenders[test.first], grid.contenders[test.second], f"{test.n}",
            f"{100 * test.difference:+.1f}", f"{100 * test.low:+.1f} to {100 * test.high:+.1f}", f"{test.p:.3g}",
            "–" if test.kappa is None else f"{test.kappa:.2f}",
        )
        for test in tests
    )  # fmt: skip
    heads = ("dataset", "one", "other", "n", "difference", "95 % interval", "p (Holm)", "kappa")
    return (
        PaperTable("accuracy", ("backend, method", *titles), tuple(rows)),
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
    rows = [[_markdown(cell) for cell in row] for row in (table.headings, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])) + "\n"


def _share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _markdown(text: str) -> str:
    return "".join(f"\\{character}" if character in _MARKDOWN else character for character in _one_line(text))


def _one_line(text: str) -> str:
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
