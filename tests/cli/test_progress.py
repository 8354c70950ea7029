from __future__ import annotations

import io

from rich.console import Console

from tlac.cli.progress import show_runs
from tlac.types import Failure, LMMResponse, Outcome, Transcript, Turn, Usage


def transcript(key: str, failure: Failure | None = None) -> Transcript:
    response = LMMResponse(Outcome.ANSWERED, "a car", usage=Usage(100, 5), cost_usd=0.5)
    return Transcript("a.png", "ab", 0, Turn("stage1", key, response), failure=failure)


def drawn(view: object) -> list[str]:
    """What the view shows at this moment in a terminal of 80 columns."""
    out = io.StringIO()
    Console(file=out, width=80).print(view)
    return out.getvalue().splitlines()


def test_the_view_tells_cells_cost_against_the_cap_and_errors_by_kind() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(3, 5.0, console) as view:
        with view.cell("first", 2) as progress:
            progress.advance(transcript("a"))
            progress.advance(transcript("b", Failure("call", "time-out")))
        view.go_on(1)
        with view.cell("a dataset with a long name, a backend with a longer one, tlac", 4) as progress:
            progress.advance(transcript("c", Failure("call", "time-out")))
            progress.advance(transcript("d", Failure("sample", "no image")))
            progress.advance(transcript("d"))
            lines = drawn(view)
    assert all(len(line) <= 80 for line in lines)
    assert "3/4" in lines[0]
    assert "1 stored  210 tokens  $1.0000  2 failed" in lines[1]
    assert lines[2].startswith("1/3 runs done  $2.0000 of $5 spent  about ")
    assert lines[3] == "  failed: 2 call, 1 sample"


def test_one_run_has_no_line_on_all_runs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(1, None, console) as view, view.cell("only", 2) as progress:
        progress.advance(transcript("a"))
        lines = drawn(view)
    assert len(lines) == 2
    assert "1/2" in lines[0]


def test_runs_that_were_there_already_count_as_done_and_take_no_time() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_runs(4, None, console) as view:
        view.go_on(3)
        with view.cell("last", 2):
            assert drawn(view)[2] == "3/4 runs done  $0.0000 spent"


def test_without_a_terminal_each_run_ends_in_a_plain_line() -> None:
    out = io.StringIO()
    with show_runs(2, None, Console(file=out, width=80)) as view:
        for title in ("first", "second"):
            with view.cell(title, 2) as progress:
                progress.advance(transcript("a"))
                progress.advance(transcript("a"))
    lines = out.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["[1/2] first: 2/2", "[2/2] second: 2/2"]
    assert lines[0].endswith("1 stored  105 tokens  $0.5000")
    assert "\x1b" not in out.getvalue()
