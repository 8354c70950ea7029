"""`tlac cache`: look at, check, prune and exchange the stored answers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import click

from tlac.cli.cache_explain import explain_sample
from tlac.cli.cache_packs import export_answers, import_answers
from tlac.cli.options import json_option, open_store, print_json, store_option
from tlac.errors import StoreError


@click.group()
def cache() -> None:
    """Look at, check, prune and exchange the stored answers."""


cache.add_command(export_answers)
cache.add_command(import_answers)
cache.add_command(explain_sample)


@cache.command("path")
@store_option
def show_path(store: Path | None) -> None:
    """Print the folder of stored answers."""
    from tlac.store import store_folder

    click.echo(store or store_folder())


@cache.command("stats")
@click.option("--dataset", help="Count only answers about this dataset's images and classes; reads every image.")
@click.option("--data", "root", type=click.Path(path_type=Path), help="Folder that holds the datasets' folders.")
@store_option
@json_option
def show_stats(dataset: str | None, root: Path | None, store: Path | None, as_json: bool) -> None:
    """Count the stored answers by backend, stage and outcome, and what they cost.

    \b
    Examples:
      tlac cache stats --json
      tlac cache stats --dataset cifar10-samples
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from tlac.asking.recall import concerns
    from tlac.config import load_dataset_config
    from tlac.registry import open_dataset

    about = concerns(open_dataset(load_dataset_config(dataset, root))) if dataset else None
    with open_store(store) as opened:
        stats = opened.stats(about)
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


@cache.command("verify")
@store_option
@json_option
def verify(store: Path | None, as_json: bool) -> None:
    """Check every row of the store: it parses, its key is the digest of its request, the database is sound.

    Nothing in the store is executed or changed. Exits with 1 when there is a problem; `tlac cache prune
    --damaged` removes the rows that are named.

    \b
    Example:
      tlac cache verify --store /data/answers
    """
    from dataclasses import asdict

    from tlac.store import store_folder, verify_store

    folder = store or store_folder()
    found = verify_store(folder)
    if as_json:
        print_json({"path": str(folder), **asdict(found)})
    else:
        for problem in found.problems:
            row = f", row {problem.row}" if problem.row is not None else ""
            click.echo(f"{problem.database or folder}{row}: {problem.problem}")
        click.echo(f"{found.answers:,} answers and {found.embeddings:,} text embeddings are sound")
    if found.problems:
        raise StoreError(f"{folder}: {len(found.problems)} problems; `tlac cache prune --damaged` removes named rows")


@cache.command("prune")
@click.option("--backend", help="Forget this backend's answers.")
@click.option("--outcome", type=click.Choice(["answered", "refused", "empty", "truncated"]), help="Of this outcome.")
@click.option("--older-than", type=click.IntRange(min=0), metavar="DAYS", help="Given more than so many days ago.")
@click.option("--damaged", is_flag=True, help="Remove the rows that `tlac cache verify` names, and nothing else.")
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten; forget nothing.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@store_option
def prune_answers(
    backend: str | None, outcome: str | None, older_than: int | None, store: Path | None, **flags: bool
) -> None:
    """Forget stored answers. They are paid for: asks first.

    \b
    Examples:
      tlac cache prune --outcome refused --dry-run
      tlac cache prune --backend gpt-4o --older-than 365
    """
    from tlac.store import Selection, prune, prune_damaged
    from tlac.types import Outcome

    with open_store(store) as opened:
        if flags["damaged"]:
            if backend or outcome or older_than is not None:
                raise click.UsageError("--damaged goes alone: it removes what can't be read, whoever gave it")
            rows = prune_damaged(opened, is_dry_run=True)
            if rows and _is_meant(f"{rows:,} damaged rows", flags):
                prune_damaged(opened)
            return
        limit = None if older_than is None else datetime.now(timezone.utc) - timedelta(days=older_than)
        selection = Selection(backend, Outcome(outcome) if outcome else None, limit)
        found = prune(opened, selection, is_dry_run=True)
        what = f"{found.answers:,} answers that cost ${found.cost_usd:.4f}"
        if found.answers == 0:
            click.echo("nothing to forget")
        elif _is_meant(what, flags):
            prune(opened, selection)


def _is_meant(what: str, flags: dict[str, bool]) -> bool:
    if flags["dry_run"]:
        click.echo(f"would forget {what}")
        return False
    if not flags["yes"]:
        click.confirm(f"forget {what}?", abort=True)
    click.echo(f"forgetting {what}")
    return True
