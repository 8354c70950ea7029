"""`tlac compare`: runs on the samples that they share."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import json_option, print_json
from tlac.errors import InputError, UsageError

if TYPE_CHECKING:
    from tlac.analysis.compare import Comparison, Pairing, Standing
    from tlac.analysis.leaderboard import Entry
    from tlac.analysis.pareto import Point
    from tlac.results.record import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare runs on the samples that all of them share.

    Every pair with the difference of their accuracies and its 95 % interval, McNemar's exact test with Holm's
    correction for several pairs, Cohen's kappa, and how many samples only one of the two got right; --json
    lists them. Samples whose call failed in a run are left out.

    \b
    Examples:
      tlac compare runs/20250101-120000-dtd-gemini-tlac runs/20250101-130000-dtd-gpt-4o-tlac
      tlac compare runs/*-dtd-* --json
    """
    from tlac.analysis.compare import compare as compare_runs
    from tlac.results.folder import read_run

    found = compare_runs([read_run(folder) for folder in runs])
    if as_json:
        print_json(_document(found))
    else:
        _print(found)


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "n": found.n,
        "left_out": found.left_out,
        "failed": found.failed,
        "runs": [_standing_document(one) for one in found.standings],
        "pairs": [_pairing_document(one, found) for one in found.pairings],
    }


def _standing_document(standing: Standing) -> dict[str, Any]:
    record = standing.run.record
    return {
        "run": str(standing.run.folder),
        "backend": record.backend,
        "method": record.method,
        "complete": record.is_complete,
        "correct": standing.correct,
        "accuracy": standing.accuracy,
        "accuracy_ci95": standing.accuracy_ci95,
        "cost_per_correct_usd": standing.cost_per_correct_usd,
    }


def _pairing_document(pairing: Pairing, found: Comparison) -> dict[str, Any]:
    return {
        "first": str(found.standings[pairing.first].run.folder),
        "second": str(found.standings[pairing.second].run.folder),
        "difference": pairing.difference.value,
        "difference_ci95": (pairing.difference.low, pairing.difference.high),
        "p": pairing.p,
        "p_holm": pairing.p_holm,
        "kappa": pairing.kappa,
        "both": pairing.paired.both,
        "neither": pairing.paired.neither,
        "only_first": pairing.only_first,
        "only_second": pairing.only_second,
    }


def _print(found: Comparison) -> None:
    from rich.console import Console

    from tlac.cli.tables import make_table, percent

    console = Console()
    table = make_table(("", "run"), ("top-1", "95 % CI", "USD/right"))
    for place, one in enumerate(found.standings):
        low, high = one.accuracy_ci95
        cost = "?" if one.cost_per_correct_usd is None else f"{one.cost_per_correct_usd:.6f}"
        name = one.run.record.run + ("" if one.run.record.is_complete else " (incomplete)")
        table.add_row(_letter(place), name, percent(one.accuracy), f"{100 * low:.1f}-{100 * high:.1f}", cost)
    console.print(table)
    table = make_table(("pair",), ("points", "95 % CI", "p", "p (Holm)", "kappa", "both", "1st", "2nd", "none"))
    for pairing in found.pairings:
        difference, paired = pairing.difference, pairing.paired
        table.add_row(
            f"{_letter(pairing.first)} - {_letter(pairing.second)}",
            f"{100 * difference.value:+.1f}",
            f"{100 * difference.low:+.1f} {100 * difference.high:+.1f}",
            _p(pairing.p),
            _p(pairing.p_holm),
            "-" if pairing.kappa is None else f"{pairing.kappa:.3f}",
            *(str(count) for count in (paired.both, paired.only_first, paired.only_second, paired.neither)),
        )
    console.print()
    console.print(table)
    left = f"; {found.left_out} samples are not in all runs" if found.left_out else ""
    failed = f"; {found.failed} left out, whose call failed in a run" if found.failed else ""
    click.echo(f"{found.n} shared samples{left}{failed}; p of McNemar's exact test, interval of Newcombe")


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


_RUNS = click.argument("places", nargs=-1, type=click.Path(path_type=Path), metavar="[RUNS]...")


@click.command()
@_RUNS
@json_option
def frontier(places: tuple[Path, ...], as_json: bool) -> None:
    """Set runs against each other by accuracy and by cost for 1,000 images; RUNS are run folders, or folders of
    them, by default ./runs.

    A run that another beats on both is dominated and shown in grey. Each dataset has a frontier of its own.

    \b
    Examples:
      tlac frontier runs
      tlac frontier runs/*-dtd-* --json
    """
    from tlac.analysis.pareto import find_frontiers

    frontiers = find_frontiers(_read(places))
    if not frontiers:
        raise InputError("no complete run with labels among these: a frontier needs some")
    if as_json:
        print_json({"frontiers": [[_frontier_document(point) for point in points] for points in frontiers]})
        return
    for points in frontiers:
        _print_frontier(points)


