"""A response pack or a store that a stranger made: each command says one line, and waits for nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.fake_answers import entries, image_request, insert_row
from tests.support.fakes import Shown
from tlac.cache.pack import Manifest, PackSpec, write_pack
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.types import LMMResponse, Outcome

DEEP = "[" * 500 + "]" * 500
PIPE = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")


def pack_with(path: Path, old: str, new: str) -> Path:
    """A pack with some text exchanged, and a digest that fits all the same."""
    write_pack(path, Manifest("", "a stranger", "fake", PackSpec("fake/model")), entries(2))
    manifest, body = path.read_text().split("\n", 1)
    document = json.loads(manifest)
    body = body.replace(old, new)
    document["digest"] = hashlib.sha256(body.encode()).hexdigest()
    path.write_text(json.dumps(document).replace(old, new) + "\n" + body)
    return path


def make_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def make_bomb(path: Path) -> Path:
    path.write_bytes(zstandard.compress(bytes(40 * 2**20)))
    return path


PACKS: list[Any] = [
    lambda folder: pack_with(folder / "p.jsonl", '"cost_usd":0.5', '"cost_usd":1e308'),
    lambda folder: pack_with(folder / "p.jsonl", '"cost_usd":0.5', '"cost_usd":1e999'),
    lambda folder: pack_with(folder / "p.jsonl", '"cost_usd":0.5', '"cost_usd":Infinity'),
    lambda folder: pack_with(folder / "p.jsonl", '"cost_usd":0.5', '"cost_usd":-1'),
    lambda folder: pack_with(folder / "p.jsonl", '"prompt":10', '"prompt":1e308'),
    lambda folder: pack_with(folder / "p.jsonl", '"temperature":0', f'"temperature":{DEEP}'),
    lambda folder: pack_with(folder / "p.jsonl", '"image": {}', f'"image": {{"quality": {DEEP}}}'),
    lambda folder: pack_with(folder / "p.jsonl", '"model": "fake/model"', '"model": "\\u001b]0;owned\\u0007"'),
    lambda folder: make_bomb(folder / "p.jsonl.zst"),
    lambda folder: Path("/dev/zero"),
    lambda folder: folder,
    lambda folder: folder / ("x" * 300),
    pytest.param(lambda folder: make_pipe(folder / "p.jsonl"), marks=PIPE),
]


@pytest.mark.parametrize("make", PACKS)
@pytest.mark.parametrize("command", [("cache", "import"), ("backends", "show")])
def test_a_pack_that_no_tlac_wrote_is_refused_in_one_line(
    tlac_command: Callable[..., Shown], tmp_path: Path, command: tuple[str, ...], make: Callable[[Path], Path]
) -> None:
    pack = make(tmp_path)
    shown = tlac_command(*command, pack if command[0] == "cache" else f"pack:{pack}")
    if command[0] == "backends" and shown.code == 0:
        # only the manifest is read for this, and it was sound
        assert pack.name == "p.jsonl"
        return
    assert shown.code == 2
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("tlac: ")
    assert "\x1b" not in shown.out + shown.err
    if command[0] == "cache":
        with Store(tmp_path / "store") as store:
            assert list(store.entries()) == []


@pytest.mark.parametrize("value", ['{"text": 1}', "[" * 100_000, '{"cost_usd": 1e999}', "\x1b]0;owned\x07"])
@pytest.mark.parametrize("command", [("cache", "stats"), ("cache", "verify"), ("cache", "export", "--all", "-o", "x")])
def test_a_row_that_no_tlac_wrote_ends_a_command_in_one_line(
    tlac_command: Callable[..., Shown], tmp_path: Path, value: str, command: tuple[str, ...]
) -> None:
    with Store(tmp_path / "store") as store:
        store.put_entries(entries(2))
    insert_row(tmp_path / "store" / "responses", value=value)
    shown = tlac_command(*command, "--store", tmp_path / "store")
    assert shown.code != 0
    assert len(shown.err.splitlines()) == 1
    assert "\x1b" not in shown.out + shown.err


@PIPE
@pytest.mark.parametrize("name", ["tlac-store.json", "responses/cache.db", "embeddings/cache.db-wal"])
def test_a_pipe_in_a_store_is_not_waited_for(tlac_command: Callable[..., Shown], tmp_path: Path, name: str) -> None:
    Store(tmp_path / "store").close()
    (tmp_path / "store" / name).unlink(missing_ok=True)
    make_pipe(tmp_path / "store" / name)
    shown = tlac_command("cache", "stats", "--store", tmp_path / "store")
    assert shown.code != 0
    assert "no regular file" in shown.err
    assert len(shown.err.splitlines()) == 1


def test_an_answer_can_not_write_to_the_terminal(tlac_command: Callable[..., Shown], tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\u202etxt.exe"
    answers = [StoredAnswer.of(image_request(1), LMMResponse(Outcome.ANSWERED, text), "fake") for text in (evil, "a")]
    manifest = Manifest("", "a stranger", "fake", PackSpec("fake/model"))
    write_pack(tmp_path / "p.jsonl", manifest, answers[:1])
    with Store(tmp_path / "store") as store:
        store.put_entries(answers[1:])
    shown = tlac_command("cache", "import", tmp_path / "p.jsonl", "--store", tmp_path / "store")
    assert shown.code == 2
    assert "contradicts 1 stored answers" in shown.err
    assert not set(shown.out + shown.err) & {"\x1b", "\x07", "\u202e"}


@pytest.mark.parametrize("command", [("stats",), ("verify",), ("prune", "--outcome", "refused"), ("import", "x")])
def test_a_store_whose_name_is_too_long_is_an_error_of_ours(
    tlac_command: Callable[..., Shown], command: tuple[str, ...]
) -> None:
    shown = tlac_command("cache", *command, "--store", "x" * 300)
    assert shown.code != 0
    assert "unexpected" not in shown.err
    assert len(shown.err.splitlines()) == 1
