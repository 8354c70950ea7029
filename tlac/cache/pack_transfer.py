"""Export answers from a store to response packs, and import them."""

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
    """Write the chosen answers to a pack, with the embeddings under these keys (None: all).

    The manifest's date is that of the latest answer, so that the same answers give the same bytes.
    Raises MissingAnswersError where chosen keys are not in the store, InputError where nothing fits, or where the file
    can't be written; StoreError.
    """
    created_at, count = "", 0

    def counted() -> Iterator[StoredAnswer]:
        nonlocal created_at, count
        for answer in select(store, selection):
            created_at, count = max(created_at, answer.response.created_at), count + 1
            yield answer

    specs = derive_specs(counted())
    if selection.keys is not None and selection.backend is None and count < len(selection.keys):
        raise MissingAnswersError(
            f"{len(selection.keys) - count} of {len(selection.keys)} answers are not in the store {store.path}:"
            " choose the --store that they were given in, or run the benchmark again"
        )
    if not specs:
        raise InputError("no stored answer fits: there is nothing to export")
    manifest = Manifest.of(created_at, provenance, specs, prompts)
    return write_pack(path, manifest, select(store, selection), _chosen_embeddings(store, embedding_keys))


def derive_specs(answers: Iterable[StoredAnswer]) -> dict[str, list[PackSpec]]:
    """Derive what backend files must say to form the requests of these answers, by backend.

    A backend that was asked in several ways at both stages has a spec for each pair of them.
    """
    found: dict[tuple[str, str, str], tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]] = {}
    for answer in answers:
        request = answer.request
        stage1, stage2 = found.setdefault((answer.backend, request["model"], request["revision"] or ""), ({}, {}))
        if request["stage"] == "stage1":
            way = {"stage1_params": request["params"], "image": request["preparation"] or {}}
            stage1.setdefault(canonical_json(way), way)
        else:
            way = {"stage2_params": request["params"], "choice_by_index": request["choices_by_index"] is not None}
            # some methods show stage 2 the image, of some samples: the same settings
            way = stage2.setdefault(canonical_json(way), way)
            if request["preparation"]:
                way["image"] = request["preparation"]
    specs: dict[str, list[PackSpec]] = {}
    for (backend, model, revision), ways in sorted(found.items()):
        firsts, seconds = ([way for _, way in sorted(stage.items())] or [{}] for stage in ways)
        specs.setdefault(backend, []).extend(
            PackSpec(model=model, revision=revision or None, **{**second, **first})
            for first in firsts
            for second in seconds
        )
    return specs


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
