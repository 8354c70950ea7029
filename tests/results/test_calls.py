from __future__ import annotations

from pathlib import Path

import pytest

from tlac.errors import InputError
from tlac.results.usage import CallFacts, SampleCalls, encode_calls, facts_of, read_calls
from tlac.types import LMMResponse, Outcome, Transcript, Turn, Usage


def test_what_an_answer_took_is_written_and_read_back(tmp_path: Path) -> None:
    response = LMMResponse(Outcome.ANSWERED, "a car", usage=Usage(30, 4), cost_usd=0.5, latency_s=1.25, from_store=True)
    found = tuple(facts_of([Transcript("a.png", "ab", 0, Turn("stage1", "k", response)), Transcript("b.png", None, 1)]))
    assert found == (
        SampleCalls("a.png", (CallFacts("stage1", "k", 1.25, 0.5, 30, 4, True),)),
        SampleCalls("b.png"),
    )
    (tmp_path / "calls.jsonl").write_bytes(b"".join(encode_calls(found)))
    assert (tmp_path / "calls.jsonl").read_bytes().count(b"\n") == 2
    assert read_calls(tmp_path) == found


def test_a_run_without_the_file_has_no_times(tmp_path: Path) -> None:
    assert read_calls(tmp_path) == ()


def test_a_broken_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "calls.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"calls\.jsonl: line 1: .*remove it"):
        read_calls(tmp_path)
