"""`tlac compare` and `tlac leaderboard`: finished runs beside each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations, compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import PATH, Number, echo, json_option, print_json, say
from tlac.errors import InputError, UsageError
from tlac.runtime.formatting import dollars, escape_markdown, interval, percent, printable

if TYPE_CHECKING:
    from tlac.analysis.compare import PairTest
    from tlac.analysis.leaderboard import Point
    from tlac.results.record import Run


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@json_option
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare runs pair by pair on the samples that both have.

    Every pair with the difference of their accuracies and its 95 % interval, McNemar's exact test with Holm's
    correction for several pairs, Cohen's kappa, and how many samples only one of the two got right; --json
    lists them. A RUN is a run folder, or a folder of them. Samples whose call failed in one of the two are left out.

    \b
    Examples:
      tlac compare runs/20250101-120000-dtd-gemini-tlac runs/20250101-130000-dtd-gpt-4o-tlac
      tlac compare runs/*-dtd-* --json
    """
    from tlac.analysis.compare import compare as compare_runs
    from tlac.results.folder import list_runs, load_run

    read = [load_run(folder) for folder in list_runs(runs)]
    tests = compare_runs(read)
    if as_json:
        print_json({"runs": [_run_document(run) for run in read], "pairs": [_document(test, read) for test in tests]})
    else:
        _print(read, tests)


def _run_document(run: Run) -> dict[str, Any]:
    from tlac.analysis.leaderboard import cost_per_correct_usd
    from tlac.results.record import summary

    return {**summary(run), "cost_per_correct_usd": cost_per_correct_usd(run)}


def _document(test: PairTest, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "first": str(runs[test.first].folder),
        "second": str(runs[test.second].folder),
        "n": test.n,
        "left_out": test.left_out,
        "failed": test.failed,
        "difference": test.difference.value,
        "difference_ci95": (test.difference.low, test.difference.high),
        "p": test.p,
        "p_holm": test.p_holm,
        "kappa": test.kappa,
        "both": test.both,
        "neither": test.neither,
        "only_first": test.only_first,
        "only_second": test.only_second,
    }


def _print(runs: Sequence[Run], tests: Sequence[PairTest]) -> None:
    from tlac.cli.tables import print_table

    print_table(("", "run"), ("n", "top-1", "95 % CI", "$/correct"), map(_run_row, range(len(runs)), runs))
    click.echo()
    numbers = ("n", "points", "95 % CI", "p", "p (Holm)", "kappa", "both", "1st", "2nd", "none")
    print_table(("pair",), numbers, map(_pair_row, tests))
    tested = {(test.first, test.second) for test in tests}
    for first, second in combinations(range(len(runs)), 2):
        if (first, second) not in tested:
            echo(f"{_pair(first, second)}: not tested, they share no labelled sample")
    for test in tests:
        notes = [f"{test.left_out} samples are in one run only"] if test.left_out else []
        notes += [f"{test.failed} have a failed call and are left out"] if test.failed else []
        if notes:
            echo(f"{_pair(test.first, test.second)}: {', '.join(notes)}")
    echo("n samples that both share; p of McNemar's exact test, interval of Newcombe")


def _run_row(place: int, run: Run) -> tuple[str, ...]:
    from tlac.analysis.leaderboard import cost_per_correct_usd

    metrics, name = run.metrics, run.record.run + ("" if run.record.is_complete else " (incomplete)")
    shown = (f"{metrics.n}", percent(metrics.accuracy), interval(metrics.accuracy_ci95, dash="-"))
    return _letter(place), name, *shown, dollars(cost_per_correct_usd(run))


def _pair_row(test: PairTest) -> tuple[str, ...]:
    difference = test.difference
    return (
        _pair(test.first, test.second),
        f"{test.n}",
        f"{100 * difference.value:+.1f}",
        f"{100 * difference.low:+.1f} {100 * difference.high:+.1f}",
        _p(test.p),
        _p(test.p_holm),
        "-" if test.kappa is None else f"{test.kappa:.3f}",
        *(str(count) for count in (test.both, len(test.only_first), len(test.only_second), test.neither)),
    )


def _pair(first: int, second: int) -> str:
    return f"{_letter(first)} - {_letter(second)}"


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def _p(value: float) -> str:
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


# shown where they tell the runs of a dataset apart: two that differ in nothing that is shown would look like one
_DETAILS = ("template", "prompts", "stage2_backend", "shuffle_classes", "abstain_below")
_WORDS = ("rank", "dataset", "protocol", "backend", "method", "matching", "encoder", *_DETAILS)
_NUMBERS = ("n", "top-1", "95 % CI", "cover", "$/correct")
# within 80 columns there is no room for these either, unless they do
_SETTINGS = ("protocol", "matching", "encoder", *_DETAILS)


