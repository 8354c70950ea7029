"""`tlac reprice`: runs at today's prices."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.cli.options import json_option, open_store, print_json, store_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@store_option
@json_option
def reprice(runs: tuple[Path, ...], store: Path | None, as_json: bool) -> None:
    """Tell what the answers of RUNS would cost at today's prices, beside what they did cost. Asks no LMM.

    Today's prices are those of live calls, also for answers that came in batches. They come from the backend's file, or
    else from the table inside litellm, whose version is named.

    \b
    Example:
      tlac reprice runs/20300101-120000-caltech101-gemini-tlac
    """
    from dataclasses import asdict

    from tlac.runs.reprice import reprice as price

    with open_store(store) as opened:
        found = [price(run, opened) for run in runs]
    if as_json:
        print_json({"runs": [asdict(one) for one in found]})
        return
    for one in found:
        then, now = ("?" if cost is None else f"${cost:.4f}" for cost in (one.then_usd, one.now_usd))
        click.echo(f"{one.run}: {one.answers:,} answers, {then} by {one.then_table}, {now} by {one.now_table}")
