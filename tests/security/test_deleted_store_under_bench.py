"""A store that is deleted, or exchanged for something else, under a whole run: no paid answer goes without a word."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.emulator import Asked, Emulator, Reply, running_emulator
from tests.support.fakes import Shown, make_png
from tlac.cache.verify import verify_store

IMAGES = 12


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with running_emulator() as emulator:
        monkeypatch.setenv("GEMINI_API_BASE", emulator.base("gemini"))
        monkeypatch.setenv("GEMINI_API_KEY", "a-key-of-nobody")
        yield emulator


@pytest.fixture
def bench(tlac_command: Callable[..., Shown], tmp_path: Path) -> Callable[..., Shown]:
    for number in range(IMAGES):
        file = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_png(number))
    dataset = f"folder:{tmp_path / 'photos'}"
    return lambda *more: tlac_command(
        *("bench", "--backend", "gemini", "--encoder", "minilm", "--dataset", dataset, "--method", "slac"),
        *("--concurrency", "4", "--json", *more),
    )


def at_the(number: int, act: Callable[[], None]) -> Callable[[Asked], Reply]:
    """Answers; something happens before the answer of that number."""
    count = itertools.count(1)

    def answer(_: Asked) -> Reply:
        if next(count) == number:
            act()
        return Reply("a cat")

    return answer


@pytest.mark.parametrize("number", [1, 6, IMAGES])
@pytest.mark.parametrize("part", ["", "responses/cache.db"])
def test_what_was_deleted_is_put_back_and_said(
    server: Emulator, bench: Callable[..., Shown], part: str, number: int
) -> None:
    place = Path(os.environ["TLAC_CACHE_DIR"]) / part
    server.script = at_the(number, lambda: shutil.rmtree(place) if place.is_dir() else place.unlink())
    shown = bench()
    assert shown.code == 0
    assert "was deleted or exchanged while it was in use; all that it held was put back" in shown.err
    again = bench("--offline")
    assert again.code == 0
    (summary,) = json.loads(again.out)["runs"]
    assert summary["calls"]["stage1"] == {"asked": 0, "from_store": IMAGES}
    assert verify_store(Path(os.environ["TLAC_CACHE_DIR"])).problems == ()


def test_what_can_not_be_put_back_ends_the_run_and_is_said(server: Emulator, bench: Callable[..., Shown]) -> None:
    folder = Path(os.environ["TLAC_CACHE_DIR"])

    def exchange() -> None:
        is_done = False
        while not is_done:
            # the run may put it back in between
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(IsADirectoryError):
                is_done = folder.write_text("in its place") > 0

    server.script = at_the(6, exchange)
    shown = bench()
    assert (shown.code, shown.out) == (1, "")
    assert "was deleted while it was in use, and can't be put back" in shown.err
    assert "what it held is lost once this process ends" in shown.err
