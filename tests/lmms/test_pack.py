"""Replaying a response pack."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.fake_answers import choice_request, entry_for, image_request
from tlac.cache.pack import Manifest, PackSpec, write_pack
from tlac.config.registry import open_lmm
from tlac.config.schemas import Backend, BackendSpec, load_backend
from tlac.errors import ConfigError, InputError, MissingAnswersError
from tlac.lmms.pack import PackReplay
from tlac.types import Preparation

SPEC = PackSpec("fake/model", "r2", {"temperature": 0.5}, {"seed": 1}, {"max_tokens": 9}, True, {"quality": 80})


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    answers = [entry_for(image_request(1), "a cat"), entry_for(choice_request("a cat"), "cat")]
    path = tmp_path / "answers.v1.jsonl.zst"
    manifest = Manifest("2025-01-01T00:00:00+00:00", "a test", "fake", SPEC)
    write_pack(path, manifest, sorted(answers, key=lambda entry: entry.key))
    return path


def test_a_pack_answers_the_requests_that_it_holds(pack: Path) -> None:
    replay = PackReplay(load_backend(f"pack:{pack}"))
    assert asyncio.run(replay.ask(image_request(1))) == entry_for(image_request(1), "a cat").response
    assert asyncio.run(replay.ask(choice_request("a cat"))).text == "cat"


def test_what_a_pack_lacks_is_named(pack: Path) -> None:
    replay = PackReplay(load_backend(f"pack:{pack}"))
    for request, subject in (
        (image_request(0xABC), "stage1 answer about image 000000000000"),
        (image_request(1, "Other words?"), "other prompts, parameters or classes"),
        (choice_request("a dog \n on a mat"), "stage2 answer about 'a dog on a mat'"),
        (choice_request("word " * 50), "'word .*word…'"),
    ):
        with pytest.raises(MissingAnswersError, match=subject):
            asyncio.run(replay.ask(request))


def test_the_backend_of_a_pack_asks_as_the_one_did_that_gave_its_answers(pack: Path) -> None:
    backend = load_backend(f"pack:{pack}")
    assert backend.name == "pack:answers"
    assert (backend.spec.model, backend.spec.revision, backend.spec.choice_by_index) == ("fake/model", "r2", True)
    assert backend.spec.params == {"temperature": 0.5}
    assert (backend.spec.stage1_params, backend.spec.stage2_params) == ({"seed": 1}, {"max_tokens": 9})
    assert backend.spec.image == Preparation(quality=80)


def test_the_registry_opens_a_pack_by_its_backend(pack: Path) -> None:
    assert isinstance(open_lmm(load_backend(f"pack:{pack}")), PackReplay)


def test_a_manifest_with_unknown_image_settings_is_refused(tmp_path: Path) -> None:
    spec = PackSpec("m", image={"qality": 80})
    write_pack(tmp_path / "p.jsonl", Manifest("", "", "fake", spec), [])
    with pytest.raises(ConfigError, match=r"qality.*did you mean 'quality'"):
        load_backend(f"pack:{tmp_path / 'p.jsonl'}")


def test_a_missing_pack_and_a_missing_path_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.jsonl: can't be read"):
        load_backend(f"pack:{tmp_path / 'no.jsonl'}")
    with pytest.raises(ConfigError, match="path"):
        PackReplay(Backend("p", "p.yaml", BackendSpec(adapter="pack", model="m")))


def test_a_damaged_pack_is_refused_before_anything_is_asked(pack: Path) -> None:
    backend = load_backend(f"pack:{pack}")
    pack.write_bytes(pack.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"answers.v1.jsonl.zst: line"):
        PackReplay(backend)
