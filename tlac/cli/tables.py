"""Tables in the terminal, within 80 columns."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tlac.analysis.suite_table import harmonics_of, series_of
from tlac.config.schemas import Published, Suite, load_published
from tlac.results.record import Cell, OrderTrials, Run, RunRecord, describe_part
from tlac.runtime.formatting import dollars, interval, percent, printable

# what a row of runs may differ in beside dataset, backend and method
_SETTINGS = ("matching", "encoder", "template", "prompts")


_MOST_NAMED = 8


def open_console() -> Console:
    """Standard output. Off a terminal a line is as long as what it holds, so that no name is broken in two."""
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_narrow else 10_000)


def print_runs(runs: Sequence[Run], reused: Collection[Path] = ()) -> None:
    """One row a run: what was asked of whom, how well it did, what it took.

    Settings in which the runs differ have a column. `reused` are the folders of runs that were there before.
    """
    varying = [name for name in _SETTINGS if len({getattr(run.record, name) for run in runs}) > 1]
    # whoever compares settings on the same answers has no calls to count, and the row must fit
    counts = () if varying else ("asked", "stored")
    words, numbers = ("dataset", "backend", "method", *varying), ("n", "top-1", "95 % CI", "cover", *counts, "cost")
    print_table(words, numbers, [_run_row(run, varying, run.folder in reused, bool(counts)) for run in runs])
    console, first = open_console(), runs[0].record
    common = [f"{name} {getattr(first, name)}" for name in _SETTINGS if name not in varying and name != "template"]
    _print_note(console, f"{', '.join(common)}", "dim")
    _print_note(console, _protocols(runs), "dim")
    if reused:
        _print_note(
            console, f"{len(reused)} reused: complete before, under the same settings, and not run again", "dim"
        )
    for run in runs[:_MOST_NAMED]:
        page = run.folder / "report.html"
        _print_note(console, f"report: {page}" if page.is_file() else f"run folder: {run.folder}", "dim")
    if len(runs) > _MOST_NAMED:
        _print_note(console, f"and {len(runs) - _MOST_NAMED} more run folders in {runs[0].folder.parent}", "dim")
    for run in runs:
        _print_notes_of(run, console)


def print_truncations(runs: Iterable[Run]) -> None:
    """Say what encoders cut, once where runs share it."""
    for note in dict.fromkeys(_truncation(run.record) for run in runs):
        if note:
            _print_note(open_console(), note, "yellow")


def _run_row(run: Run, varying: Sequence[str], is_reused: bool, has_counts: bool) -> tuple[str, ...]:
    metrics, record = run.metrics, run.record
    stages = (record.calls.stage1, record.calls.stage2)
    asked = "reused" if is_reused else str(sum(stage.asked for stage in stages))
    return (
        describe_part(record.dataset, record.split),
        record.backend + ("" if record.is_complete else " (incomplete)"),
        record.method,
        *(getattr(record, name) for name in varying),
        str(metrics.n),
        percent(metrics.accuracy),
        # a tenth of a per cent says nothing about fewer than a thousand images, and the row must fit
        interval(metrics.accuracy_ci95, 0 if metrics.n < 1000 else 1, "-"),
        percent(metrics.coverage),
        *((asked, str(sum(stage.from_store for stage in stages))) if has_counts else ()),
        dollars(record.cost_usd),
    )


def _print_notes_of(run: Run, console: Console) -> None:
    record = run.record
    if record.order_trials is not None:
        _print_note(console, _describe_order(record, record.order_trials), "dim")
    if record.hints:
        _print_note(console, _describe_hints(run), "dim")
    if note := _truncation(record):
        _print_note(console, note, "yellow")
    if count := run.unread_choices:
        text = f"{record.dataset}, {record.backend}, {record.method}: {count} stage-2 answers named no class of the "
        _print_note(console, f"{text}list; similarity decided", "yellow")


def _describe_hints(run: Run) -> str:
    """What stage 1 was shown of the class list, and the accuracy where it was not shown the right class."""
    record, metrics = run.record, run.metrics
    text = f"{record.dataset}, {record.backend}, {record.method}: stage 1 was shown {len(record.hints)} of the "
    text += f"{len(set(record.classes))} class names"
    if metrics.accuracy_unhinted is None:
        return text
    return f"{text}; {percent(metrics.accuracy_unhinted)} on the {metrics.unhinted} images of the other classes"


def _protocols(runs: Sequence[Run]) -> str:
    """Which images and class names the figures are for: not all datasets have the split that they are published on."""
    datasets: dict[str, dict[str, None]] = {}
    for record in (run.record for run in runs):
        datasets.setdefault(record.protocol, {})[record.dataset] = None
    if len(datasets) == 1:
        return f"protocol {next(iter(datasets))}"
    return "; ".join(f"protocol {protocol}: {', '.join(names)}" for protocol, names in datasets.items())


class PlainTable(Table):
    """A table whose cells are text: names come from files that anybody may have written.

    rich would read markup in them, such as [link=...], and let the terminal's control codes through.
    """

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of texts."""
        super().add_row(*(Text(printable(str(cell))) for cell in cells), **options)


