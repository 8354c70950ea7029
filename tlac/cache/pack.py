"""Response packs: answers and embeddings in one file of JSON Lines, a manifest first, all ordered by key; exported from
a store and imported into one.

The same answers give the same bytes, and a pack is written whole or not at all. Reading believes nothing: every key
is checked, and lines, sizes, counts and the digest are held against the manifest.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import msgspec

from tlac.cache.select import Selection, select
from tlac.cache.serialization import (
    MAX_TEXT_BYTES,
    Count,
    Document,
    Sha256,
    StoredAnswer,
    StoredEmbedding,
    answer_text,
    embedding_text,
    parse_answer,
    parse_embedding,
)
from tlac.cache.store import Store
from tlac.errors import InputError, MissingAnswersError, UsageError
from tlac.hashing import canonical_json
from tlac.runtime.safe_files import naming_failure, numbered_lines, open_regular, parse_json, replacing
from tlac.types import LMMResponse

PACK_VERSION = 2
MAX_PACK_BYTES = 8 * 2**30
ZSTD_SUFFIX = ".zst"
_ZSTD_LEVEL = 10
_MAX_WINDOW_BYTES = 128 * 2**20
_MEMORY_BYTES = 32 * 2**20
_BATCH = 1000

# names are shown in terminals and tables: no control characters
_Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=1000)]


class PackError(InputError):
    """A response pack that can't be used; names the file and the line."""

    def __init__(self, path: Path, number: int, problem: str) -> None:
        super().__init__(f"{path}: line {number}: {problem}")


class PackSpec(Document, frozen=True):
    """What a backend file says that changes its requests, so that a replay forms the very same ones.

    `image` holds the keys of a backend file's `image` section.
    """

    model: _Name
    revision: _Name | None = None
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    stage1_params: dict[str, Any] = msgspec.field(default_factory=dict)
    stage2_params: dict[str, Any] = msgspec.field(default_factory=dict)
    choice_by_index: bool = False
    image: dict[str, Any] = msgspec.field(default_factory=dict)
    # left out where it is not so: packs without it are as they were
    names_in_schema: Literal[True] | msgspec.UnsetType = msgspec.UNSET


class PromptsRecord(Document, frozen=True):
    """The prompt set that the questions were asked with: its name and sha256 (hex)."""

    name: _Name
    digest: _Name


class Manifest(Document, frozen=True):
    """A pack's first line. `answers`, `embeddings` and `digest` are filled in when the pack is written.

    `created_at` is ISO 8601; `provenance` says in words where the answers come from; `digest` is the sha256
    (hex) over all bytes after the manifest's line, uncompressed. A pack of answers that were all asked in one way names
    its `backend` and `spec` (version 1, which every tlac reads). Any other has `specs`, by backend, and each of its
    answers names its backend (version 2).
    """

    created_at: _Name
    provenance: _Name
    backend: _Name | None = None
    spec: PackSpec | None = None
    prompts: PromptsRecord | None = None
    answers: Count = 0
    embeddings: Count = 0
    digest: Sha256 = ""
    tlac_pack: Literal[1, 2] = 1
    specs: dict[_Name, list[PackSpec]] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls, created_at: str, provenance: str, specs: dict[str, list[PackSpec]], prompts: PromptsRecord | None = None
    ) -> Manifest:
        """Make the manifest of answers that were asked with these specs, by backend."""
        ways = [(backend, spec) for backend, found in specs.items() for spec in found]
        if len(ways) == 1:
            return cls(created_at, provenance, *ways[0], prompts)
        return cls(created_at, provenance, prompts=prompts, tlac_pack=2, specs=specs)

    @property
    def ways(self) -> dict[str, PackSpec]:
        """The specs by the name of their backend, with a number where a backend has several, such as "gemini:2"."""
        if self.spec is not None:
            return {self.backend or "": self.spec}
        several = [(name, number, spec) for name, found in self.specs.items() for number, spec in enumerate(found, 1)]
        return {name if len(self.specs[name]) == 1 else f"{name}:{number}": spec for name, number, spec in several}


