"""`tlac frontier` and `tlac recommend`: accuracy against cost, and what fits a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli.options import json_option, print_json
from tlac.errors import InputError, UsageError

if TYPE_CHECKING:
    from tlac.comparing.frontier import Point
    from tlac.runs.folder import Run

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
    from tlac.comparing.frontier import find_frontiers

    frontiers = find_frontiers(_read(places))
    if not frontiers:
        raise InputError("no complete run with labels among these: a frontier needs some")
    if as_json:
        print_json({"frontiers": [[_document(point) for point in points] for points in frontiers]})
        return
    for points in frontiers:
        _print(points)


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
    from tlac.comparing.frontier import find_frontiers
    from tlac.comparing.frontier import recommend as pick

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
                "chosen": _document(found.chosen),
                "cost_usd": found.cost_usd,
                "cheaper": [_document(point) for point in found.cheaper],
                "next_better": _document(found.next_better) if found.next_better else None,
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
    from tlac.runs.folder import find_runs, read_run

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


def _document(point: Point) -> dict[str, Any]:
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


def _print(points: Sequence[Point]) -> None:
    from rich.console import Console

    from tlac.cli.tables import make_table
    from tlac.comparing.matrix import describe_part

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
