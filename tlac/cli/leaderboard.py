"""`tlac leaderboard`: all runs of a folder, ranked."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tlac.cli.options import print_json
from tlac.errors import InputError

if TYPE_CHECKING:
    from tlac.comparing.leaderboard import Entry

_WORDS = ("rank", "dataset", "protocol", "backend", "method", "matching", "encoder")
_NUMBERS = ("n", "top-1", "95 % CI", "cover", "USD/right")
# within 80 columns there is no room for these, unless they tell the runs of a dataset apart
_SETTINGS = ("protocol", "matching", "encoder")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
def leaderboard(folder: Path, form: str) -> None:
    """Rank the runs in a folder, by default ./runs.

    A run is ranked against those on the same samples of the same dataset, split and protocol. Incomplete runs
    are marked and have no rank. A folder that can't be read is named and passed over.

    \b
    Examples:
      tlac leaderboard runs
      tlac leaderboard runs --format markdown > RESULTS.md
    """
    from tlac.comparing.leaderboard import rank_runs
    from tlac.runs.folder import Run, find_runs, read_run

    runs: list[Run] = []
    for place in find_runs(folder):
        try:
            runs.append(read_run(place))
        except InputError as error:
            click.echo(f"tlac: passed over: {error}", err=True)
    if not runs:
        raise InputError(f"{folder}: no run in it; `tlac bench` writes them there with --out {folder}")
    entries = rank_runs(runs)
    if form == "json":
        print_json({"entries": [asdict(entry) for entry in entries]})
    elif form == "csv":
        click.echo(_csv(entries), nl=False)
    elif form == "markdown":
        click.echo(_markdown(entries), nl=False)
    else:
        _print(entries)


def _row(entry: Entry) -> tuple[str, ...]:
    from tlac.cli.tables import percent
    from tlac.comparing.matrix import describe_part

    interval = entry.accuracy_ci95
    drawn = "" if entry.drawn == "all" else f", {entry.drawn}"
    return (
        "-" if entry.rank is None else str(entry.rank),
        describe_part(entry.dataset, entry.split) + drawn,
        entry.protocol,
        entry.backend + ("" if entry.is_complete else " (incomplete)"),
        entry.method,
        entry.matching,
        entry.encoder,
        str(entry.n),
        percent(entry.accuracy),
        f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}" if interval else "-",
        percent(entry.coverage),
        "?" if entry.cost_per_correct_usd is None else f"{entry.cost_per_correct_usd:.6f}",
    )


def _print(entries: list[Entry]) -> None:
    from rich.console import Console

    from tlac.cli.tables import make_table

    shown = [heading not in _SETTINGS or _is_telling(heading, entries) for heading in _WORDS]
    table = make_table(tuple(compress(_WORDS, shown)), _NUMBERS)
    for row in map(_row, entries):
        table.add_row(*compress(row, shown), *row[len(_WORDS) :])
    Console().print(table)


def _is_telling(setting: str, entries: Sequence[Entry]) -> bool:
    """Whether runs on one dataset differ in it."""
    parts = {(entry.dataset, entry.split) for entry in entries}
    return len({(entry.dataset, entry.split, getattr(entry, setting)) for entry in entries}) > len(parts)


def _markdown(entries: list[Entry]) -> str:
    rule = ["---"] * len(_WORDS) + ["--:"] * len(_NUMBERS)
    lines = [f"| {' | '.join((*_WORDS, *_NUMBERS))} |", f"|{'|'.join(rule)}|"]
    lines += [f"| {' | '.join(map(_escape, _row(entry)))} |" for entry in entries]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """A cell's text: names come from files that anybody may have written."""
    one_line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]#" else letter for letter in one_line)


def _csv(entries: list[Entry]) -> str:
    from tlac.comparing.leaderboard import Entry

    names = [field.name for field in fields(Entry)]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["accuracy_low", "accuracy_high", *(name for name in names if name != "accuracy_ci95")])
    for entry in entries:
        low, high = entry.accuracy_ci95 or ("", "")
        writer.writerow([low, high, *(_cell(getattr(entry, name)) for name in names if name != "accuracy_ci95")])
    return written.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        # a spreadsheet would take it for a formula
        return f"'{value}"
    return "" if value is None else value
