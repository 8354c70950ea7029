from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.emulated import plant_keys
from tests.support.emulator import Emulator, Reply, running_emulator, script_of


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """The providers' server, for the tests of one file."""
    with running_emulator() as emulator:
        yield emulator


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of each provider's in the environment."""
    plant_keys(monkeypatch)


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    """The server as if it were new; it sees a dog everywhere."""
    server.asked.clear()
    server.refused.clear()
    server.script = script_of(Reply("a dog"))
    return server
