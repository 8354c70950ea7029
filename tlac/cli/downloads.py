"""The live view of downloads: a bar a file, with bytes, speed and the time left.

Plain lines where there is no terminal. Writes to stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tlac.preparing.downloading import OnBytes

_PLAIN_EVERY_S = 10.0


@contextmanager
def show_downloads(is_quiet: bool = False, console: Console | None = None) -> Iterator[OnBytes | None]:
    """What downloads report to, for as long as they take; nothing where it is to be quiet."""
    console = console or Console(stderr=True)
    if is_quiet:
        yield None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            yield _bars(progress)
    else:
        yield _lines(console)


def _bars(progress: Progress) -> OnBytes:
    tasks = {}

    def on_bytes(name: str, done: int, total: int | None) -> None:
        if name not in tasks:
            # what was there before counts as done, but not for the speed
            tasks[name] = progress.add_task(name, total=total, completed=done)
        progress.update(tasks[name], completed=done, total=total)

    return on_bytes


def _lines(console: Console) -> OnBytes:
    printed: dict[str, float] = {}

    def on_bytes(name: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if name in printed and done != total and now - printed[name] < _PLAIN_EVERY_S:
            return
        printed[name] = now
        size = f" of {decimal(total)}" if total is not None else ""
        console.print(f"{name}: {decimal(done)}{size}", soft_wrap=True, markup=False, highlight=False)

    return on_bytes