@click.command()
@_RUNS
@click.option("--budget", required=True, type=click.FloatRange(min=0), help="USD to spend.")
@click.option("--images", required=True, type=click.IntRange(min=1), help="Images to classify.")
@click.option("--dataset", help="Dataset to go by, where RUNS are on several.")
@json_option
def recommend(places: tuple[Path, ...], budget: float, images: int, dataset: str | None, as_json: bool) -> None:
    """Pick what to run on so many images with so much money, from runs that were measured; by default ./runs.

    The cost of a run's answers is scaled to the number of images. Yours should be like those that were measured.

    \b
    Example:
      tlac recommend runs --budget 10 --images 5000
    """
    from tlac.analysis.pareto import find_frontiers
    from tlac.analysis.pareto import recommend as pick

    frontiers = [points for points in find_frontiers(_read(places)) if dataset in (None, _dataset(points))]
    if len(frontiers) != 1:
        names = ", ".join(sorted({_dataset(points) for points in frontiers})) or "none"
        raise UsageError(
            f"a recommendation goes by runs on the same samples; these are on: {names}; name one --dataset"
        )
    found = pick(frontiers[0], budget, images)
    if as_json:
        print_json(
            {
                "chosen": _frontier_document(found.chosen),
                "cost_usd": found.cost_usd,
                "cheaper": [_frontier_document(point) for point in found.cheaper],
                "next_better": _frontier_document(found.next_better) if found.next_better else None,
            }
        )
        return
    click.echo(
        f"{_describe(found.chosen, images)}: the most accurate of {len(frontiers[0])} runs within ${budget:,.2f}."
    )
    for point in found.cheaper:
        click.echo(f"{_describe(point, images)}: cheaper, and the difference may be chance on these images.")
    if found.next_better:
        click.echo(f"{_describe(found.next_better, images)}: more accurate, beyond the budget.")


def _read(places: Sequence[Path]) -> list[Run]:
    from tlac.results.folder import find_runs, read_run

    runs: list[Run] = []
    for folder in [folder for place in places or (Path("runs"),) for folder in find_runs(place)]:
        try:
            runs.append(read_run(folder))
        except InputError as error:
            click.echo(f"tlac: passed over: {error}", err=True)
    return runs


def _dataset(points: Sequence[Point]) -> str:
    return points[0].run.record.dataset


def _describe(point: Point, images: int) -> str:
    low, high = point.accuracy_ci95
    cost = (point.cost_per_1000_usd or 0.0) * images / 1000
    interval = f"95 % CI {100 * low:.1f}-{100 * high:.1f}"
    return f"{point.name}: {100 * point.accuracy:.1f} % ({interval}), ${cost:,.2f} for {images:,} images"


def _frontier_document(point: Point) -> dict[str, Any]:
    record = point.run.record
    return {
        "run": str(point.run.folder),
        "dataset": record.dataset,
        "split": record.split,
        "backend": record.backend,
        "method": record.method,
        "matching": record.matching,
        "encoder": record.encoder,
        "prompts": record.prompts,
        "n": point.run.metrics.n,
        "accuracy": point.accuracy,
        "accuracy_ci95": point.accuracy_ci95,
        "cost_per_1000_usd": point.cost_per_1000_usd,
        "dominated": point.is_dominated,
    }


def _print_frontier(points: Sequence[Point]) -> None:
    from rich.console import Console

    from tlac.analysis.suite_table import describe_part
    from tlac.cli.tables import make_table

    record = points[0].run.record
    table = make_table(("backend", "method", "encoder"), ("top-1", "95 % CI", "USD/1,000", ""))
    for point in points:
        low, high = point.accuracy_ci95
        cost = point.cost_per_1000_usd
        table.add_row(
            point.run.record.backend,
            point.run.record.method,
            point.run.record.encoder,
            f"{100 * point.accuracy:.1f}",
            f"{100 * low:.0f}-{100 * high:.0f}",
            "?" if cost is None else f"{cost:.4f}",
            "dominated" if point.is_dominated else "",
            style="bright_black" if point.is_dominated else None,
        )
    click.echo(f"{describe_part(record.dataset, record.split)}, {points[0].run.metrics.n:,} images")
    Console().print(table)


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
    from tlac.analysis.leaderboard import rank_runs
    from tlac.results.folder import find_runs, read_run

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
        _print_leaderboard(entries)


def _row(entry: Entry) -> tuple[str, ...]:
    from tlac.analysis.suite_table import describe_part
    from tlac.cli.tables import percent

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


def _print_leaderboard(entries: list[Entry]) -> None:
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
    from tlac.analysis.leaderboard import Entry

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
