from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.cars import BACKEND
from tests.support.fakes import FakeLMM
from tlac.config.files import read_aliases
from tlac.evaluation.aliases import ask_aliases, read_names
from tlac.evaluation.prompter import BoundLMM
from tlac.types import LMMRequest, LMMResponse, Outcome


def reply(request: LMMRequest) -> str | LMMResponse:
    text = request.messages[0].parts[0].text
    if "hot dog" in text:
        return "1. Frankfurter\n- wiener\n\nhot dog\nFrankfurter."
    if "frog" in text:
        return LMMResponse(Outcome.REFUSED, "")
    return "airplane"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("car\nmotorcar", ("car", "motorcar")),
        ("* The Automobile\n2) auto", ("auto",)),
        ("a, b", ("a, b",)),
        ("This is a very long explanation of why there is no other name for this thing.", ()),
        ("\n".join("abcdefgh"), ("a", "b", "c", "d", "e")),
        ("...", ()),
    ],
)
def test_an_answer_is_read_line_by_line(text: str, names: tuple[str, ...]) -> None:
    assert read_names(text, "automobile") == names


def test_each_distinct_class_is_asked_about_once_without_an_image() -> None:
    lmm = FakeLMM(reply)
    classes = ("hot_dog", "airplane", "frog", "airplane")
    found = asyncio.run(ask_aliases(classes, BoundLMM(BACKEND, lmm), 2))
    assert found == {"hot_dog": ("Frankfurter", "wiener")}
    assert len(lmm.asked) == 3


def test_the_command_writes_a_file_that_bench_reads(
    tlac_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lmm = FakeLMM(lambda request: "car\nautomobile" if "automobile" in request.messages[0].parts[0].text else "?")
    monkeypatch.setattr("tlac.evaluation.runner.open_lmm", lambda backend: lmm)
    given = ("aliases", "--backend", "embedded", "--dataset", "cifar10-samples", "-o", tmp_path / "names.yaml")
    shown = tlac_command(*given)
    assert shown.code == 0, shown.err
    assert "1 further names of 1 of 10 classes" in shown.out
    assert read_aliases(tmp_path / "names.yaml") == {"automobile": ("car",)}
    assert len(lmm.asked) == 10
    assert tlac_command(*given, "--offline").code == 0
    assert len(lmm.asked) == 10
