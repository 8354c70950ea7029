"""Tables in the terminal, within 80 columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tlac.order import OrderTrials
from tlac.runs import Run, RunRecord


def print_runs(runs: Sequence[Run], reused: Collection[Path] = ()) -> None:
    """One row a run: what was asked of whom, how well it did, what it took.

    `reused` are the folders of runs that were there before.
    """
    table = make_table(("dataset", "backend", "method"), ("n", "top-1", "95 % CI", "cover", "asked", "stored", "USD"))
    for run in runs:
        metrics, record = run.metrics, run.record
        calls = (record.calls.stage1, record.calls.stage2)
        table.add_row(
            record.dataset + ("" if record.split == "all" else f" ({record.split})"),
            record.backend + ("" if record.is_complete else " (incomplete)"),
            record.method,
            str(metrics.n),
            percent(metrics.accuracy),
            _interval(metrics.accuracy_ci95, metrics.n),
            percent(metrics.coverage),
            "reused" if run.folder in reused else str(sum(stage.asked for stage in calls)),
            str(sum(stage.from_store for stage in calls)),
            _cost(record.cost_usd),
        )
    console = Console()
    console.print(table)
    first = runs[0].record
    console.print(
        f"matching {first.matching}, encoder {first.encoder}, prompts {first.prompts}; runs in {runs[0].folder.parent}",
        style="dim",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if reused:
        _print_note(
            console, f"{len(reused)} reused: complete before, under the same settings, and not run again", "dim"
        )
    for record in (run.record for run in runs):
        if record.order_trials is not None:
            _print_note(console, _describe_order(record, record.order_trials), "dim")
        if note := _truncation(record):
            console.print(note, style="yellow", soft_wrap=True, markup=False, highlight=False)


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
