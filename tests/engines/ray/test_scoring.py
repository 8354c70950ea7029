"""Phase 2 in the cluster: the run folder that the local engine writes, in shards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines.ray.test_engine import say_by_digest
from tests.support.cluster_fixtures import ImageFolder, emulated_backend, spec_of, written
from tests.support.emulated import plant_keys
from tests.support.emulator import Asked, Reply, running_emulator
from tlac.cache.store import Store
from tlac.engines.ray.engine import RayEngine
from tlac.evaluation.runner import Runner
from tlac.lmms.middleware.stack import CallPolicy
from tlac.types import Outcome

pytestmark = pytest.mark.xdist_group("ray")


class Pictures(ImageFolder):
    """A folder of images, of which one is gone and one is another's bytes again."""

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__(folder, size)
        self._paths[1].unlink()
        self._paths[2].write_bytes(self._paths[3].read_bytes())


def refuse_some(asked: Asked) -> Reply:
    if asked.images and asked.images[0][-20] % 7 == 0:
        return Reply("I can't help with that.", finish="content_filter")
    return say_by_digest(asked)


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
    assert {one.outcome for one in apart.predictions} == {Outcome.ANSWERED, Outcome.FAILED, Outcome.ABSTAINED}
