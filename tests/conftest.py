"""What all tests stand on: no network but loopback, a store of their own, fakes for LMM and encoder."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.fakes import SHARED, Shown
from tlac.cache.store import Store
from tlac.cli import main

# the clock decides no test: a first example may import scikit-learn
settings.register_profile("tlac", deadline=None)
settings.load_profile("tlac")


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine fails the test that tried it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else str(address)
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's store nor the user's configuration is touched, and no key is there by accident."""
    monkeypatch.setenv("TLAC_CACHE_DIR", str(tmp_path / "store"))
    monkeypatch.setenv("TLAC_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def shared() -> Path:
    """The folder of real answers and split files that lies beside a development checkout."""
    if not SHARED.is_dir():
        pytest.skip("../shared, with real answers and split files, is not on this machine")
    return SHARED


@pytest.fixture
def tlac_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Shown]:
    """Runs the command line in this process, in an empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: object) -> Shown:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Shown(ended.value.code, printed.out, printed.err)

    return run
