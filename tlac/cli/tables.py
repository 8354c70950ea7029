"""Tables in the terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tlac.asking.order import OrderTrials
from tlac.runs.folder import Run, RunRecord

# what a row of runs may differ in beside dataset, backend and method
_SETTINGS = ("matching", "encoder", "template", "prompts")


def print_runs(runs: Sequence[Run], reused: Collection[Path] = ()) -> None:
    """One row a run: what was asked of whom, how well it did, what it took.

    Settings in which the runs differ have a column. `reused` are the folders of runs that were there before.
    """
    varying = [name for name in _SETTINGS if len({getattr(run.record, name) for run in runs}) > 1]
    # whoever compares settings on the same answers has no calls to count, and the row must fit
    counts = () if varying else ("asked", "stored")
    table = make_table(("dataset", "backend", "method", *varying), ("n", "top-1", "95 % CI", "cover", *counts, "USD"))
    for run in runs:
        metrics, record = run.metrics, run.record
        table.add_row(
            record.dataset + ("" if record.split == "all" else f" ({record.split})"),
            record.backend + ("" if record.is_complete else " (incomplete)"),
            record.method,
            *(getattr(record, name) for name in varying),
            str(metrics.n),
            percent(metrics.accuracy),
            _interval(metrics.accuracy_ci95, metrics.n),
            percent(metrics.coverage),
            *(_calls(run, run.folder in reused) if counts else ()),
            _cost(record.cost_usd),
        )
    console = Console()
    console.print(table)
    first = runs[0].record
    common = [f"{name} {getattr(first, name)}" for name in _SETTINGS if name not in varying and name != "template"]
    _print_note(console, f"{', '.join(common)}; runs in {runs[0].folder.parent}", "dim")
    _print_note(console, _protocols(runs), "dim")
    if reused:
        _print_note(
            console, f"{len(reused)} reused: complete before, under the same settings, and not run again", "dim"
        )
    for record in (run.record for run in runs):
        if record.order_trials is not None:
            _print_note(console, _describe_order(record, record.order_trials), "dim")
        if note := _truncation(record):
            _print_note(console, note, "yellow")


def _protocols(runs: Sequence[Run]) -> str:
    """Which images and class names the figures are for: not all datasets have the split that they are published on."""
    datasets: dict[str, dict[str, None]] = {}
    for record in (run.record for run in runs):
        datasets.setdefault(record.protocol, {})[record.dataset] = None
    if len(datasets) == 1:
        return f"protocol {next(iter(datasets))}"
    return "; ".join(f"protocol {protocol}: {', '.join(names)}" for protocol, names in datasets.items())


def _calls(run: Run, is_reused: bool) -> tuple[str, str]:
    calls = (run.record.calls.stage1, run.record.calls.stage2)
    asked = "reused" if is_reused else str(sum(stage.asked for stage in calls))
    return asked, str(sum(stage.from_store for stage in calls))


def make_table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table whose columns of words fold where the terminal is narrow, and whose columns of numbers do not."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print_note(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


def _describe_order(record: RunRecord, order: OrderTrials) -> str:
    title = f"{record.dataset}, {record.backend}, {record.method}"
    failed = f" ({order.failed} without an answer)" if order.failed else ""
    rate = f", {100 * order.change_rate:.1f} % of all choices" if order.change_rate is not None else ""
    found = [accuracy for accuracy in order.accuracies if accuracy is not None]
    span = f"; top-1 {100 * min(found):.1f} to {100 * max(found):.1f}" if found else ""
    trials = "1 other order" if order.trials == 1 else f"{order.trials} other orders"
    return f"{title}: in {trials} {order.changed} of {order.asked} stage-2 samples{failed} changed{rate}{span}"


def percent(share: float | None) -> str:
    """A share as per cent to a tenth, "-" where it is not defined."""
    return "-" if share is None else f"{100 * share:.1f}"


def _cost(cost_usd: float | None) -> str:
    if cost_usd is None:
        return "?"
    return "0" if cost_usd == 0 else f"{cost_usd:.2f}" if cost_usd >= 1 else f"{cost_usd:.4f}"


def _interval(interval: tuple[float, float] | None, n: int) -> str:
    # a tenth of a per cent says nothing about fewer than a thousand images, and the row must fit
    places = 0 if n < 1000 else 1
    return f"{100 * interval[0]:.{places}f}-{100 * interval[1]:.{places}f}" if interval else "-"


def _truncation(record: RunRecord) -> str | None:
    if not record.truncated_texts and not record.truncated_classes:
        return None
    return (
        f"{record.dataset}, {record.backend}, {record.method}: {record.encoder} cut {record.truncated_texts} texts "
        f"and {record.truncated_classes} class names that are longer than its window"
    )
