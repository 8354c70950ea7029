"""Runs whose answers come in batches from the emulator, and what they are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.emulated import PROVIDERS, Pictures, backend_at
from tests.support.emulator import Asked, Emulator, Fault, Reply, running_emulator
from tests.support.fakes import LetterEncoder
from tests.support.virtual_time import SkippingClock
from tlac.cache.store import Store
from tlac.config.prompts import load_prompts
from tlac.config.schemas import Backend, EncoderConfig, EncoderSpec
from tlac.engines.batch.engine import BatchEngine
from tlac.evaluation.runner import RunConfig, Runner
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import CallPolicy
from tlac.results.record import Run
from tlac.types import Outcome

INTERFACES = ("gpt-4o", "claude", "gemini")


def colours(asked: Asked) -> Reply | Fault:
    """Another answer for about every third picture; some name a class, others leave stage 2 a choice."""
    if asked.schema:
        return Reply('{"class_index": "2"}' if "ruddy" in asked.text else '{"class_index": "1"}')
    return Reply(("a red car", "something ruddy", "an ancient vehicle")[sum(asked.images[0]) % 3])


@contextmanager
def batching_emulator() -> Iterator[Emulator]:
    """An emulator of its own for a test: its batches are counted."""
    with running_emulator(colours) as emulator:
        yield emulator


def run_spec(backend: Backend, size: int = 9, method: str = "tlac") -> RunConfig:
    encoder = EncoderConfig("letters", "letters", EncoderSpec(adapter="letters", model="letters"))
    return RunConfig(backend, backend, Pictures(size), method, encoder, load_prompts("default"), "ladder")


class Party:
    """One emulator, one provider, one store, and runs of the same spec over it."""

    def __init__(self, emulator: Emulator, name: str, folder: Path) -> None:
        self.emulator = emulator
        self.backend = backend_at(emulator, name)
        self.provider = PROVIDERS[name]
        self.folder = folder
        self.said: list[str] = []
        self.clock = SkippingClock()

    def policy(self, budget_usd: float | None = None) -> CallPolicy:
        budget = None if budget_usd is None else Budget(budget_usd)
        return CallPolicy(budget, clock=self.clock.clock(), on_message=self.said.append)

    def live(self, spec: RunConfig | None = None) -> Run:
        with Store(self.folder / "live-store") as store:
            bench = Runner(store, policy=self.policy())
            return bench.run(spec or run_spec(self.backend), self.folder / "live")

    def batched(
        self, spec: RunConfig | None = None, budget_usd: float | None = None, retry: tuple[Outcome, ...] = ()
    ) -> Run:
        with Store(self.folder / "store") as store:
            policy = self.policy(budget_usd)
            bench = Runner(store, policy=policy, retry=retry, engine=BatchEngine(store, policy, retry))
            return bench.run(spec or run_spec(self.backend), self.folder / "runs")

    @property
    def submitted(self) -> list[int]:
        """The sizes of the batches that the provider took, in turn."""
        return [batch.size for batch in self.emulator.shelves[self.provider].batches]

    @property
    def most_often(self) -> int:
        """How often the question that was submitted most often was submitted."""
        batches = self.emulator.shelves[self.provider].batches
        counts = Counter(repr(asked.body) for batch in batches for asked in batch.asked.values())
        return max(counts.values(), default=0)


def predictions(run: Run) -> bytes:
    return (run.folder / "predictions.jsonl").read_bytes()


def use_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tlac.evaluation.runner.open_encoder", lambda _config: LetterEncoder())


def same_but_times(run: Run) -> object:
    return replace(run.record, run="", created_at="", wall_s=0.0)


def start(port: int, name: str, folder: str) -> None:
    """A batched run in a process of its own, against an emulator in another."""
    emulator = Emulator()
    emulator.port = port
    with pytest.MonkeyPatch.context() as patch:
        use_letters(patch)
        Party(emulator, name, Path(folder)).batched()
