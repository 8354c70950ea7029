"""What all tests stand on: no network but loopback, a store of their own, fakes for LMM and encoder."""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import socket
import ssl
import sys
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


SLOW_TIMEOUT_S = 900
MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 4 * 2**30


def pytest_configure() -> None:
    """The folders of tests lie in memory where there is room for them: most make stores, and wait for the disk."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ENOUGH_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take longer before they count as hanging."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGHUP reach this process and what it starts: a shell's background jobs and nohup ignore them."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def no_certificates() -> Iterator[None]:
    """Reading all certificates takes a client 20 ms and more, and no test speaks TLS: none gets beyond this machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_verify_locations", "load_default_certs"):
            patch.setattr(ssl.SSLContext, name, lambda *_, **__: None)
        yield


_WATCHED = ("HF_", "TRANSFORMERS_", "LITELLM_", "TLAC_")
_SWITCHES = ("huggingface_hub.constants", "datasets.config")


def _process_settings() -> dict[str, object]:
    switches = {name: sys.modules[name].HF_HUB_OFFLINE for name in _SWITCHES if name in sys.modules}
    return switches | {name: value for name, value in os.environ.items() if name.startswith(_WATCHED)}


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """A test that leaves the process in another state fails: the next one would depend on it."""
    before = _process_settings()
    yield
    after = _process_settings()
    # a library that was imported meanwhile brings its constants with it
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) <= set(_SWITCHES)


@pytest.fixture(autouse=True)
def only_loopback(unchanged_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine fails the test that tried it. No other machine's name is known."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else str(address)
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)  # type: ignore[arg-type]

    def resolved(host: object, *more: object, **named: object) -> object:
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        # asking who has a name takes seconds on a machine without a network
        if name not in ("", "localhost") and set(name) - set("0123456789abcdef.:"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.fixture(autouse=True)
def own_folders(unchanged_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture(scope="session")
def imagenet_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all tests of the recorded answers about ImageNet: its thousand names are encoded once.

    They belong into the xdist_group "imagenet", and tell no answer that was asked for from one that was stored.
    """
    with Store(tmp_path_factory.mktemp("imagenet")) as opened:
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
