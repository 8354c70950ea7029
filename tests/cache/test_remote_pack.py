"""Response packs at addresses: fetched, bounded, checked, kept, replayed; and put there."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_answers import entry_for, image_request
from tests.support.fake_hub import FakeHub
from tests.support.file_server import FileServer, running_file_server
from tlac.cache import remote_pack
from tlac.cache.pack import Manifest, PackSpec, write_pack
from tlac.cache.remote_pack import fetch_pack, find_fetched, push_pack
from tlac.cache.store import store_folder
from tlac.config.registry import open_lmm
from tlac.config.schemas import load_backend
from tlac.errors import InputError, UnknownNameError

REPO = "ours/tables"


def write(path: Path, answer: str = "a cat") -> bytes:
    write_pack(path, Manifest("2025-01-01", "a test", "fake", PackSpec("m")), [entry_for(image_request(1), answer)])
    return path.read_bytes()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with running_file_server() as told:
        told.files["/cats.v1.jsonl.zst"] = write(tmp_path / "cats.jsonl.zst")
        yield told


@pytest.fixture
def hub(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    from huggingface_hub import constants

    template = server.base + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", server.base)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    server.files["/"] = b"the hub"
    return FakeHub(server)


def asked(name: str, is_offline: bool = False) -> str:
    lmm = open_lmm(load_backend(name, is_offline))
    return asyncio.run(lmm.ask(image_request(1))).text


def test_a_pack_at_a_url_is_replayed_and_its_source_names_its_digest(server: FileServer) -> None:
    url = f"{server.base}/cats.v1.jsonl.zst"
    backend = load_backend(f"pack:{url}")
    digest = sha256(server.files["/cats.v1.jsonl.zst"])
    assert (backend.name, backend.source) == ("pack:cats", f"{url}#sha256={digest}")
    assert asked(f"pack:{url}") == "a cat"
    kept = store_folder() / "packs" / f"{digest}.jsonl.zst"
    assert kept.read_bytes() == server.files["/cats.v1.jsonl.zst"]
    assert kept.stat().st_mode & 0o077 == 0


def test_without_a_digest_the_pack_is_fetched_anew_and_offline_the_last_copy_is_taken(
    server: FileServer, tmp_path: Path
) -> None:
    name = f"pack:{server.base}/cats.v1.jsonl.zst"
    with pytest.raises(InputError, match=r"cats\.v1\.jsonl\.zst: is not on this machine, and this run is offline"):
        load_backend(name, is_offline=True)
    assert asked(name) == "a cat"
    server.files["/cats.v1.jsonl.zst"] = write(tmp_path / "new.jsonl.zst", "a dog")
    assert asked(name, is_offline=True) == "a cat"
    assert asked(name) == "a dog"
    requests = len(server.ranges)
    assert asked(name, is_offline=True) == "a dog"
    assert len(server.ranges) == requests


def test_with_a_digest_the_pack_is_fetched_once_and_no_other_is_taken(server: FileServer, tmp_path: Path) -> None:
    name = f"pack:{server.base}/cats.v1.jsonl.zst#sha256={sha256(server.files['/cats.v1.jsonl.zst']).upper()}"
    assert asked(name) == "a cat"
    server.files["/cats.v1.jsonl.zst"] = changed = write(tmp_path / "new.jsonl.zst", "a dog")
    assert asked(name) == "a cat"
    wrong = "0" * 64
    with pytest.raises(InputError, match=rf"its sha256 is {sha256(changed)}, and {wrong} was asked for: not used"):
        load_backend(f"pack:{server.base}/cats.v1.jsonl.zst#sha256={wrong}")
    for typo in ("123", "", "z" * 64, f"{wrong} "):
        with pytest.raises(InputError, match=rf"'{typo}' is not a sha256"):
            load_backend(f"pack:{server.base}/cats.v1.jsonl.zst#sha256={typo}")
    assert sorted(path.suffix for path in (store_folder() / "packs").iterdir()) == [".latest", ".zst"]


def test_one_of_several_backends_of_a_pack_is_named_behind_its_address(server: FileServer, tmp_path: Path) -> None:
    ways = {"gemini": [PackSpec("g")], "claude": [PackSpec("c")]}
    write_pack(tmp_path / "both.jsonl", Manifest.of("2025-01-01", "a test", ways), [])
    server.files["/both.jsonl"] = content = (tmp_path / "both.jsonl").read_bytes()
    pinned = f"{server.base}/both.jsonl#sha256={sha256(content)}"
    for place in (f"{server.base}/both.jsonl", pinned):
        backend = load_backend(f"pack:{place}#claude")
        assert (backend.name, backend.spec.model, backend.source) == ("pack:both#claude", "c", pinned)
    with pytest.raises(UnknownNameError, match="did you mean 'claude'"):
        load_backend(f"pack:{pinned}#claud")


def test_a_pack_that_never_ends_is_given_up_and_leaves_nothing(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_pack, "MAX_FETCHED_BYTES", 3_000_000)
    server.files["/long.jsonl"] = bytes(5_000_000)
    with pytest.raises(InputError, match=r"long\.jsonl: holds more than 3,000,000 bytes"):
        fetch_pack(f"{server.base}/long.jsonl")
    assert list((store_folder() / "packs").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("{base}/gone.jsonl", "gone.jsonl: can't be read: 404"),
        ("http://127.0.0.1:9/x.jsonl", "x.jsonl: can't be read: "),
        ("nonsense://x.jsonl", "can't be read: Protocol not known: nonsense"),
        ("simplecache::{base}/cats.v1.jsonl.zst", "in several parts"),
        ("memory://nobody/x.jsonl", "x.jsonl: can't be read: nothing is there"),
    ],
)
def test_what_can_t_be_had_is_one_line_that_names_it(server: FileServer, address: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        fetch_pack(address.format(base=server.base))


def test_an_address_that_holds_no_pack_is_named_and_not_the_copy(server: FileServer) -> None:
    server.files["/login.jsonl"] = b"<html>\n"
    with pytest.raises(
        InputError, match=rf"^{server.base}/login.jsonl#sha256=[0-9a-f]{{64}}: line 1: is not a manifest"
    ):
        load_backend(f"pack:{server.base}/login.jsonl")


def test_a_changed_line_in_a_fetched_pack_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.files["/p.jsonl"] = write(tmp_path / "p.jsonl").replace(b"a cat", b"a dog")
    backend = load_backend(f"pack:{server.base}/p.jsonl")
    with pytest.raises(InputError, match="they were changed"):
        open_lmm(backend)


def test_a_signature_in_an_address_reaches_neither_the_source_nor_an_error(server: FileServer) -> None:
    signature = "X-Signature=0123456789abcdef"
    backend = load_backend(f"pack:{server.base}/cats.v1.jsonl.zst?{signature}")
    assert backend.name == "pack:cats"
    assert signature not in repr(backend)
    server.statuses = [403, 403]
    with pytest.raises(InputError, match="403") as caught:
        load_backend(f"pack:{server.base}/cats.v1.jsonl.zst?{signature}")
    assert signature not in str(caught.value)


def test_no_file_makes_tlac_fetch_anything(server: FileServer, tmp_path: Path) -> None:
    url = f"{server.base}/cats.v1.jsonl.zst"
    (tmp_path / "stranger.yaml").write_text(json.dumps({"adapter": "pack", "model": "m", "options": {"path": url}}))
    with pytest.raises(InputError, match="can't be read: No such file"):
        open_lmm(load_backend(str(tmp_path / "stranger.yaml")))
    assert find_fetched(f"{url}#sha256={'0' * 64}") is None
    assert server.ranges == []


def test_a_pack_goes_to_the_hub_and_comes_back_with_the_environments_token_alone(
    server: FileServer, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfFileSystem

    hub.publish(REPO, "a" * 40, {"README.md": b"tables"})
    hub.take_uploads(REPO)
    content = write(tmp_path / "cats.jsonl.zst")
    url = f"hf://datasets/{REPO}/2025/cats.jsonl.zst"
    with pytest.raises(InputError, match="can't be written: HF_TOKEN is not set"):
        push_pack(tmp_path / "cats.jsonl.zst", url)
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdefghijkl")
    place = push_pack(tmp_path / "cats.jsonl.zst", url)
    assert place == f"{url}#sha256={sha256(content)}"
    assert {"Bearer hf_0123456789abcdefghijkl"} <= set(server.authorizations)
    # no file system that holds the token is kept for the next caller
    assert "hf_0123456789abcdefghijkl" not in {system.token for system in HfFileSystem._cache.values()}
    monkeypatch.delenv("HF_TOKEN")
    server.authorizations.clear()
    assert asked(f"pack:{url}") == "a cat"
    assert set(server.authorizations) == {None}
    # in the same process, nothing is remembered of what lay there
    changed = write(tmp_path / "changed.jsonl.zst", "a dog, which was taken for a cat before")
    hub.publish(REPO, "b" * 40, {"2025/cats.jsonl.zst": changed})
    assert asked(f"pack:{url}") == "a dog, which was taken for a cat before"
    with pytest.raises(InputError, match=r"gone\.jsonl: can't be read"):
        fetch_pack(f"hf://datasets/{REPO}/gone.jsonl")
