"""What `--engine ray` says where there is no Ray: one line, at once."""

from __future__ import annotations

import socket
import sys

import pytest

from tlac.cluster.session import connect
from tlac.errors import ConfigError, TlacError

ASKED = ("bench", "--engine", "ray", "--backend", "embedded", "--dataset", "cifar10-samples", "--encoder", "minilm")


def test_a_missing_package_is_named_with_its_extra(tlac_command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    shown = tlac_command(*ASKED, "--no-report")
    assert shown.code == 2
    assert "pip install 'tlac[ray]'" in shown.err
    assert "Traceback" not in shown.err
    with pytest.raises(ConfigError):
        connect(None, 1)


def test_a_cluster_that_nobody_serves_is_known_at_once() -> None:
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    if ray.is_initialized():
        # an earlier test's; this process can join one at a time
        ray.shutdown()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(TlacError, match=f"no Ray at 127.0.0.1:{port}: .*ray start --head") as complaint:
        connect(f"127.0.0.1:{port}", None)
    assert "\n" not in str(complaint.value)


def test_a_cluster_to_be_found_by_itself_is_named_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray comes with the extra: pip install 'tlac[ray]'")
    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def unreachable(**_given: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    # a developer's machine may run one
    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(TlacError, match="no Ray at auto: Could not find any running Ray instance"):
        connect("auto", None)