def print_table(
    words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]], grey: Collection[int] = ()
) -> None:
    """Print a table whose columns of words fold where the terminal is narrow, and whose columns of numbers do not.

    Rows at the places `grey` step back.
    """
    table = PlainTable(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for place, row in enumerate(rows):
        table.add_row(*row, style="bright_black" if place in grey else None)
    open_console().print(table)


def _print_note(console: Console, text: str, style: str) -> None:
    console.print(printable(text), style=style, soft_wrap=True, markup=False, highlight=False)


def _describe_order(record: RunRecord, order: OrderTrials) -> str:
    title = f"{record.dataset}, {record.backend}, {record.method}"
    failed = f" ({order.failed} without an answer)" if order.failed else ""
    rate = f", {100 * order.change_rate:.1f} % of all choices" if order.change_rate is not None else ""
    found = [accuracy for accuracy in order.accuracies if accuracy is not None]
    span = f"; top-1 {100 * min(found):.1f} to {100 * max(found):.1f}" if found else ""
    trials = "1 other order" if order.trials == 1 else f"{order.trials} other orders"
    return f"{title}: in {trials} {order.changed} of {order.asked} stage-2 samples{failed} changed{rate}{span}"


def _truncation(record: RunRecord) -> str | None:
    if not record.truncated_texts and not record.truncated_classes:
        return None
    return (
        f"{record.dataset}, {record.backend}, {record.method}: {record.encoder} cut {record.truncated_texts} texts "
        f"and {record.truncated_classes} class names that are longer than its window"
    )


_WIDTH = 80
_NAME_WIDTH = 26


def suite_document(suite: Suite, cells: Sequence[Cell]) -> dict[str, Any]:
    """A suite as `--json` prints it: shares in [0, 1], published rows marked as such."""
    series = series_of((cell for cell in cells if cell.suite == suite.name), suite.spec.datasets)
    splits = list(dict.fromkeys(one["split"] for one in series))
    return {
        "suite": suite.name,
        "datasets": list(suite.spec.datasets),
        "rows": series,
        "harmonic": harmonics_of(series),
        "published": [
            {"split": split, "published": True, **_published_document(figure)}
            for split in splits
            for figure in load_published(suite.name, split)
        ],
        "published_gains": [
            {"split": split, **{name: getattr(gain, name) for name in ("method", "over", "source", "by_dataset")}}
            for split in splits
            for gain in load_published(suite.name, split, "gains")
        ],
    }


def _published_document(figure: Published) -> dict[str, Any]:
    names = ("method", "source", "mean", "mean_over", "by_dataset", "error", "error_by_dataset")
    return {**{name: getattr(figure, name) for name in names}, "digitised": figure.is_digitised}


# a line of a suite's table: its name, texts by dataset, the average, and how many datasets it is over
_Row: TypeAlias = tuple[str, Mapping[str, str], "float | None", str]


def print_suite(suite: Suite, cells: Sequence[Cell]) -> None:
    """Top-1 accuracy in percent: a block of datasets at a time, the averages last; then H."""
    console = open_console()
    series = series_of((cell for cell in cells if cell.suite == suite.name), suite.spec.datasets)
    for split in dict.fromkeys(one["split"] for one in series):
        ours = [_series_row(one) for one in series if one["split"] == split]
        figures = load_published(suite.name, split)
        published = [_published_row(figure) for figure in figures]
        _print_rows(console, f"{suite.name}, {split} classes: top-1 in %", suite.spec.datasets, ours, published)
        if any(text.endswith("*") for _, texts, _, _ in ours for text in texts.values()):
            _print_note(console, "* incomplete, not in the average; - no result", "dim")
        if published:
            _print_note(console, "+ published by others on all test images, not run here", "dim")
        for figure in figures:
            if figure.is_digitised:
                _print_note(console, _describe_error(figure), "dim")
        for gain in load_published(suite.name, split, "gains"):
            _print_note(console, _describe_gain(gain), "dim")
    if found := harmonics_of(series):
        _print_rows(
            console, f"{suite.name}, H of base and novel in %", suite.spec.datasets, list(map(_harmonic_row, found)), []
        )
        note = "the average of H is that of the two averages, over datasets complete in both halves"
        _print_note(console, note, "dim")


def harmonics(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """H of base and novel of the cells outside of suites, over their datasets."""
    own = [cell for cell in cells if cell.suite is None]
    return harmonics_of(series_of(own, list(dict.fromkeys(cell.dataset for cell in own))))


def print_harmonics(cells: Sequence[Cell]) -> None:
    """H of base and novel of the cells outside of suites, where there are both halves."""
    if found := harmonics(cells):
        datasets = list(dict.fromkeys(cell.dataset for cell in cells if cell.suite is None))
        _print_rows(open_console(), "H of base and novel in %", datasets, list(map(_harmonic_row, found)), [])


def _series_row(series: Mapping[str, Any]) -> _Row:
    texts = {name: _cell_text(cell) for name, cell in series["by_dataset"].items()}
    over = f"{series['complete']} of {series['total']}"
    return f"{series['backend']} {series['method']}", texts, series["mean"], over


def _cell_text(cell: Mapping[str, Any]) -> str:
    if cell["accuracy"] is None:
        return "-"
    return f"{100 * cell['accuracy']:.1f}" + ("" if cell["is_complete"] else "*")


def _published_row(figure: Published) -> _Row:
    mark = "~" if figure.is_digitised else ""
    texts = {name: f"{mark}{100 * value:.1f}" for name, value in figure.by_dataset.items()}
    over = f"{figure.mean_over}" if figure.mean_over else ""
    return f"{figure.method} +" + (" ~" if mark else ""), texts, figure.mean, over


def _describe_error(figure: Published) -> str:
    about = "" if figure.error is None else f", to about {100 * figure.error:.1f} points"
    others = [f"{100 * error:.1f} on {name}" for name, error in figure.error_by_dataset.items()]
    return f"~ digitised: read off a chart{about}" + (f" ({', '.join(others)})" if others else "")


def _describe_gain(gain: Published) -> str:
    points = ", ".join(f"{100 * difference:+.1f} on {name}" for name, difference in gain.by_dataset.items())
    return f"published by others: {gain.method} over {gain.over} methods, in points: {points}"


def _harmonic_row(found: Mapping[str, Any]) -> _Row:
    texts = {name: percent(value) for name, value in found["by_dataset"].items()}
    return f"{found['backend']} {found['method']}", texts, found["h"], f"{found['complete']} of {found['total']}"


def _print_rows(
    console: Console, heading: str, datasets: Sequence[str], ours: Sequence[_Row], published: Sequence[_Row]
) -> None:
    console.print(f"\n{heading}", style="bold", highlight=False)
    rows = [*ours, *published]
    for block in _blocks(datasets):
        table = _table(block)
        for title, texts, _, _ in rows:
            if any(name in texts for name in block):
                table.add_row(title, *(texts.get(name, "-") for name in block))
        console.print(table)
    table = _table(("average", "datasets"))
    for row, (title, _, mean, over) in enumerate(rows):
        if mean is not None or row < len(ours):
            table.add_row(title, "-" if mean is None else f"{100 * mean:.2f}", over)
    console.print(table)


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", width=_NAME_WIDTH, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _blocks(datasets: Sequence[str]) -> Iterator[list[str]]:
    """The datasets in as many blocks as it takes for their names to fit beside the rows' own."""
    block: list[str] = []
    for name in datasets:
        if block and _NAME_WIDTH + sum(max(len(one), 5) + 1 for one in (*block, name)) > _WIDTH - 2:
            yield block
            block = []
        block.append(name)
    if block:
        yield block
