"""Phase 2 in the cluster: the run folder that the local engine writes, in shards."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.engines.ray.test_engine import say_by_digest
from tests.support.cluster_fixtures import ImageFolder, emulated_backend, spec_of, written
from tests.support.emulated import plant_keys
from tests.support.emulator import running_emulator
from tests.support.fakes import digest
from tlac.cache.store import Store
from tlac.config.schemas import load_encoder_config
from tlac.engines.ray import session
from tlac.engines.ray.engine import RayEngine
from tlac.engines.ray.job import WorkersEncoder
from tlac.engines.ray.scoring import ScoreWorker, _usage_rows, sum_usage, why_not
from tlac.errors import ConfigError, InputError, TlacError
from tlac.evaluation.rescore import Rescoring, rescore
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.policy import CallPolicy
from tlac.report.run_page import render_run
from tlac.results.folder import load_run
from tlac.results.usage import UsageLedger
from tlac.runtime import aio
from tlac.types import LMMResponse, Outcome, Stage, Transcript, Turn, Usage

pytestmark = pytest.mark.xdist_group("ray")


class Pictures(ImageFolder):
    """A folder of images, of which one is gone and one is another's bytes again."""

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__(folder, size)
        self._paths[1].unlink()
        self._paths[2].write_bytes(self._paths[3].read_bytes())


