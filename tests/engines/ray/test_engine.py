"""`--engine ray` on a real Ray: the same bytes as the local engine, nothing lost to SIGKILL, one limit for all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.support.cluster_fixtures import (
    ImageFolder,
    emulated_backend,
    is_connected,
    spec_of,
    wait_for,
    workers_below,
    written,
)
from tests.support.emulated import plant_keys
from tests.support.emulator import Asked, Emulator, Reply, running_emulator
from tests.support.table_files import write_parquet
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.registry import open_dataset
from tlac.config.schemas import load_dataset_config
from tlac.engines.ray import logs
from tlac.engines.ray.engine import RayEngine
from tlac.engines.ray.logs import logs_in, read_log
from tlac.errors import ConfigError
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.budget import Budget
from tlac.lmms.middleware.policy import CallPolicy
from tlac.results.folder import load_run
from tlac.results.record import Run

pytestmark = pytest.mark.xdist_group("ray")

PHRASES = ("red car", "an old rusty car", "some apple", "a pear, I think", "a car of unknown colour", "old car")


def say_by_digest(asked: Asked) -> Reply:
    """An answer that depends on the question alone: the same for every engine."""
    if asked.images:
        number = int(hashlib.sha256(asked.images[0]).hexdigest()[:8], 16)
        return Reply(f"{PHRASES[number % len(PHRASES)]}{'' if number % 3 else f' number {number % 97}'}")
    digest = int(hashlib.sha256(asked.text.encode()).hexdigest()[:8], 16)
    return Reply(json.dumps({"class_index": asked.class_indices[digest % len(asked.class_indices)]}))


def questions(emulator: Emulator) -> Counter[str]:
    """How often each image, and each text without an image, was asked about."""
    return Counter(
        hashlib.sha256(one.images[0] if one.images else one.text.encode()).hexdigest() for one in emulator.asked
    )


def acknowledged_images(store: Path) -> set[str]:
    """The images (sha256) whose answers are in the workers' logs now."""
    found = set()
    for run in (store / "cluster").glob("*/logs"):
        for path in logs_in(run):
            for kept in read_log(path):
                if isinstance(kept, StoredAnswer):
                    parts = [part for message in kept.request["messages"] for part in message["parts"]]
                    found |= {part["image_sha256"] for part in parts if "image_sha256" in part}
    return found


@pytest.fixture
def bench_on(tmp_path: Path, ray_cluster: Any) -> Callable[..., Runner]:
    def make(store: Store, policy: CallPolicy | None = None, workers: int = 2, is_local: bool = False) -> Runner:
        policy = policy or CallPolicy()
        return Runner(store, policy=policy, engine=None if is_local else RayEngine(store, policy, None, workers))

    return make


