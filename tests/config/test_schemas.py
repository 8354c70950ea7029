from __future__ import annotations

from pathlib import Path

import pytest

from tlac.config.files import list_names
from tlac.config.schemas import BackendSpec, load_backend, load_dataset_config, load_encoder_config
from tlac.errors import ConfigError, TlacError
from tlac.types import Preparation


def backend_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", list_names("backend"))
def test_every_shipped_backend_parses_and_says_what_it_is(name: str) -> None:
    assert load_backend(name).spec.description


@pytest.mark.parametrize("name", list_names("encoder"))
def test_every_shipped_encoder_parses_and_says_what_it_is(name: str) -> None:
    assert load_encoder_config(name).spec.description


@pytest.mark.parametrize("name", list_names("dataset"))
def test_every_shipped_dataset_parses_and_says_what_it_is(name: str) -> None:
    assert load_dataset_config(name).spec.description


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("adapter: litellm\nmodle: m\n", "unknown key 'modle': did you mean 'model'?"),
        ("adapter: litellm\nmodel: m\nlimits: {concurency: 3}\n", "unknown key 'concurency' in 'limits'"),
        ("adapter: litellm\n", "missing required field `model`"),
        ("adapter: litellm\nmodel: m\nlimits: {concurrency: many}\n", "limits.concurrency"),
        ("adapter: litellm\nmodel: 3\n", "(at 'model')"),
    ],
)
def test_a_wrong_key_or_value_names_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = backend_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_backend(path)
    assert str(caught.value).startswith(path)
    assert complaint in str(caught.value)


def test_the_digest_covers_every_setting(tmp_path: Path) -> None:
    first = load_backend(backend_file(tmp_path, "adapter: litellm\nmodel: m\n")).digest
    second = load_backend(backend_file(tmp_path, "adapter: litellm\nmodel: m\nimage: {quality: 80}\n"))
    assert first != second.digest
    assert second.spec.image == Preparation(quality=80)


def test_an_encoder_can_be_named_by_adapter_and_model() -> None:
    spec = load_encoder_config("open_clip:ViT-B-32/openai").spec
    assert (spec.adapter, spec.model, spec.weights) == ("open_clip", "ViT-B-32", "openai")
    assert load_encoder_config("sentence_transformers:org/model").spec.model == "org/model"


def test_a_dataset_can_be_named_by_loader_and_path() -> None:
    config = load_dataset_config("folder:some/photos", split="novel")
    assert (config.spec.loader, config.spec.options, config.split) == ("folder", {"path": "some/photos"}, "novel")


def test_a_dataset_lends_its_class_list() -> None:
    assert len(load_dataset_config("imagenet-samples").spec.classes) == 1000


@pytest.mark.parametrize("load", [load_backend, load_encoder_config, load_dataset_config])
def test_an_unknown_name_is_an_error_for_a_person(load) -> None:
    with pytest.raises(TlacError, match="unknown"):
        load("no-such-thing")


@pytest.mark.parametrize(
    ("model", "names", "holds"),
    [
        ("openai/m", [f"class {n}" for n in range(1000)], True),
        ("openai/m", [f"class {n}" for n in range(1001)], False),
        ("openai/m", [f"{n:061}" for n in range(250)], True),
        ("openai/m", [f"{n:061}" for n in range(251)], False),
        ("anthropic/m", [f"class {n}" for n in range(100)], True),
        ("anthropic/m", [f"class {n}" for n in range(101)], False),
        ("gemini/m", [f"{n:030}" for n in range(50)], True),
        ("gemini/m", [f"class {n}" for n in range(51)], False),
        ("openrouter/google/gemini-m", [f"{n:031}" for n in range(49)], False),
        ("gemini/m", ["missile", "jeep", "missile"], False),
        ("gemini/m", ['a 3" nail', "jeep"], False),
        ("gemini/m", ["two\nlines", "jeep"], False),
        ("gemini/m", ["Irish Wolfhound", "crème brûlée"], True),
    ],
)
def test_a_schema_holds_so_many_names_and_each_once(model: str, names: list[str], holds: bool) -> None:
    assert BackendSpec(adapter="litellm", model=model).schema_holds(names) is holds


def test_a_backend_keeps_the_digest_by_which_runs_before_are_found() -> None:
    # of version 0.1.0 before names could stand in schemas: a suite takes such runs as they are
    assert load_backend("gemini").digest == "0258460f894946f8f2e82102e3a7e25cda81a8031991bc22c55f96e033208a94"
