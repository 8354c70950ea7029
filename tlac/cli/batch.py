"""`tlac batch`: the batches that `tlac bench --batch` submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlac.cli import options
from tlac.cli.options import echo, open_store, print_json, say
from tlac.errors import IncompleteRunError, TlacError, UsageError
from tlac.interfaces import UnknownBatchError
from tlac.runtime.formatting import duration

if TYPE_CHECKING:
    from tlac.engines.batch.journal import BatchRecord
    from tlac.engines.batch.manager import BatchManager


@click.group()
def batch() -> None:
    """Look after the batches that `tlac bench --batch` submitted: what is on disk is enough to go on.

    \b
    Examples:
      tlac bench --backend gpt-4o --dataset cifar10-samples --batch
      tlac batch status
      tlac batch resume
      tlac batch cancel --all
      tlac batch forget 20261125T154815-fbd2417d
    """


@batch.command()
@options.store_option
@options.json_option
def status(store: Path | None, as_json: bool) -> None:
    """Ask the providers how far the batches are, and list them, oldest first. Changes nothing.

    \b
    Examples:
      tlac batch status
      tlac batch status --store shared-store --json
    """
    from tlac.runtime import aio

    with open_store(store) as opened:
        manager = _manager(opened)
        rows = [_row(record, aio.run(_state(manager, record))) for record in manager.journal.records()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        echo(f"no batches in {manager.journal.folder.parent}")
    for row in rows:
        echo(
            f"{row['id']}  {row['backend']}  {row['requests']:,} requests  {row['state']}  {duration(row['age_s'])} old"
        )


@batch.command()
@options.store_option
def resume(store: Path | None) -> None:
    """Store the answers of the batches that are over; then the same `tlac bench` command goes on, and asks for less.

    Exit code 3 while batches are still at work.

    \b
    Examples:
      tlac batch resume
      tlac batch resume --store shared-store
    """
    from tlac.runtime import aio

    with open_store(store) as opened:
        manager = _manager(opened)
        records = manager.journal.open_records()
        if not records:
            echo(f"no batch is under way in {manager.journal.folder.parent}")
        # one that can't be asked about leaves the others as they are
        left = sum(aio.run(_advance(manager, record)) for record in records)
    if left:
        raise IncompleteRunError(f"{left} of {len(records)} batches are still open: `tlac batch resume` goes on")


@batch.command()
@click.argument("tag", metavar="[ID]", required=False)
@click.option("--all", "all_of_them", is_flag=True, help="Every batch that is under way.")
@options.store_option
def cancel(tag: str | None, all_of_them: bool, store: Path | None) -> None:
    """Have the rest of a batch not answered. What was answered before is paid for: `tlac batch resume` stores it.

    A batch that the provider does not know any more is given up, so that its requests can be submitted anew.

    \b
    Examples:
      tlac batch cancel 20261125T154815-fbd2417d
      tlac batch cancel --all
    """
    from tlac.runtime import aio

    if (tag is None) == (not all_of_them):
        raise UsageError("name one batch, as `tlac batch status` lists them, or give --all")
    with open_store(store) as opened:
        manager = _manager(opened)
        records = manager.journal.open_records() if tag is None else [manager.journal.find(tag)]
        # as with `resume`, one that fails leaves the others
        left = sum(not aio.run(_cancel(manager, record)) for record in records)
    if left:
        raise IncompleteRunError(f"{left} of {len(records)} batches could not be cancelled")


@batch.command()
@click.argument("tag", metavar="ID")
@options.store_option
def forget(tag: str, store: Path | None) -> None:
    """Give a batch up whose results can't be had any more, so that its requests can be submitted anew.

    Nothing is asked of the provider, who may have billed the batch. One that is still at work goes on there: cancel it
    before.

    \b
    Examples:
      tlac batch forget 20261125T154815-fbd2417d
    """
    from tlac.runtime import aio

    with open_store(store) as opened:
        manager = _manager(opened)
        echo(f"{tag}: {aio.run(_forget(manager, manager.journal.find(tag)))}")


async def _forget(manager: BatchManager, record: BatchRecord) -> str:
    async with manager.hold():
        return await manager.forget(record)


def _manager(store: Any) -> BatchManager:
    from tlac.engines.batch.manager import BatchManager

    return BatchManager(store, on_message=say)


async def _state(manager: BatchManager, record: BatchRecord) -> str:
    if not record.is_open:
        failed = f", {len(record.failed):,} failed" if record.failed else ""
        return f"{record.status}, {record.answered:,} answered{failed}"
    try:
        status = await manager.ask(record)
        return f"{status.state} ({status.reason})" if status.reason else status.state
    except TlacError as error:
        return f"unknown: {error}"


async def _advance(manager: BatchManager, record: BatchRecord) -> bool:
    """Whether the batch is still open."""
    try:
        found, status = await manager.advance(record)
    except TlacError as error:
        echo(f"{record.tag}: {error}")
        if isinstance(error, UnknownBatchError):
            echo(f"{record.tag}: `tlac batch forget {record.tag}` gives it up")
        return True
    if found.status == "collected":
        echo(f"{found.tag}: {found.answered:,} answers stored")
        if found.failed:
            reason = next(iter(found.failed.values()))
            echo(f"{found.tag}: {len(found.failed):,} failed ({reason}); the same tlac bench asks them again")
    elif found.is_open:
        echo(f"{found.tag}: {(status.reason or status.state) if status else 'not found yet'}")
        if status and status.reason:
            echo(f"{found.tag}: `tlac batch forget {found.tag}` gives it up")
    return found.is_open


async def _cancel(manager: BatchManager, record: BatchRecord) -> bool:
    """Whether nothing more of the batch will be answered."""
    if not record.is_open:
        echo(f"{record.tag}: {record.status} already")
        return True
    try:
        async with manager.hold():
            found, status = await manager.cancel(record)
    except TlacError as error:
        echo(f"{record.tag}: {error}")
        return False
    if not found.is_open:
        echo(f"{found.tag}: {found.status}")
    elif status is not None and status.is_over:
        echo(f"{found.tag}: {status.state} already; `tlac batch resume` stores its answers, `forget` gives it up")
    else:
        echo(f"{found.tag}: cancelled; `tlac batch resume` stores what was answered before")
    return True


def _row(record: BatchRecord, state: str) -> dict[str, Any]:
    return {
        "id": record.tag,
        "backend": record.backend,
        "model": record.spec.model,
        "job": record.job,
        "requests": record.requests,
        "status": record.status,
        "state": state,
        "age_s": round(record.age_s),
        "answered": record.answered,
        "failed": len(record.failed),
        "cost_usd": record.cost_usd,
    }
