"""`tlac cache`: look at the stored answers."""

from __future__ import annotations

from pathlib import Path

import click

from tlac.cli.options import json_option, open_store, print_json, store_option


@click.group()
def cache() -> None:
    """Look at the stored answers."""


@cache.command("path")
@store_option
def show_path(store: Path | None) -> None:
    """Print the folder of stored answers."""
    from tlac.store import store_folder

    click.echo(store or store_folder())


@cache.command("stats")
@store_option
@json_option
def show_stats(store: Path | None, as_json: bool) -> None:
    """Count the stored answers by backend, stage and outcome, and what they cost.

    \b
    Example:
      tlac cache stats --json
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    with open_store(store) as opened:
        stats = opened.stats()
        path = opened.path
    if as_json:
        print_json({"path": str(path), **asdict(stats)})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("backend", "stage", "outcome"):
        table.add_column(heading)
    for heading in ("answers", "USD"):
        table.add_column(heading, justify="right")
    for count in stats.counts:
        row = (count.backend, count.stage, count.outcome, f"{count.answers:,}", f"{count.cost_usd:.4f}")
        table.add_row(*row)
    Console().print(table)
    size_mb = stats.size_bytes / 1e6
    click.echo(f"{stats.answers:,} answers, {stats.embeddings:,} text embeddings, {size_mb:.1f} MB in {path}")