def test_the_command_in_the_documentation_predicts_what_the_local_engine_does(
    ray_cluster: Any, tlac_command: Callable[..., Any], tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")
    command = next(line for line in page.splitlines() if line.startswith("tlac bench --engine ray"))
    local = command.replace("--engine ray --parallelism 2 ", "")
    runs = {}
    for engine, line in (("ray", command), ("local", local)):
        store, out = tmp_path / f"{engine}-store", tmp_path / engine
        shown = tlac_command(*line.split()[1:], "--store", store, "--out", out, "--no-report", "--json")
        assert shown.code == 0, shown.err
        runs[engine] = json.loads(shown.out)["runs"]
    for apart, near in zip(runs["ray"], runs["local"], strict=True):
        assert written(load_run(apart["run"])) == written(load_run(near["run"]))
        assert (apart["is_complete"], apart["calls"], apart["tokens"]) == (True, near["calls"], near["tokens"])
    assert len(runs["ray"]) == 2


def test_a_key_that_workers_lack_is_missed_in_a_worker_s_name(bench_on, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HERE_ALONE", "sk-planted-planted-planted-planted-02")
    with running_emulator(say_by_digest) as emulator, Store(tmp_path / "far") as far:
        backend = emulated_backend(emulator)
        lacking = replace(backend, spec=msgspec.structs.replace(backend.spec, api_key_env="HERE_ALONE"))
        spec = spec_of(lacking, ImageFolder(tmp_path / "pictures", 4), "slac")
        with pytest.raises(
            ConfigError, match=r"in a worker of the cluster: .* set the environment variable HERE_ALONE"
        ):
            bench_on(far).run(spec, tmp_path / "runs")
    assert not emulator.asked


def test_images_in_tables_of_an_object_store_are_asked_about_as_by_the_local_engine(
    bench_on, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import fsspec

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    # what few answers are otherwise spared
    monkeypatch.setattr(logs, "ATTACHED_BYTES", 1)
    plant_keys(monkeypatch)
    table = write_parquet(tmp_path / "set")
    fsspec.filesystem("memory").pipe("/images/test.parquet", table.read_bytes())
    dataset = open_dataset(load_dataset_config("hf:memory://images/test.parquet"))
    with (
        running_emulator(say_by_digest) as emulator,
        Store(tmp_path / "far") as far,
        Store(tmp_path / "near") as near,
    ):
        backend = emulated_backend(emulator)
        asking = msgspec.structs.replace(backend.spec, params={**backend.spec.params, "logprobs": True})
        spec = spec_of(replace(backend, spec=asking), dataset, "tlac:second=name")
        benches = bench_on(far), bench_on(near, is_local=True)
        apart, local = (bench.run(spec, tmp_path / "runs") for bench in benches)
        calls = len(emulator.asked)
        again = bench_on(far, is_local=True).run(spec, tmp_path / "runs")
        assert (len(emulator.asked), far.stats().attached_packs) == (calls, 1)
    assert written(apart) == written(local) == written(again)
    # the second sample is asked by the workers too
    assert apart.record.calls.stage1.asked == 2 * len(dataset) == 8
    assert None not in {one.second for one in apart.predictions}
    assert all((one.logprob is None) == (one.decided_by == "similarity") for one in apart.predictions)
    assert any(one.logprob is not None for one in apart.predictions)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_acknowledged_answer_and_changes_no_prediction(
    bench_on, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    pictures = ImageFolder(tmp_path / "pictures", 600)
    with running_emulator(say_by_digest) as emulator:
        spec = spec_of(emulated_backend(emulator, concurrency=16), pictures, "tlac")
        acknowledged: set[str] = set()

        def kill_one() -> None:
            wait_for(lambda: len(emulator.asked) > 200)
            os.kill(workers_below(os.getpid())[0], signal.SIGKILL)
            acknowledged.update(acknowledged_images(tmp_path / "far"))

        killer = threading.Thread(target=kill_one)
        killer.start()
        with Store(tmp_path / "far") as far:
            apart = bench_on(far).run(spec, tmp_path / "runs")
            killer.join()
        far_questions = questions(emulator)
        emulator.asked.clear()
        with Store(tmp_path / "near") as near:
            local = bench_on(near, is_local=True).run(spec, tmp_path / "runs")
        near_questions = questions(emulator)
    assert written(apart) == written(local)
    assert far_questions.keys() == near_questions.keys()
    assert len(acknowledged) > 100
    assert {far_questions[image] for image in acknowledged} == {1}
    # what was in flight is all that may be asked twice; stage 2 is asked once in the whole cluster
    assert sum(far_questions.values()) <= sum(near_questions.values()) + 16
    assert apart.record.calls == local.record.calls
    assert apart.record.calls.stage2.asked == len(near_questions) - 600
    assert_results_say_what_predictions_say(tmp_path / "far", apart)


def assert_results_say_what_predictions_say(store: Path, run: Run) -> None:
    import pyarrow.parquet

    (folder,) = (store / "cluster").glob("*/results")
    rows = {row["sample"]: row for row in pyarrow.parquet.read_table(folder).to_pylist()}
    choices = pyarrow.parquet.read_table(folder.with_name("choices")).to_pylist()
    chosen = {row["stage2_key"]: row["choice"] for row in choices}
    assert len(chosen) == len(choices) == run.record.calls.stage2.asked
    assert len(rows) == len(run.predictions)
    for prediction in run.predictions:
        row = rows[prediction.sample]
        assert (row["stage1_key"], row["stage2_key"]) == (prediction.stage1_key, prediction.stage2_key)
        assert (row["answer"], row["label"]) == (prediction.answer, prediction.label)
        assert (row["stage2_key"] in chosen) == (prediction.stage2_key is not None)


@pytest.mark.slow
def test_cost_cap_rate_limit_and_calls_in_flight_hold_for_four_workers_together(
    bench_on, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_keys(monkeypatch)
    arrivals: list[float] = []
    lock, in_flight, most = threading.Lock(), [0], [0]
    at_work: set[int] = set()

    def measured(asked: Asked) -> Reply:
        port = urlsplit(emulator.base("openai")).port
        at_work.update(worker for worker in workers_below(os.getpid()) if is_connected(worker, port))
        with lock:
            arrivals.append(time.monotonic())
            in_flight[0] += 1
            most[0] = max(most[0], in_flight[0])
        time.sleep(0.2)
        with lock:
            in_flight[0] -= 1
        return Reply("a red car of some kind, seen from the side")

    budget = Budget(0.05)
    with running_emulator(measured) as emulator, Store(tmp_path / "far") as far:
        backend = emulated_backend(emulator, concurrency=3, requests_per_minute=600)
        spec = spec_of(backend, ImageFolder(tmp_path / "pictures", 160), "slac")
        run = bench_on(far, CallPolicy(budget), workers=4).run(spec, tmp_path / "runs")
        billed_usd = sum(entry.response.cost_usd for entry in far.entries())
        answers = len(list(far.entries()))
    assert 0.02 < billed_usd <= 0.05
    assert budget.spent_usd == pytest.approx(billed_usd)
    assert answers == len(arrivals) < 160
    assert len(at_work) == 4
    assert not run.record.is_complete
    assert "the budget of 0.05 USD is used up" in run.record.stopped
    assert most[0] <= 3
    # 10 calls a second; what is on its way when a second begins may come a little late
    for start in arrivals:
        assert sum(start <= arrival < start + 1.0 for arrival in arrivals) <= 13