@pytest.mark.parametrize("method", ["tlac:second=name", "tlac-shortlist"])
def test_a_run_is_scored_in_the_cluster_to_the_bytes_of_the_local_engine(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plant_keys(monkeypatch)
    said: list[str] = []
    pictures = Pictures(tmp_path / "pictures", 41)
    with running_emulator(say_by_digest) as emulator, Store(tmp_path / "store") as store:
        spec = replace(spec_of(emulated_backend(emulator), pictures, method), abstain_below=0.4, shuffle_classes=1)
        policy = CallPolicy(on_message=said.append)
        first = Runner(store, policy=policy).run(spec, tmp_path / "runs")
        asked = len(emulator.asked)
        apart = Runner(store, policy=policy, engine=RayEngine(store, policy, None, 2)).run(spec, tmp_path / "runs")
        near = Runner(store, policy=policy).run(spec, tmp_path / "runs")
        assert len(emulator.asked) == asked
    assert not [line for line in said if "scored by this process" in line]
    shards = sorted(path.name for path in (apart.folder / "predictions").iterdir())
    assert shards == [f"{place:05d}-of-{len(shards):05d}.parquet" for place in range(len(shards))]
    assert len(shards) > 2
    assert written(apart) == written(near)
    for name in ("metrics.json", "calls.jsonl"):
        assert (apart.folder / name).read_bytes() == (near.folder / name).read_bytes()
    ours, theirs = (json.loads((run.folder / "run.json").read_text()) for run in (apart, near))
    changing = {"run", "created_at", "wall_s"}
    assert {key: ours[key] for key in ours.keys() - changing} == {key: theirs[key] for key in theirs.keys() - changing}
    assert first.metrics == apart.metrics
    # who reads runs makes the same of both
    assert list(load_run(apart.folder).rows()) == list(near.rows())
    pages = [render_run(one, "images")[0] for one in (replace(apart, record=near.record), near)]
    assert pages[0] == pages[1]
    change = Rescoring(template="a drawing of {}", abstain_below=0.0)
    with Store(tmp_path / "store") as store:
        again = [rescore(run.folder, store, change, tmp_path / "again") for run in (apart, near)]
    assert written(again[0]) == written(again[1])
    assert {one.outcome for one in apart.predictions} == {Outcome.ANSWERED, Outcome.FAILED, Outcome.ABSTAINED}


def test_what_answers_took_is_the_same_in_whatever_parts_it_is_summed_up(tmp_path: Path) -> None:
    drawn = random.Random(3)
    ledger, cut, images = UsageLedger(), set[str](), set[int]()
    (tmp_path / "usage").mkdir()
    for shard in range(4):
        transcripts = []
        for _ in range(50):
            numbers = drawn.randrange(60), drawn.randrange(9)
            turns = [_turn(stage, number) for stage, number in zip(("stage1", "stage2"), numbers, strict=True)]
            transcripts.append(Transcript("x", digest(f"image {numbers[0]}"), 1, *turns))
            ledger.add(turns)
            images.add(numbers[0])
        texts = [f"text {drawn.randrange(8)}" for _ in range(3)]
        cut.update(texts)
        positions = range(50 * shard, 50 * shard + 50)
        np.save(tmp_path / "usage" / str(shard), _usage_rows(positions, transcripts, texts))
    for parts in (1, 2, 7):
        found, texts_cut, extra, several = UsageLedger(), 0, 0, 0
        for part in range(parts):
            summed, count, twins = sum_usage(tmp_path / "usage", part, parts)
            found.join(summed)
            texts_cut, extra, several = texts_cut + count, extra + twins[0], several + twins[1]
        assert (found.calls, found.tokens) == (ledger.calls, ledger.tokens)
        assert (found.cost_usd, found.answers_cost_usd) == (ledger.cost_usd, ledger.answers_cost_usd)
        assert (texts_cut, extra, several) == (len(cut), 200 - len(images), 0)


def _turn(stage: Stage, number: int) -> Turn:
    usage = Usage(number, 2 * number, number // 2)
    response = LMMResponse(Outcome.ANSWERED, "", usage=usage, cost_usd=number / 7, from_store=number % 2 == 0)
    return Turn(stage, digest(f"{stage} {number}"), response)


def test_a_shard_at_which_a_worker_has_died_three_times_is_not_tried_again(tmp_path: Path) -> None:
    worker = object.__new__(ScoreWorker)
    worker._folder = tmp_path
    (tmp_path / "tried").mkdir()
    (tmp_path / "tried" / "000007").write_bytes(b"...")
    error = worker._score(tmp_path / "000007.parquet")
    assert error.text == "a worker died 3 times at 000007.parquet; is its memory too small?"


def test_an_image_that_the_drivers_machine_alone_sees_is_known_by_its_digest(tmp_path: Path) -> None:
    async def identify(path: str) -> str | None:
        return digest("seen") if path.endswith("seen.png") else None

    worker = object.__new__(ScoreWorker)
    worker._reader = SimpleNamespace(identify=SimpleNamespace(remote=identify))
    found = aio.run(worker._identify(tmp_path / "seen.png", "seen.png"))
    assert found.sha256 == digest("seen")
    with pytest.raises(InputError, match=r"gone\.png: can't be read"):
        aio.run(worker._identify(tmp_path / "gone.png", "gone.png"))


def test_another_text_encoder_on_a_worker_is_refused() -> None:
    with pytest.raises(ConfigError, match="the text encoder minilm is another one on a worker of the cluster"):
        WorkersEncoder(load_encoder_config("minilm"), "other").encode(["x"])


@pytest.mark.slow
def test_what_the_cluster_fails_to_score_is_scored_by_the_driver(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    said: list[str] = []

    def fail(*_: object) -> None:
        raise TlacError("no room")

    monkeypatch.setattr("tlac.engines.ray.engine.score_shards", fail)
    with running_emulator(say_by_digest) as emulator, Store(tmp_path / "store") as store:
        spec = spec_of(emulated_backend(emulator), ImageFolder(tmp_path / "pictures", 5), "slac")
        policy = CallPolicy(on_message=said.append)
        apart = Runner(store, policy=policy, engine=RayEngine(store, policy, None, 1)).run(spec, tmp_path / "runs")
        near = Runner(store, policy=policy).run(spec, tmp_path / "runs")
    assert said[-1] == "Ray: scored by this process, since the cluster could not: no room"
    assert (apart.folder / "predictions.jsonl").read_bytes() == (near.folder / "predictions.jsonl").read_bytes()
    assert not (apart.folder / "predictions").exists()


def test_what_needs_the_whole_run_or_its_images_is_not_scored_by_shards(tmp_path: Path) -> None:
    with running_emulator(say_by_digest) as emulator:
        spec = spec_of(emulated_backend(emulator), ImageFolder(tmp_path / "pictures", 1), "tlac")
    assert why_not(spec) is None
    assert why_not(replace(spec, order_trials=1)) == "--order-trials asks again"
    assert why_not(replace(spec, method="slac-fused:image=true")) == "slac-fused:image=true scores the images too"


@pytest.mark.slow
def test_an_interrupt_while_it_is_scored_lets_the_run_be_written_and_is_told(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    said: list[str] = []

    def interrupted(work: Callable[[], object], on_interrupt: Callable[[], None], _give_up: object) -> object:
        on_interrupt()
        return work()

    ways = iter([session.interruptible, interrupted])

    def in_turn(*given: Any) -> Any:
        return next(ways)(*given)

    monkeypatch.setattr("tlac.engines.ray.engine.interruptible", in_turn)
    with running_emulator(say_by_digest) as emulator, Store(tmp_path / "store") as store:
        spec = spec_of(emulated_backend(emulator), ImageFolder(tmp_path / "pictures", 5), "slac")
        policy = CallPolicy(on_message=said.append)
        run = Runner(store, policy=policy, engine=RayEngine(store, policy, None, 1)).run(spec, tmp_path / "runs")
    assert (run.record.stopped, run.record.is_complete, run.metrics.answered) == ("interrupted", True, 5)
    # on a slow machine it tells afterwards how far it is
    assert "stopping when all is scored (Ctrl-C again gives it up; answers are kept)" in said
    assert load_run(run.folder).metrics == run.metrics
