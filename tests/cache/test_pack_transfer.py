"""Answers on their way from one store to another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fake_answers import choice_request, embedding, entries, entry_for, image_request
from tlac.cache.pack import (
    Imported,
    Manifest,
    PackSpec,
    PromptsRecord,
    derive_specs,
    export_pack,
    import_pack,
    read_manifest,
    read_pack,
    write_pack,
)
from tlac.cache.select import Selection
from tlac.cache.serialization import StoredAnswer
from tlac.cache.store import Store
from tlac.config.schemas import load_backend
from tlac.errors import ConfigError, InputError, MissingAnswersError, UnknownNameError
from tlac.types import ChoiceTask, Outcome, Preparation

EVERYTHING = Selection()
BOTH_STAGES = [*entries(3), entry_for(choice_request("a cat"), "cat", created_at="2025-02-01T00:00:00+00:00")]


@pytest.fixture
def filled(store: Store) -> Store:
    store.put_entries(BOTH_STAGES)
    store.put_embeddings([embedding("a", 1.0), embedding("b", 2.0, is_truncated=True)])
    return store


@pytest.fixture
def other(tmp_path: Path) -> Any:
    with Store(tmp_path / "other") as opened:
        yield opened


def test_answers_and_embeddings_reach_another_store(filled: Store, other: Store, tmp_path: Path) -> None:
    path = tmp_path / "pack.jsonl.zst"
    manifest = export_pack(filled, path, EVERYTHING, "a test", PromptsRecord("default", "d"), embedding_keys=None)
    assert (manifest.answers, manifest.embeddings, manifest.backend) == (4, 2, "fake")
    assert manifest.created_at == "2025-02-01T00:00:00+00:00"
    assert import_pack(other, path) == Imported(4, 0, 2, ())
    assert list(other.entries()) == list(filled.entries())
    wanted = [embedding("a").key, embedding("b").key]
    ours, theirs = filled.get_embeddings(wanted), other.get_embeddings(wanted)
    assert {key: (one.vector.tobytes(), one.is_truncated) for key, one in ours.items()} == {
        key: (one.vector.tobytes(), one.is_truncated) for key, one in theirs.items()
    }
    assert import_pack(other, path) == Imported(0, 4, 0, ())


def test_a_pack_made_from_an_imported_pack_has_the_same_bytes(filled: Store, other: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl.zst", tmp_path / "second.jsonl.zst"
    export_pack(filled, first, EVERYTHING, "a test", embedding_keys=None)
    import_pack(other, first)
    export_pack(other, second, EVERYTHING, "a test", embedding_keys=None)
    assert first.read_bytes() == second.read_bytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=6))
def test_any_answers_reach_another_store_unchanged(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    with Store(folder / "first") as first, Store(folder / "second") as second:
        first.put_entries([entry_for(image_request(number), text) for number, text in enumerate(told)])
        export_pack(first, folder / "pack.jsonl", EVERYTHING, "a test")
        import_pack(second, folder / "pack.jsonl")
        assert list(second.entries()) == list(first.entries())


def test_long_and_empty_answers_reach_another_store(store: Store, other: Store, tmp_path: Path) -> None:
    store.put_entries(
        [entry_for(image_request(1), "", Outcome.EMPTY), entry_for(image_request(2), "word \u2603 " * 300_000)]
    )
    export_pack(store, tmp_path / "pack.jsonl.zst", EVERYTHING, "a test")
    import_pack(other, tmp_path / "pack.jsonl.zst")
    assert list(other.entries()) == list(store.entries())


def test_only_the_chosen_answers_and_embeddings_are_exported(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "pack.jsonl"
    keys = frozenset({BOTH_STAGES[0].key, BOTH_STAGES[3].key})
    export_pack(filled, path, Selection(keys=keys), "a test", embedding_keys=[embedding("b").key, "unknown"])
    assert {kept.key for kept in read_pack(path)} == {*keys, embedding("b").key}


def test_an_answer_of_the_run_that_is_not_in_the_store_is_missed(filled: Store, tmp_path: Path) -> None:
    keys = frozenset({BOTH_STAGES[0].key, "0" * 64})
    with pytest.raises(MissingAnswersError, match="1 of 2 answers"):
        export_pack(filled, tmp_path / "pack.jsonl", Selection(keys=keys), "a test")
    assert not (tmp_path / "pack.jsonl").exists()


@pytest.mark.parametrize(
    ("added", "ways"),
    [
        (entry_for(image_request(9), backend="b"), ["b", "fake"]),
        (entry_for(image_request(9, params={"temperature": 1})), ["fake:1", "fake:2"]),
        (entry_for(image_request(9, model="other/model")), ["fake:1", "fake:2"]),
        (entry_for(image_request(9, revision="r1")), ["fake:1", "fake:2"]),
        (entry_for(image_request(9, preparation=Preparation(quality=70))), ["fake:1", "fake:2"]),
        (entry_for(replace(choice_request("a dog"), params={"temperature": 1})), ["fake:1", "fake:2"]),
    ],
)
def test_a_store_of_any_answers_is_exported_whole_and_each_way_of_asking_is_replayed(
    filled: Store, other: Store, tmp_path: Path, added: StoredAnswer, ways: list[str]
) -> None:
    filled.put_entries([added])
    path = tmp_path / "pack.jsonl"
    manifest = export_pack(filled, path, EVERYTHING, "a test", embedding_keys=None)
    assert list(manifest.ways) == ways
    assert manifest == read_manifest(path)
    assert import_pack(other, path).added == 5
    assert list(other.entries()) == list(filled.entries())
    with pytest.raises(ConfigError, match=rf"asked in 2 ways; choose one of: pack:.*#{ways[0]}, pack:.*#{ways[1]}"):
        load_backend(f"pack:{path}")
    with pytest.raises(UnknownNameError, match="'none'"):
        load_backend(f"pack:{path}#none")
    for way in ways:
        backend = load_backend(f"pack:{path}#{way}")
        assert backend.name == f"pack:pack#{way}"
        assert backend.spec.options == {"path": str(path)}
        for field, value in msgspec.to_builtins(manifest.ways[way]).items():
            assert field == "image" or getattr(backend.spec, field) == value
    export_pack(other, tmp_path / "again.jsonl", EVERYTHING, "a test", embedding_keys=None)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


def test_choices_that_also_saw_the_image_are_asked_in_the_same_way(filled: Store, tmp_path: Path) -> None:
    # tlac-relook: stage 2 sees the image of some samples
    looked = image_request(1, "Which is it?", stage="stage2", choice=ChoiceTask("a cat", ("cat", "dog")))
    filled.put_entries([entry_for(looked, "cat")])
    manifest = export_pack(filled, tmp_path / "pack.jsonl", EVERYTHING, "a test")
    assert (manifest.tlac_pack, list(manifest.ways), manifest.answers) == (1, ["fake"], 5)
    assert load_backend(f"pack:{tmp_path / 'pack.jsonl'}").spec.image == Preparation()


@pytest.mark.parametrize("change", [{"backend": "unknown"}, {"backend": None}, {"extra": 1}])
def test_an_answer_of_a_backend_that_the_manifest_lacks_is_refused(
    filled: Store, tmp_path: Path, change: dict[str, object]
) -> None:
    filled.put_entries([entry_for(image_request(9), backend="b")])
    path = tmp_path / "pack.jsonl"
    export_pack(filled, path, EVERYTHING, "a test")
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="line 2: "):
        list(read_pack(path))


def test_a_pack_of_the_first_version_keeps_its_bytes(filled: Store, tmp_path: Path) -> None:
    export_pack(filled, tmp_path / "pack.jsonl", EVERYTHING, "a test", PromptsRecord("default", "d"))
    content = (tmp_path / "pack.jsonl").read_bytes()
    manifest = json.loads(content.split(b"\n")[0])
    assert manifest == {
        "answers": 4,
        "backend": "fake",
        "created_at": "2025-02-01T00:00:00+00:00",
        "digest": hashlib.sha256(content.split(b"\n", 1)[1]).hexdigest(),
        "embeddings": 0,
        "prompts": {"digest": "d", "name": "default"},
        "provenance": "a test",
        "spec": {
            "choice_by_index": False,
            "image": BOTH_STAGES[0].request["preparation"],
            "model": "fake/model",
            "params": {},
            "revision": None,
            "stage1_params": {"temperature": 0},
            "stage2_params": {"temperature": 0},
        },
        "tlac_pack": 1,
    }
    assert hashlib.sha256(content).hexdigest() == "9a0e1272895344a7a25974c349c2ecef7fb3196b67f3349e0de91a1ae0119368"


def test_nothing_to_export_is_said(filled: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to export"):
        export_pack(filled, tmp_path / "pack.jsonl", Selection(backend="unknown"), "a test")


def test_the_manifest_forms_the_requests_of_its_answers(filled: Store, tmp_path: Path) -> None:
    export_pack(filled, tmp_path / "pack.jsonl", EVERYTHING, "a test")
    backend = load_backend(f"pack:{tmp_path / 'pack.jsonl'}")
    assert backend.spec.model == "fake/model"
    assert backend.spec.stage1_params == backend.spec.stage2_params == {"temperature": 0}
    assert backend.spec.image == Preparation()
    assert not backend.spec.choice_by_index


def test_choices_by_index_and_settings_of_each_stage_are_derived() -> None:
    task = ChoiceTask("a cat", ("cat", "dog"), by_index=True)
    stage1 = entry_for(image_request(1, revision="r1"))
    stage2 = entry_for(replace(choice_request("a cat"), revision="r1", params={"max_tokens": 5}, choice=task))
    spec = PackSpec(
        "fake/model", "r1", {}, {"temperature": 0}, {"max_tokens": 5}, True, BOTH_STAGES[0].request["preparation"]
    )
    assert derive_specs([stage1, stage2]) == {"fake": [spec]}


def test_names_held_by_a_schema_are_derived_and_read_again(tmp_path: Path) -> None:
    task = ChoiceTask("a cat", ("cat", "dog"), by_schema=True)
    answer = entry_for(replace(choice_request("a cat"), choice=task))
    (spec,) = derive_specs([answer])["fake"]
    write_pack(tmp_path / "pack.jsonl", Manifest("2026", "a test", "fake", spec), [answer])
    backend = load_backend(f"pack:{tmp_path / 'pack.jsonl'}")
    assert (backend.spec.choice_by_index, backend.spec.names_in_schema) == (True, True)


def test_a_pack_that_contradicts_the_store_is_not_imported_at_all(filled: Store, other: Store, tmp_path: Path) -> None:
    export_pack(filled, tmp_path / "pack.jsonl", EVERYTHING, "a test", embedding_keys=None)
    contradicted = entry_for(image_request(0), "a dog", backend="mine")
    same = entry_for(image_request(1), "answer 1", latency_s=9.0, cost_usd=None, backend="mine")
    other.put_entries([contradicted, same])
    found = import_pack(other, tmp_path / "pack.jsonl")
    ((theirs, ours),) = found.conflicts
    assert (theirs.key, theirs.response.text, ours.text) == (contradicted.key, "answer 0", "a dog")
    assert (found.added, found.embeddings_added) == (0, 0)
    assert list(other.entries()) == sorted([contradicted, same], key=lambda answer: answer.key)
    assert list(other.embeddings()) == []


def test_a_damaged_pack_adds_nothing(filled: Store, other: Store, tmp_path: Path) -> None:
    path = tmp_path / "pack.jsonl"
    export_pack(filled, path, EVERYTHING, "a test", embedding_keys=None)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="line 7"):
        import_pack(other, path)
    assert list(other.entries()) == []


def test_what_the_store_has_already_stays_as_it_is(filled: Store, other: Store, tmp_path: Path) -> None:
    export_pack(filled, tmp_path / "pack.jsonl", EVERYTHING, "a test", embedding_keys=None)
    mine = entry_for(image_request(1), "answer 1", latency_s=9.0, backend="mine")
    other.put_entries([mine])
    other.put_embeddings([embedding("a", 0.5)])
    assert import_pack(other, tmp_path / "pack.jsonl") == Imported(3, 1, 1, ())
    assert other.get_entry(mine.key) == mine
    assert other.get_embeddings([embedding("a").key])[embedding("a").key].vector.tolist() == [0.5]
