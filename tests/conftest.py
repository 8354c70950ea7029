"""What all tests stand on: no network but loopback, a store of their own, fakes for LMM and encoder."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import settings

from tlac.cli import main
from tlac.store import Store
from tlac.types import Encoding, LMMRequest, LMMResponse, Outcome, Usage

# the clock decides no test: a first example may import scikit-learn
settings.register_profile("tlac", deadline=None)
settings.load_profile("tlac")

SHARED = Path(__file__).parents[1].parent / "shared"


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


class FakeLMM:
    """Answers by a function of the request, and remembers what it was asked."""

    def __init__(self, answer: Callable[[LMMRequest], str | LMMResponse]) -> None:
        self._answer = answer
        self.asked: list[LMMRequest] = []

    async def ask(self, request: LMMRequest) -> LMMResponse:
        self.asked.append(request)
        answer = self._answer(request)
        if isinstance(answer, LMMResponse):
            return answer
        return LMMResponse(Outcome.ANSWERED, answer, usage=Usage(prompt=10, completion=2), cost_usd=0.001)


class LetterEncoder:
    """Counts letters: a text encoder whose similarities a person can work out. Window: 40 characters."""

    fingerprint = "letters"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Encoding:
        self.encoded += texts
        vectors = np.zeros((len(texts), 27), np.float32)
        for row, text in enumerate(texts):
            vectors[row, 26] = 1
            for letter in text.lower():
                if "a" <= letter <= "z":
                    vectors[row, ord(letter) - ord("a")] += 1
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Encoding(vectors, np.array([len(text) > 40 for text in texts], np.bool_))


def make_png(seed: int = 0, side: int = 8) -> bytes:
    """A small PNG whose content depends on `seed` alone."""
    pixels = hashlib.sha256(str(seed).encode()).digest() * (3 * side * side // 32 + 1)
    picture = io.BytesIO()
    PIL.Image.frombytes("RGB", (side, side), pixels[: 3 * side * side]).save(picture, "PNG")
    return picture.getvalue()


@pytest.fixture
def shared() -> Path:
    """The folder of real answers and split files that lies beside a development checkout."""
    if not SHARED.is_dir():
        pytest.skip("../shared, with real answers and split files, is not on this machine")
    return SHARED


@dataclass(frozen=True)
class Shown:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


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