@click.command()
@click.argument("places", nargs=-1, type=PATH, metavar="[RUNS]...")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print it; --frontier and --recommend know table and json.",
)
@click.option("--json", "form", flag_value="json", help="The same as --format json.")
@click.option("--frontier", is_flag=True, help="Show accuracy against cost, and which runs another beats on both.")
@click.option("--recommend", is_flag=True, help="Pick what to run within --budget on --images.")
@click.option("--budget", type=Number(min=0), help="USD to spend.")
@click.option("--images", type=click.IntRange(min=1), help="Number of images to classify.  [default: 1000]")
@click.option("--dataset", help="Take only the runs on this dataset.")
def leaderboard(  # noqa: PLR0913, PLR0917 - one parameter per option
    places: tuple[Path, ...],
    form: str,
    frontier: bool,
    recommend: bool,
    budget: float | None,
    images: int | None,
    dataset: str | None,
) -> None:
    """Rank runs; RUNS are run folders, or folders of them, by default ./runs.

    A run is ranked against those on the same samples of the same dataset, split and protocol. Incomplete runs
    are marked and have no rank. A folder that can't be read is named and passed over.

    With --frontier, runs stand by accuracy and by cost for 1,000 images, for each dataset by itself; a run that
    another beats on both is dominated, and grey. With --recommend, the cost of a run's answers is scaled to the
    number of images: yours should be like those that were measured.

    \b
    Examples:
      tlac leaderboard runs
      tlac leaderboard runs --format markdown > RESULTS.md
      tlac leaderboard runs/*-dtd-* --frontier
      tlac leaderboard runs --recommend --budget 2
      tlac leaderboard runs --recommend --budget 10 --images 5000
    """
    from tlac.analysis.leaderboard import rank_runs
    from tlac.results.folder import read_runs

    if (frontier or recommend) and form not in ("table", "json"):
        raise UsageError(f"--format {form} is for the ranking: take table or json with --frontier and --recommend")
    found = read_runs(places or (Path("runs"),), say)
    runs = [run for run in found if dataset in (None, run.record.dataset)]
    if not runs:
        shown = ", ".join(map(str, places)) or "runs"
        raise InputError(f"{shown}: no run in it; `tlac bench` writes them there with --out {shown}")
    if recommend:
        _recommend(runs, budget, images, form)
    elif frontier:
        _show_frontiers(runs, form)
    else:
        _show_ranking(rank_runs(runs), form)


def _show_frontiers(runs: Sequence[Run], form: str) -> None:
    from tlac.analysis.leaderboard import find_frontiers
    from tlac.cli.tables import print_table

    frontiers = find_frontiers(runs)
    if not frontiers:
        raise InputError("no complete run with labels among these: a frontier needs some")
    if form == "json":
        print_json({"frontiers": [[_frontier_document(point) for point in points] for points in frontiers]})
        return
    for points, samples in zip(frontiers, _name_samples(frontiers), strict=True):
        words = ("backend", "method", *_varying(points))
        rows = [
            (
                *(str(getattr(point.run.record, name)) for name in words),
                percent(point.accuracy),
                interval(point.run.metrics.accuracy_ci95, 0, "-"),
                dollars(point.cost_per_1000_usd),
                "dominated" if point.is_dominated else "",
            )
            for point in points
        ]
        echo(samples)
        grey = [place for place, point in enumerate(points) if point.is_dominated]
        print_table(words, ("top-1", "95 % CI", "per 1,000", ""), rows, grey)


def _name_samples(frontiers: Sequence[Sequence[Point]]) -> list[str]:
    """Dataset, split and number of images of each frontier, and what tells two of one dataset apart."""
    from tlac.analysis.leaderboard import describe_samples
    from tlac.results.record import describe_part

    runs = [points[0].run for points in frontiers]
    return [
        f"{describe_part(run.record.dataset, run.record.split)}, {run.metrics.n:,} images"
        + drawn.removeprefix("all").removeprefix(f"{run.metrics.n}")
        for run, drawn in zip(runs, describe_samples(runs), strict=True)
    ]


def _varying(points: Sequence[Point]) -> list[str]:
    """The settings in which these runs differ: two that differ in nothing that is shown would look like one."""
    records = [point.run.record for point in points]
    names = ["encoder", "matching", "prompts", "template", "shuffle_classes", "abstain_below"]
    # as a rule the first stage's backend is asked again
    if any(record.stage2_backend != record.backend for record in records):
        names.append("stage2_backend")
    return [name for name in names if len({getattr(record, name) for record in records}) > 1]


def _frontier_document(point: Point) -> dict[str, Any]:
    from tlac.results.record import summary

    cost = {"cost_per_1000_usd": point.cost_per_1000_usd, "dominated": point.is_dominated}
    return {**summary(point.run), **cost}


