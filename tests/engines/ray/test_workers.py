"""A worker without Ray: what it makes of a shard, and what it tells the limiter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.support.cars import SPEC, Cars
from tests.support.fakes import FakeLMM
from tlac.cache.serialization import StoredAnswer
from tlac.engines.ray.job import SHARD, RayJob, SerializedError, without_samples
from tlac.engines.ray.limiter import Block
from tlac.engines.ray.logs import FailureNote, logs_in, read_log
from tlac.engines.ray.tables import write_samples
from tlac.engines.ray.workers import Stage1Worker
from tlac.types import LMMRequest, LMMResponse, Outcome, Sample, Usage

# a worker is given its images as bytes; these are more than the answers after which asking stops
CONFIG = replace(SPEC, method="slac", dataset=Cars(size=20))
SAMPLES = list(CONFIG.samples)


def remote(**answers: Any) -> Any:
    """An actor that gives these answers; a function is called, and what it gives is waited for."""
    return SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in answers.items()})


class Scene:
    """A worker over one shard; `stopped` and `said` are what it told the limiter."""

    def __init__(self, folder: Path, samples: Sequence[Sample] = SAMPLES, concurrency: int = 1) -> None:
        pyarrow = pytest.importorskip("pyarrow", reason="it comes with the extra: pip install 'tlac[ray]'")
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.stopped: list[SerializedError] = []
        self.said: list[str] = []
        self.shards = self.samples = 0

        async def register(_worker: str) -> int:
            return 0

        async def trade(_worker: str, block: bytes) -> list[tuple[int, None]]:
            told = msgspec.msgpack.decode(block, type=Block)
            self.shards += told.shards
            self.samples += told.samples
            self.said += told.messages
            self.stopped += [told.stop] if told.stop else []
            return [(number, None) for number, *_ in told.wanted]

        async def find(keys: list[str]) -> list[LMMResponse | None]:
            return [None] * len(keys)

        limiter = remote(register=register, trade=trade)
        job = RayJob(without_samples(CONFIG), self.logs, concurrency)
        (self.shard,) = write_samples(samples, folder / "samples", 4 * len(samples), 1)
        self.table = pyarrow.table({SHARD: [str(self.shard)]})
        self.worker = Stage1Worker(job, limiter, remote(find=find))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[LMMRequest], Any]], Scene]:
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: "w"))

    def make(reply: Callable[[LMMRequest], Any], *given: Any) -> Scene:
        monkeypatch.setattr("tlac.engines.ray.workers.open_lmm", lambda _: FakeLMM(reply))
        return Scene(tmp_path, *given)

    return make


def test_a_shard_is_asked_about_logged_and_given_back_in_its_order(scene: Any) -> None:
    made = scene(lambda _: "a red car")
    rows = made.worker(made.table).to_pylist()
    assert [row["sample"] for row in rows] == [sample.id for sample in SAMPLES]
    assert {row["answer"] for row in rows} == {"a red car"}
    (log,) = logs_in(made.logs)
    assert len([kept for kept in read_log(log) if isinstance(kept, StoredAnswer)]) == len(rows) == 20
    assert (made.shards, made.samples, made.stopped, made.said) == (1, 20, [], [])


def test_images_that_are_the_same_are_asked_about_once_also_at_the_same_time(scene: Any) -> None:
    asked: list[LMMRequest] = []

    def reply(request: LMMRequest) -> str:
        asked.append(request)
        return "a red car"

    made = scene(reply, 2 * SAMPLES[:3], 8)
    assert [row["answer"] for row in made.worker(made.table).to_pylist()] == ["a red car"] * 6
    assert len(asked) == 3


def test_answers_that_are_all_cut_stop_the_whole_run(scene: Any) -> None:
    made = scene(lambda _: LMMResponse(Outcome.TRUNCATED, "a red", usage=Usage(300, 100), cost_usd=0.01))
    made.worker(made.table)
    assert [error.kind for error in made.stopped] == ["PermanentError"]
    assert made.stopped[0].text.startswith("8 of 8 answers were cut by max_tokens")


def test_of_a_shard_that_no_worker_bears_nothing_is_read_and_the_reason_is_logged(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scene(lambda _: pytest.fail("was asked"))
    monkeypatch.setattr("tlac.engines.ray.workers._name_batch", lambda *_: "a")
    for number in range(4):
        (made.logs / f"a-{number:04d}-x.jsonl").touch()
    made.shard.unlink()
    assert made.worker(made.table).to_pylist() == []
    assert made.said == ["Ray: a worker died, and starts again (4 times at this shard)"]
    *_, log = logs_in(made.logs)
    reason = "the worker died 3 times here; is its memory too small?"
    assert list(read_log(log)) == [FailureNote(str(made.shard), SerializedError("SampleError", reason))]
