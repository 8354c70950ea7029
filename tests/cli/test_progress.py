from __future__ import annotations

import io

from msgspec.structs import replace
from rich.console import Console

from tlac.cli.progress import LiveView, show_runs
from tlac.errors import RateLimitError, TransientError
from tlac.lmms.middleware.policy import CallActivity, Clock
from tlac.types import FailureKind, LMMResponse, Outcome, Transcript, Turn, Usage


def transcript(key: str, failure: FailureKind | None = None) -> Transcript:
    response = LMMResponse(Outcome.ANSWERED, "a car", usage=Usage(100, 5), cost_usd=0.5)
    return Transcript("a.png", "ab", 0, Turn("stage1", key, response), failure=failure)


def drawn(view: object) -> list[str]:
    """What the view shows at this moment in a terminal of 80 columns."""
    out = io.StringIO()
    Console(file=out, width=80).print(view)
    return out.getvalue().splitlines()


def test_the_view_tells_cells_cost_against_the_cap_and_errors_by_kind() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(3, 5.0, None, console) as view:
        with view.cell("first", 2) as progress:
            progress.advance(transcript("a"))
            progress.advance(transcript("b", "call"))
        view.go_on(1)
        with view.cell("a dataset with a long name, a backend with a longer one, tlac", 4) as progress:
            progress.advance(transcript("c", "call"))
            progress.advance(transcript("d", "sample"))
            progress.advance(transcript("d"))
            lines = drawn(view)
    assert all(len(line) <= 80 for line in lines)
    assert "3/4" in lines[0]
    assert "1 stored  210 tokens  $1.0000  2 failed" in lines[1]
    assert lines[2].startswith("1/3 runs done  $2.0000 of $5 spent  about ")
    assert lines[3] == "  failed: 2 call, 1 sample"


def test_what_nobody_was_asked_about_has_not_failed() -> None:
    out = io.StringIO()
    with show_runs(1, None, None, Console(file=out, width=80)) as view, view.cell("only", 3) as progress:
        progress.advance(transcript("a"))
        for _ in range(2):
            progress.advance(Transcript("b.png", None, 0, failure="stopped", reason="not asked: interrupted"))
    (line,) = out.getvalue().splitlines()
    assert line.startswith("only: 1/3  ")
    assert line.endswith("$0.5000  2 not asked")


def test_an_answer_without_a_price_is_not_free() -> None:
    free = transcript("a")
    assert free.stage1 is not None
    unpriced = replace(free, stage1=replace(free.stage1, response=replace(free.stage1.response, cost_usd=None)))
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(2, None, None, console) as view, view.cell("first", 3) as progress:
        progress.advance(unpriced)
        assert "tokens  cost unknown" in drawn(view)[1]
        assert drawn(view)[2].startswith("0/2 runs done  cost unknown")
        progress.advance(transcript("b"))
        assert "tokens  at least $0.5000" in drawn(view)[1]


class Time:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.s = 100.0

    def now(self) -> float:
        return self.s


def test_a_wait_and_the_retries_by_kind_are_in_the_view() -> None:
    time = Time()
    activity = CallActivity(clock=Clock(now=time.now))
    view = LiveView(Console(file=io.StringIO(), force_terminal=True, width=80), 1, None, activity, time.now)
    assert drawn(view) == ["starting  0:00"]
    with view.cell("only", 2) as progress:
        assert drawn(view)[2] == "  waiting for the first answers, 0:00 so far"
        activity.note_retry(RateLimitError("too many calls"), 35.0)
        activity.note_retry(TransientError("HTTP 503", kind="HTTP 503"), 1.0)
        time.s += 5
        assert drawn(view)[2] == "  waiting 30 s: too many calls; retries: 1 rate limit, 1 HTTP 503"
        time.s += 40
        progress.advance(transcript("a"))
        assert drawn(view)[2] == "  retries: 1 rate limit, 1 HTTP 503"


def test_without_a_terminal_a_wait_is_a_line_at_most_every_10_s() -> None:
    time, out = Time(), io.StringIO()
    activity = CallActivity(clock=Clock(now=time.now))
    view = LiveView(Console(file=out, width=80), 1, None, activity, time.now)
    for _ in range(120):
        view.print_line()
        time.s += 0.5
    with view.cell("only", 2):
        activity.note_wait(35.0, "limits.requests_per_minute")
        for _ in range(60):
            view.print_line()
            time.s += 0.5
    lines = out.getvalue().splitlines()
    assert lines[:6] == ["starting"] * 6
    assert [line.partition("waiting ")[2] for line in lines[6:]] == [
        "33 s: limits.requests_per_minute",
        "23 s: limits.requests_per_minute",
        "13 s: limits.requests_per_minute",
    ]


def test_a_run_warns_once_of_answers_that_are_cut() -> None:
    out = io.StringIO()
    cut = LMMResponse(Outcome.TRUNCATED, "", usage=Usage(100, 50, reasoning=40))
    with show_runs(1, None, None, Console(file=out, width=80)) as view, view.cell("cars", 30) as progress:
        for number in range(20):
            answer = transcript(str(number))
            if number % 2:
                answer = replace(answer, stage1=Turn("stage1", str(number), cut))
            progress.advance(answer)
    warnings = [line for line in out.getvalue().splitlines() if "were cut" in line]
    assert warnings == [
        "tlac: cars: 4 of 8 answers were cut by max_tokens; 80 % of the completion tokens were thoughts: "
        "raise max_tokens, or lower reasoning_effort"
    ]


def test_the_bar_takes_a_wide_terminal() -> None:
    view = LiveView(Console(file=io.StringIO(), force_terminal=True), 1)
    with view.cell("only", 1) as progress:
        progress.advance(transcript("a"))
        out = io.StringIO()
        Console(file=out, width=160).print(view)
    assert out.getvalue().count("━") >= 30


def test_one_run_has_no_line_on_all_runs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(1, None, None, console) as view, view.cell("only", 2) as progress:
        progress.advance(transcript("a"))
        lines = drawn(view)
    assert len(lines) == 2
    assert "1/2" in lines[0]


def test_runs_that_were_there_already_count_as_done_and_take_no_time() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(4, None, None, console) as view:
        view.go_on(3)
        with view.cell("last", 2):
            assert drawn(view)[2] == "3/4 runs done  $0.0000 spent"


def test_without_a_terminal_each_run_ends_in_a_plain_line() -> None:
    out = io.StringIO()
    with show_runs(2, None, None, Console(file=out, width=80)) as view:
        for title in ("first", "second"):
            with view.cell(title, 2) as progress:
                progress.advance(transcript("a"))
                progress.advance(transcript("a"))
    lines = out.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["[1/2] first: 2/2", "[2/2] second: 2/2"]
    assert lines[0].endswith("1 stored  105 tokens  $0.5000")
    assert "\x1b" not in out.getvalue()
