"""The live view of a command's runs: cells done, the current one, rate, cost against the cap, errors, time left.

Plain lines where there is no terminal, so often that nobody takes a wait for a hang. Writes to stderr, so that stdout
holds results alone.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tlac.evaluation.collect import describe_cut
from tlac.runtime.formatting import printable
from tlac.types import LMMResponse, Outcome, Transcript

if TYPE_CHECKING:
    # it loads an HTTP client
    from tlac.datasets.prepare.download import OnBytes
    from tlac.lmms.middleware.policy import CallActivity

_PLAIN_EVERY_S = 10.0
# the first line says that something is going on; what is done sooner needs none
_FIRST_LINE_S = 2.0
_FIRST_ANSWERS = 8


def _cost(cost_usd: float, is_priced: bool) -> str:
    """What was spent, as far as it is known: an answer without a price is not free."""
    if is_priced:
        return f"${cost_usd:.4f}"
    return f"at least ${cost_usd:.4f}" if cost_usd else "cost unknown"


class Tally:
    """What one run has used so far; each distinct answer counts once."""

    def __init__(self, title: str, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.title, self.total, self._now = title, total, now
        self.started = now()
        self.is_warned = False
        self.done = self.left = self.hits = self.tokens = 0
        self.cost_usd, self.is_priced = 0.0, True
        self.failures: Counter[str] = Counter()
        self.answers, self.cut = 0, list[LMMResponse]()
        self._seen: set[str] = set()

    def add(self, transcript: Transcript) -> None:
        """Count one more sample: one that nobody was asked about, since the run was stopped, is not done."""
        if transcript.failure == "stopped":
            self.left += 1
            return
        self.done += 1
        if transcript.failure is not None:
            self.failures[transcript.failure] += 1
        for turn in transcript.turns:
            if turn.response.from_store or turn.key in self._seen:
                self.hits += 1
                continue
            self._seen.add(turn.key)
            self.answers += 1
            if turn.response.outcome is Outcome.TRUNCATED:
                self.cut.append(turn.response)
            self.tokens += turn.response.usage.prompt + turn.response.usage.completion
            self.cost_usd += turn.response.cost_usd or 0.0
            self.is_priced &= turn.response.cost_usd is not None

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.done / max(self._now() - self.started, 1e-3)

    def text(self) -> str:
        """What was used, in one line."""
        failed = sum(self.failures.values())
        shown = f"  {failed} failed" if failed else ""
        shown += f"  {self.left} not asked" if self.left else ""
        cost = _cost(self.cost_usd, self.is_priced)
        return f"{self.rate:.1f}/s  {self.hits} stored  {self.tokens:,} tokens  {cost}{shown}"


class LiveView:
    """What a command's runs report to, one run ("cell") after the other, `cells` in all.

    `cap_usd` is the hard cap on their cost, `activity` says what calls wait for. Open it with `show_runs`.
    """

    def __init__(
        self,
        console: Console,
        cells: int,
        cap_usd: float | None = None,
        activity: CallActivity | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._cells, self._cap_usd = console, cells, cap_usd
        self._activity, self._now = activity, now
        # asks the environment anew each time
        self._is_live = console.is_terminal
        self._started = now()
        # when the last plain line was printed, as if one had been just long enough ago for the first to be due soon
        self._printed = self._started - _PLAIN_EVERY_S + _FIRST_LINE_S
        self._over: list[Tally] = []
        self._tally: Tally | None = None
        self._place = 0

    def go_on(self, place: int) -> None:
        """The first `place` runs are done, some perhaps without having been asked for anything."""
        self._place = place

    @contextmanager
    def cell(self, title: str, total: int) -> Iterator[LiveView]:
        """One run of `total` samples: what it reports its samples to, for as long as it runs."""
        self._tally = Tally(title, total, self._now)
        try:
            yield self
        finally:
            self._over.append(self._tally)
            self._tally = None
            self._place += 1

    def advance(self, transcript: Transcript) -> None:
        """See tlac.evaluation.collect.CollectProgress."""
        tally = self._tally
        if tally is None:
            return
        tally.add(transcript)
        # of the first few answers, and once: where all are cut, asking stops by itself
        if tally.answers >= _FIRST_ANSWERS and not tally.is_warned:
            tally.is_warned = True
            if len(tally.cut) >= tally.answers / 4:
                warning = f"tlac: {tally.title}: {describe_cut(len(tally.cut), tally.answers, tally.cut)}"
                self._console.print(warning, soft_wrap=True, markup=False, highlight=False)
        if tally.done + tally.left == tally.total:
            self.print_line(is_due=True)

    def print_line(self, is_due: bool = False) -> None:
        """Where there is no terminal: one line on how far things are, at most every 10 s unless it `is_due`."""
        now, tally = self._now(), self._tally
        if self._is_live or not (is_due or now - self._printed >= _PLAIN_EVERY_S):
            return
        self._printed = now
        place = f"[{self._place + 1}/{self._cells}] " if self._cells > 1 else ""
        done = f"{tally.title}: {tally.done}/{tally.total}  {tally.text()}" if tally else "starting"
        waiting = f"  {self._waiting()}" if self._waiting() else ""
        self._console.print(f"{place}{done}{waiting}", soft_wrap=True, markup=False, highlight=False)

    def _waiting(self) -> str:
        """What is waited for and how long, and the retries so far by kind; empty where neither is."""
        found = []
        if self._activity is not None:
            left_s = self._activity.waits_until - self._activity.clock.now()
            if left_s >= 1:
                found.append(f"waiting {left_s:.0f} s: {printable(self._activity.reason)}")
            if retries := self._activity.retries.most_common():
                found.append(f"retries: {', '.join(f'{count:,} {kind}' for kind, count in retries)}")
        if not found and self._tally is not None and not self._tally.done:
            found.append(f"waiting for the first answers, {_clock(self._now() - self._tally.started)} so far")
        return "; ".join(found)

    def __rich__(self) -> Group:
        lines: list[Table | Text] = []
        if self._tally is not None:
            lines.append(_bar(self._tally))
            lines.append(_line(f"  {self._tally.text()}"))
        else:
            lines.append(_line(f"starting  {_clock(self._now() - self._started)}"))
        if self._cells > 1 or self._cap_usd is not None:
            lines.append(_line(self._whole()))
        if failures := self._failures():
            lines.append(_line(f"  failed: {failures}"))
        if waiting := self._waiting():
            lines.append(_line(f"  {waiting}"))
        return Group(*lines)

    def _whole(self) -> str:
        """All runs together."""
        tallies = list(self._tallies())
        cost = _cost(sum(tally.cost_usd for tally in tallies), all(tally.is_priced for tally in tallies))
        cap = f" of ${self._cap_usd:g}" if self._cap_usd is not None else ""
        spent = f"{cost}{cap} spent" if "$" in cost else cost
        left = self._left_s()
        shown = f"  about {_clock(left)} left" if left is not None else ""
        return f"{self._place}/{self._cells} runs done  {spent}{shown}"

    def _left_s(self) -> float | None:
        """Runs take about as long as those before them that asked; None until something is done."""
        current = self._tally.done / self._tally.total if self._tally and self._tally.total else 0.0
        asked = len(self._over) + current
        left = self._cells - self._place - current
        return (self._now() - self._started) * left / asked if asked > 0 else None

    def _failures(self) -> str:
        counts: Counter[str] = Counter()
        for tally in self._tallies():
            counts.update(tally.failures)
        return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())

    def _tallies(self) -> list[Tally]:
        return [*self._over, *([self._tally] if self._tally is not None else [])]


def _bar(tally: Tally) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    # the bar takes what a wide terminal has to give
    row.add_column(no_wrap=True, ratio=1, min_width=16)
    for _ in range(2):
        row.add_column(no_wrap=True)
    left = (tally.total - tally.done) / tally.rate if tally.done else None
    clock = _clock(left) if left is not None else "-:--"
    bar = ProgressBar(total=max(tally.total, 1), completed=tally.done)
    row.add_row(Text(tally.title), bar, Text(f"{tally.done}/{tally.total}"), Text(clock))
    return row


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def show_runs(
    cells: int,
    cap_usd: float | None = None,
    activity: CallActivity | None = None,
    console: Console | None = None,
) -> Iterator[LiveView]:
    """The live view of `cells` runs, for as long as they take; see `LiveView`."""
    console = console or Console(stderr=True)
    view = LiveView(console, cells, cap_usd, activity)
    with Live(view, console=console, transient=True, refresh_per_second=5) if console.is_terminal else _lines_of(view):
        yield view


@contextmanager
def _lines_of(view: LiveView) -> Iterator[None]:
    """Have a view print its lines also while nothing happens that it would be told of."""
    is_over = threading.Event()

    def tick() -> None:
        while not is_over.wait(0.5):
            view.print_line()

    ticking = threading.Thread(target=tick, name="tlac-progress", daemon=True)
    ticking.start()
    try:
        yield
    finally:
        is_over.set()
        ticking.join()


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


@contextmanager
def show_images(name: str, is_quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while a dataset's images are looked at, where there is a terminal."""
    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as progress:
        yield partial(_bars(progress), f"{name}: images")


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
