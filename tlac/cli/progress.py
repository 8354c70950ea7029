"""The live line of a run: done, rate, hits, tokens, cost, time left. Plain lines where there is no terminal.

Writes to stderr, so that stdout holds results alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tlac.types import Transcript

_PLAIN_EVERY_S = 10.0


class _Tally:
    """What a run has used so far; each distinct answer counts once."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.done = self.hits = self.failed = self.tokens = 0
        self.cost_usd = 0.0
        self._seen: set[str] = set()

    def add(self, transcript: Transcript) -> None:
        self.done += 1
        self.failed += transcript.failure is not None
        for turn in (transcript.stage1, transcript.stage2):
            if turn is None:
                continue
            if turn.response.from_store or turn.key in self._seen:
                self.hits += 1
                continue
            self._seen.add(turn.key)
            self.tokens += turn.response.usage.prompt + turn.response.usage.completion
            self.cost_usd += turn.response.cost_usd or 0.0

    def text(self) -> str:
        rate = self.done / max(time.monotonic() - self.started, 1e-3)
        failed = f"  {self.failed} failed" if self.failed else ""
        return f"{rate:.1f}/s  {self.hits} stored  {self.tokens:,} tokens  ${self.cost_usd:.4f}{failed}"


class _Live:
    """Redraws one line of a terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._tally = progress, task, _Tally()

    def advance(self, transcript: Transcript) -> None:
        """See tlac.gather.GatherProgress."""
        self._tally.add(transcript)
        self._progress.update(self._task, advance=1, used=self._tally.text())


class _Plain:
    """Prints a line now and then."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total, self._tally = console, title, total, _Tally()
        self._printed = time.monotonic()

    def advance(self, transcript: Transcript) -> None:
        """See tlac.gather.GatherProgress."""
        self._tally.add(transcript)
        now = time.monotonic()
        if self._tally.done == self._total or now - self._printed >= _PLAIN_EVERY_S:
            self._printed = now
            line = f"{self._title}: {self._tally.done}/{self._total}  {self._tally.text()}"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def show_progress(title: str, total: int, is_quiet: bool = False) -> Iterator[_Live | _Plain | None]:
    """What a run reports its samples to, for as long as it runs."""
    console = Console(stderr=True)
    if is_quiet:
        yield None
    elif not console.is_terminal:
        yield _Plain(console, title, total)
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[used]}", markup=False),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield _Live(progress, progress.add_task(title, total=total, used=""))
