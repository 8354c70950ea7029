"""Carries answers between a store and response packs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tlac.cache.pack import Manifest, PackSpec, PromptsRecord, read_pack, write_pack
from tlac.cache.select import Selection, select
from tlac.cache.serialization import StoredAnswer, StoredEmbedding
from tlac.cache.store import Store
from tlac.errors import InputError, MissingAnswersError
from tlac.hashing import canonical_json
from tlac.types import LMMResponse

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import added and what was there before.

    `conflicts` are the pack's answers that contradict the store's, each with the store's response; where there are
    any, nothing was added.
    """

    added: int
    present: int
    embeddings_added: int
    conflicts: tuple[tuple[StoredAnswer, LMMResponse], ...] = ()


def export_pack(
    store: Store,
    path: Path,
    selection: Selection,
    provenance: str,
    prompts: PromptsRecord | None = None,
    embedding_keys: Collection[str] | None = (),
) -> Manifest:
    """Write the chosen answers of one backend to a pack, with the embeddings under these keys (None: all).

    The manifest's date is that of the latest answer, so that the same answers give the same bytes.
    Raises MissingAnswersError where chosen keys are not in the store, InputError where the answers are of several
    backends or were asked with several settings, or where the file can't be written; StoreError.
    """
    backend, created_at = _origin(store, selection)
    spec = derive_spec(answer.request for answer in select(store, selection))
    manifest = Manifest(created_at, provenance, backend, spec, prompts)
    return write_pack(path, manifest, select(store, selection), _chosen_embeddings(store, embedding_keys))


def derive_spec(requests: Iterable[dict[str, Any]]) -> PackSpec:
    """What a backend's file must say to form these requests (their JSON). Raises InputError for several ways."""
    models: set[tuple[str, str | None]] = set()
    settings: dict[str, dict[str, dict[str, Any]]] = {"stage1": {}, "stage2": {}}
    for request in requests:
        models.add((request["model"], request["revision"]))
        found = {
            "params": request["params"],
            "image": request["preparation"] or {},
            "by_index": request["choices_by_index"] is not None,
        }
        settings[request["stage"]].setdefault(canonical_json(found), found)
    ways = max(len(models), *(len(found) for found in settings.values()))
    if ways > 1:
        raise InputError(
            f"the answers were asked in {ways} ways (model or parameters differ), and a pack holds one:"
            " choose those of one run"
        )
    if not models:
        raise InputError("no stored answer fits: there is nothing to export")
    ((model, revision),) = models
    nothing: dict[str, Any] = {"params": {}, "image": {}, "by_index": False}
    stage1, stage2 = (next(iter(found.values()), nothing) for found in settings.values())
    return PackSpec(
        model=model,
        revision=revision,
        stage1_params=stage1["params"],
        stage2_params=stage2["params"],
        choice_by_index=stage2["by_index"],
        image=stage1["image"],
    )


def import_pack(store: Store, path: Path) -> Imported:
    """Add a pack's answers and embeddings to the store, once every line has been checked.

    What the store has already stays as it is. A pack with an answer that contradicts one of the store's is not
    imported at all. Raises InputError naming file and line, StoreError.
    """
    added = present = 0
    conflicts: list[tuple[StoredAnswer, LMMResponse]] = []
    for kept in read_pack(path):
        if isinstance(kept, StoredEmbedding):
            continue
        ours, theirs = store.get_response(kept.key), kept.response
        if ours is None:
            added += 1
        elif (ours.outcome, ours.text, ours.reason) == (theirs.outcome, theirs.text, theirs.reason):
            present += 1
        else:
            conflicts.append((kept, ours))
    if conflicts:
        return Imported(0, present, 0, tuple(conflicts))
    answers = (kept for kept in read_pack(path) if isinstance(kept, StoredAnswer))
    store.put_entries(answer for answer in answers if store.get_response(answer.key) is None)
    return Imported(added, present, _import_embeddings(store, path))


def _origin(store: Store, selection: Selection) -> tuple[str, str]:
    """The one backend of the chosen answers, and when the latest was given."""
    backends: set[str] = set()
    created_at, count = "", 0
    for answer in select(store, selection):
        backends.add(answer.backend)
        created_at = max(created_at, answer.response.created_at)
        count += 1
    if selection.keys is not None and selection.backend is None and count < len(selection.keys):
        raise MissingAnswersError(
            f"{len(selection.keys) - count} of {len(selection.keys)} answers are not in the store {store.path}:"
            " choose the --store that they were given in, or run the benchmark again"
        )
    if len(backends) > 1:
        raise InputError(
            f"the answers are of {len(backends)} backends ({', '.join(sorted(backends))}), and a pack holds those of"
            " one: choose with --backend"
        )
    if not backends:
        raise InputError("no stored answer fits: there is nothing to export")
    return backends.pop(), created_at


def _chosen_embeddings(store: Store, keys: Collection[str] | None) -> Iterator[StoredEmbedding]:
    if keys is None:
        yield from store.embeddings()
        return
    ordered = iter(sorted(set(keys)))
    while batch := list(islice(ordered, _BATCH)):
        found = store.get_embeddings(batch)
        yield from (found[key] for key in batch if key in found)


def _import_embeddings(store: Store, path: Path) -> int:
    embeddings = (kept for kept in read_pack(path) if isinstance(kept, StoredEmbedding))
    added = 0
    while batch := list(islice(embeddings, _BATCH)):
        known = store.get_embeddings([item.key for item in batch])
        new = [item for item in batch if item.key not in known]
        store.put_embeddings(new)
        added += len(new)
    return added