def _recommend(runs: Sequence[Run], budget: float | None, images: int | None, form: str) -> None:
    from tlac.analysis.leaderboard import find_frontiers, recommend

    if budget is None:
        raise UsageError("--recommend needs --budget USD: that for 1,000 images, or for --images NUMBER")
    images = 1000 if images is None else images
    frontiers = find_frontiers(runs)
    if len(frontiers) != 1:
        names = "; ".join(_name_samples(frontiers)) or "none"
        raise UsageError(
            f"a recommendation goes by runs on the same samples; these are on: {names}: name one --dataset, or the "
            "folders of runs on the same"
        )
    chosen, cheaper, next_better = recommend(frontiers[0], budget, images)
    unpriced = [point for point in frontiers[0] if point.cost_per_1000_usd is None]

    def cost_usd(point: Point) -> float:
        return (point.cost_per_1000_usd or 0.0) * images / 1000

    if form == "json":
        print_json(
            {
                "chosen": _frontier_document(chosen),
                "cost_usd": cost_usd(chosen),
                "cheaper": [_frontier_document(point) for point in cheaper],
                "next_better": _frontier_document(next_better) if next_better else None,
                "unpriced": [_frontier_document(point) for point in unpriced],
            }
        )
        return
    varying = _varying(frontiers[0])

    def describe(point: Point) -> str:
        accuracy = f"{percent(point.accuracy)} % (95 % CI {interval(point.run.metrics.accuracy_ci95, dash='-')})"
        return f"{_name(point, varying)}: {accuracy}, ${cost_usd(point):,.2f} for {images:,} images"

    known = f"{len(frontiers[0]) - len(unpriced)} runs{' with a known cost' if unpriced else ''}"
    echo(f"{describe(chosen)}: the most accurate of {known} within ${budget:,.2f}.")
    record = chosen.run.record
    settings = {"prompts": record.prompts, "encoder": record.encoder, "matching": record.matching}
    told = ", ".join(f"{name} {value}" for name, value in settings.items() if value)
    echo(f"It ran with {told}, template {record.template!r}.")
    for point in cheaper:
        echo(f"{describe(point)}: cheaper, and not significantly less accurate on these images.")
    if next_better:
        echo(f"{describe(next_better)}: more accurate, beyond the budget.")
    for point in unpriced:
        echo(f"{_name(point, varying)}: {percent(point.accuracy)} %; left out, as its cost is unknown.")


def _name(point: Point, varying: Sequence[str]) -> str:
    """Who was asked how, with the settings in which the runs differ."""
    settings = ", ".join(f"{name} {getattr(point.run.record, name)}" for name in varying)
    return f"{point.name} ({settings})" if settings else point.name


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    from tlac.results.record import describe_part

    drawn = f", {entry['drawn']}".removeprefix(", all")
    return (
        "-" if entry["rank"] is None else str(entry["rank"]),
        describe_part(entry["dataset"], entry["split"]) + drawn,
        entry["protocol"],
        entry["backend"] + ("" if entry["is_complete"] else " (incomplete)"),
        entry["method"],
        entry["matching"],
        entry["encoder"],
        *("-" if entry[name] is None else str(entry[name]) for name in _DETAILS),
        str(entry["n"]),
        percent(entry["accuracy"]),
        interval(entry["accuracy_ci95"], dash="-"),
        percent(entry["coverage"]),
        dollars(entry["cost_per_correct_usd"]),
    )


def _show_ranking(entries: list[dict[str, Any]], form: str) -> None:
    from tlac.cli.tables import print_table

    if form == "json":
        print_json({"entries": entries})
    elif form == "csv":
        echo(_csv(entries), nl=False)
    elif form == "markdown":
        echo(_markdown(entries), nl=False)
    else:
        words, rows = _shown(entries, _SETTINGS)
        print_table(words, _NUMBERS, rows)


def _shown(entries: Sequence[dict[str, Any]], optional: Sequence[str]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The headings of words and the rows, without those of the `optional` settings that tell no runs apart."""
    shown = [heading not in optional or _is_telling(heading, entries) for heading in _WORDS]
    rows = [[*compress(row, shown), *row[len(_WORDS) :]] for row in map(_row, entries)]
    return tuple(compress(_WORDS, shown)), rows


def _is_telling(setting: str, entries: Sequence[dict[str, Any]]) -> bool:
    """Whether runs on one dataset differ in it."""
    if setting == "stage2_backend" and all(entry[setting] == entry["backend"] for entry in entries):
        # as a rule the first stage's backend is asked again
        return False
    parts = {(entry["dataset"], entry["split"]) for entry in entries}
    return len({(entry["dataset"], entry["split"], entry[setting]) for entry in entries}) > len(parts)


def _markdown(entries: list[dict[str, Any]]) -> str:

    words, rows = _shown(entries, _DETAILS)
    rule = ["---"] * len(words) + ["--:"] * len(_NUMBERS)
    lines = [f"| {' | '.join((*words, *_NUMBERS))} |", f"|{'|'.join(rule)}|"]
    lines += [f"| {' | '.join(map(escape_markdown, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _csv(entries: list[dict[str, Any]]) -> str:
    from tlac.analysis.leaderboard import flatten
    from tlac.results.table_files import write_csv

    rows = [
        {name: printable(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
        for row in flatten(entries)
    ]
    written = io.StringIO()
    write_csv(written, rows, rows[0])
    # as text files of this machine end their lines
    return written.getvalue().replace("\r\n", "\n")
