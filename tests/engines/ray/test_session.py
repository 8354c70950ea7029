"""What `--engine ray` says where there is no Ray: one line, at once."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tlac.engines.ray.session import connect, gpu_share
from tlac.errors import ConfigError, TlacError

pytestmark = pytest.mark.xdist_group("ray")

ASKED = ("bench", "--engine", "ray", "--backend", "embedded", "--dataset", "cifar10-samples", "--encoder", "minilm")


@pytest.fixture
def unconnected_ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package ray as it is before this process has joined a cluster; the one of other tests stays up."""
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return ray


def test_a_missing_package_is_named_with_its_extra(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    shown = tlac_command(*ASKED, "--no-report")
    assert shown.code == 2
    assert "pip install 'tlac[ray]'" in shown.err
    assert "Traceback" not in shown.err
    with pytest.raises(ConfigError):
        connect(None, 1)


def test_a_cluster_that_nobody_serves_is_known_at_once(unconnected_ray: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(TlacError, match=f"no Ray at 127.0.0.1:{port}: .*ray start --head") as complaint:
        connect(f"127.0.0.1:{port}", None)
    assert "\n" not in str(complaint.value)


def test_a_cluster_to_be_found_by_itself_is_named_where_there_is_none(
    unconnected_ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def unreachable(**_given: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    # a developer's machine may run one
    monkeypatch.setattr(unconnected_ray, "init", unreachable)
    with pytest.raises(TlacError, match="no Ray at auto: Could not find any running Ray instance"):
        connect("auto", None)


def test_a_cluster_that_asks_for_a_token_says_so(unconnected_ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    def refuse(**_given: object) -> None:
        # as Ray tells it
        cause = RuntimeError("Failed to connect to GCS. RPC error: InvalidAuthToken: Authentication token is missing")
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379") from cause

    monkeypatch.setattr(unconnected_ray, "init", refuse)
    with pytest.raises(TlacError, match="no Ray at auto: it asks for a token: set RAY_AUTH_MODE=token"):
        connect("auto", None)


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (1, 6), (2, 3), (3, 4), (8, 8), (8, 20), (4, 1)])
def test_every_worker_finds_a_place_on_a_gpu(gpus: int, workers: int) -> None:
    share = gpu_share(SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": float(gpus)}), workers)
    assert share == round(share, 4)
    assert gpus * int(1 / share) >= workers
    assert share == 1 or workers > gpus


def test_without_a_gpu_workers_ask_for_none() -> None:
    assert gpu_share(SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0}), 4) == 0