def write_pack(
    path: Path, manifest: Manifest, entries: Iterable[StoredAnswer], embeddings: Iterable[StoredEmbedding] = ()
) -> Manifest:
    """Write answers and embeddings, each ordered by key; zstd where the name ends in .zst.

    An existing file of that name is replaced. Returns the manifest with counts and digest. Raises InputError
    for entries out of order, of another backend, or whose key is not the digest of their request, and where the
    file can't be written.
    """
    with tempfile.SpooledTemporaryFile(_MEMORY_BYTES) as body:
        digest = hashlib.sha256()
        counts = {"answers": 0, "embeddings": 0}
        for kind, line in _lines(chain(entries, embeddings), manifest):
            digest.update(line)
            body.write(line)
            counts[kind] += 1
        written = msgspec.structs.replace(manifest, **counts, digest=digest.hexdigest())
        body.seek(0)
        with (
            naming_failure(path, kind=InputError),
            replacing(path, is_synced=True) as file,
            _compressed(path, file) as lines,
        ):
            lines.write(_manifest_line(written))
            shutil.copyfileobj(body, lines)
    return written


def read_pack(path: Path) -> Iterator[StoredAnswer | StoredEmbedding]:
    """Yield the answers of a pack, by key, then its embeddings, by key.

    Only when the iterator has ended is the whole pack known to be sound: counts and digest come last.
    Raises InputError naming file and line.
    """
    digest = hashlib.sha256()
    manifest: Manifest | None = None
    counts = {"answers": 0, "embeddings": 0}
    last, number = ("answers", ""), 0
    for number, line in pack_lines(path):
        try:
            if manifest is None:
                manifest = _parse_manifest(line)
                continue
            digest.update(line)
            kept = _parse_line(line, manifest)
        except UsageError as error:
            raise PackError(path, number, str(error)) from error
        kind = "answers" if isinstance(kept, StoredAnswer) else "embeddings"
        if (kind, kept.key) <= last:
            raise PackError(path, number, f"key {kept.key[:12]} stands twice or out of order")
        last = (kind, kept.key)
        counts[kind] += 1
        yield kept
    if manifest is None:
        raise _no_manifest(path)
    for kind, promised in (("answers", manifest.answers), ("embeddings", manifest.embeddings)):
        if counts[kind] != promised:
            raise PackError(path, number, f"the pack ends after {counts[kind]} {kind} of {promised}")
    if digest.hexdigest() != manifest.digest:
        raise PackError(path, 1, "the manifest's digest is not that of the lines below it: they were changed")


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a pack, and nothing else of it. Raises InputError naming the file."""
    for number, line in pack_lines(path):
        try:
            return _parse_manifest(line)
        except InputError as error:
            raise PackError(path, number, f"is not a manifest: {error}") from error
    raise _no_manifest(path)


def pack_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a pack with their numbers from 1, line ends included.

    Raises InputError naming file and line for a file that can't be read, a line without an end or over
    MAX_TEXT_BYTES, and more than MAX_PACK_BYTES in all (uncompressed).
    """
    total_bytes = number = 0
    with _opened(path) as file:
        try:
            for number, line in numbered_lines(file, path, MAX_TEXT_BYTES):
                total_bytes += len(line)
                if not line.endswith(b"\n"):
                    raise PackError(path, number, "has no end: the file is cut short")
                if total_bytes > MAX_PACK_BYTES:
                    raise PackError(path, number, f"the pack holds more than {MAX_PACK_BYTES:,} bytes")
                yield number, line
        except _decompression_error() as error:
            raise PackError(path, number + 1, f"can't be decompressed: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        file = stack.enter_context(open_regular(path))
        if path.suffix == ZSTD_SUFFIX:
            # plain packs do without this import
            import zstandard

            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
            stream = stack.enter_context(decompressor.stream_reader(file, read_across_frames=True))
            file = stack.enter_context(io.BufferedReader(stream, 2**20))
        yield file


def _decompression_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def _parse_line(line: bytes, manifest: Manifest) -> StoredAnswer | StoredEmbedding:
    if "embedding_key" in parse_json(line, dict[str, msgspec.Raw]):
        return parse_embedding(line)
    answer = parse_answer(line, backend=manifest.backend).checked()
    if manifest.specs and answer.backend not in manifest.specs:
        raise InputError(f"backend {answer.backend!r} is none of the manifest's")
    return answer


def _parse_manifest(line: bytes) -> Manifest:
    told = parse_json(line, dict[str, Any])
    version = told.get("tlac_pack")
    if isinstance(version, int) and not 1 <= version <= PACK_VERSION:
        raise InputError(f"a pack of version {version}, and this tlac reads up to {PACK_VERSION}: upgrade tlac")
    manifest: Manifest = parse_json(line, Manifest)
    # the defaults are for those who make a manifest: what a file leaves out could be anything
    lacking = _keys(manifest) - told.keys()
    needed = set(PackSpec.__struct_fields__) - {"names_in_schema"}
    for spec in [told.get("spec"), *(one for found in told.get("specs", {}).values() for one in found)]:
        lacking |= {f"spec.{key}" for key in needed if spec is not None and key not in spec}
    if lacking:
        raise InputError(f"lacks {', '.join(sorted(lacking))}")
    has_one, has_several = manifest.backend is not None and manifest.spec is not None, bool(manifest.specs)
    is_told = has_one if manifest.tlac_pack == 1 else has_several and all(manifest.specs.values())
    if told.keys() != _keys(manifest) or not is_told:
        raise InputError("must have 'backend' and 'spec', or, in version 2, 'specs' of each backend")
    return manifest


def _keys(manifest: Manifest) -> set[str]:
    return {*Manifest.__struct_fields__} - ({"specs"} if manifest.tlac_pack == 1 else {"backend", "spec"})


def _no_manifest(path: Path) -> PackError:
    return PackError(path, 1, "there is no manifest: the file is empty or cut short")


def _manifest_line(manifest: Manifest) -> bytes:
    """Encode a manifest, with its line end. Raises InputError for what could not be read back."""
    told = msgspec.to_builtins(manifest)
    line = canonical_json({key: told[key] for key in _keys(manifest)}).encode("utf-8") + b"\n"
    _parse_manifest(line)
    return line


def _lines(kept: Iterable[StoredAnswer | StoredEmbedding], manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Encode each with its line end, beside what it is."""
    backends = manifest.specs.keys() or {manifest.backend}
    last = ("", "")
    for one in kept:
        if isinstance(one, StoredAnswer):
            if one.backend not in backends:
                raise InputError(f"answer {one.key[:12]} is of backend {one.backend!r}, which the manifest lacks")
            kind, text = "answers", answer_text(one.checked(), has_key=True, has_backend=bool(manifest.specs))
        else:
            kind, text = "embeddings", embedding_text(one, has_key=True)
        if (kind, one.key) <= last:
            raise InputError(f"key {one.key[:12]} stands twice or out of order: a pack is ordered by key")
        last = (kind, one.key)
        yield kind, text.encode("utf-8") + b"\n"


@contextmanager
def _compressed(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix != ZSTD_SUFFIX:
        yield file
        return
    # plain packs do without this import
    import zstandard

    with zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file, closefd=False) as compressed:
        yield compressed


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
            in_schema = request.get("choices_by_schema") is not None
            by_index = in_schema or request["choices_by_index"] is not None
            way = {"stage2_params": request["params"], "choice_by_index": by_index}
            way |= {"names_in_schema": True} if in_schema else {}
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
    embeddings = (kept for kept in read_pack(path) if isinstance(kept, StoredEmbedding))
    return Imported(added, present, store.put_embeddings(embeddings))


def _chosen_embeddings(store: Store, keys: Collection[str] | None) -> Iterator[StoredEmbedding]:
    if keys is None:
        yield from store.embeddings()
        return
    ordered = iter(sorted(set(keys)))
    while batch := list(islice(ordered, _BATCH)):
        found = store.get_embeddings(batch)
        yield from (found[key] for key in batch if key in found)
