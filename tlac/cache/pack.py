"""Writes a response pack: the same answers give the same bytes, and the file is there whole or not at all.

Does not know the store.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import msgspec

from tlac.cache.pack_format import (
    MAX_LINE_BYTES,
    ZSTD_SUFFIX,
    Manifest,
    PackError,
    manifest_line,
    numbered_lines,
    parse_manifest,
)
from tlac.cache.serialization import (
    Document,
    Sha256,
    StoredAnswer,
    StoredEmbedding,
    check_request,
    decode,
    parse_response,
    parse_vector,
    response_document,
    vector_text,
)
from tlac.errors import InputError, UsageError
from tlac.hashing import canonical_json, sha256_of

_ZSTD_LEVEL = 10
_MEMORY_BYTES = 32 * 2**20


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
        counts = [0, 0]
        for position, lines in enumerate((_answer_lines(entries, manifest.backend), _embedding_lines(embeddings))):
            for line in lines:
                digest.update(line)
                body.write(line)
                counts[position] += 1
        written = replace(manifest, answers=counts[0], embeddings=counts[1], digest=digest.hexdigest())
        body.seek(0)
        try:
            with _replaced(path) as file:
                file.write(manifest_line(written))
                shutil.copyfileobj(body, file)
        except OSError as error:
            raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
    return written


def _answer_lines(entries: Iterable[StoredAnswer], backend: str) -> Iterator[bytes]:
    last = ""
    for entry in entries:
        if entry.key <= last:
            raise InputError(f"key {entry.key[:12]} stands twice or out of order: a pack is ordered by key")
        if entry.backend != backend:
            raise InputError(f"answer {entry.key[:12]} is of backend {entry.backend!r}, the pack of {backend!r}")
        if sha256_of(entry.request) != entry.key:
            raise InputError(f"key {entry.key[:12]} is not the digest of its request")
        check_request(entry.request)
        last = entry.key
        yield _line({"key": entry.key, "request": entry.request, "response": response_document(entry.response)})


def _embedding_lines(embeddings: Iterable[StoredEmbedding]) -> Iterator[bytes]:
    last = ""
    for item in embeddings:
        if item.key <= last:
            raise InputError(f"embedding {item.key[:12]} stands twice or out of order: a pack is ordered by key")
        last = item.key
        yield _line({"embedding_key": item.key, "vector": vector_text(item.vector), "is_truncated": item.is_truncated})


def _line(document: dict[str, object]) -> bytes:
    line = canonical_json(document).encode("utf-8") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"a line of {len(line):,} bytes is too long for a pack, which allows {MAX_LINE_BYTES:,}")
    return line


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes its place at the end, or leaves no trace."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            if path.suffix == ZSTD_SUFFIX:
                # plain packs do without this import
                import zstandard

                with zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file, closefd=False) as compressed:
                    yield compressed
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class _LineKind(msgspec.Struct, frozen=True):
    embedding_key: str | None = None


class _AnswerLine(Document, frozen=True):
    key: Sha256
    request: dict[str, Any]
    response: dict[str, Any]


class _EmbeddingLine(Document, frozen=True):
    embedding_key: Sha256
    vector: str
    is_truncated: bool


def read_pack(path: Path) -> Iterator[StoredAnswer | StoredEmbedding]:
    """The answers of a pack, by key, then its embeddings, by key; read as they are asked for.

    Only when the iterator has ended is the whole pack known to be sound: counts and digest come last.
    Raises InputError naming file and line.
    """
    digest = hashlib.sha256()
    manifest: Manifest | None = None
    counts = {"answers": 0, "embeddings": 0}
    last, number = ("answers", ""), 0
    for number, line in numbered_lines(path):
        try:
            if manifest is None:
                manifest = parse_manifest(line)
                continue
            digest.update(line)
            kept = _parse_line(line, manifest.backend)
        except UsageError as error:
            raise PackError(path, number, str(error)) from error
        kind = "answers" if isinstance(kept, StoredAnswer) else "embeddings"
        if (kind, kept.key) <= last:
            raise PackError(path, number, f"key {kept.key[:12]} stands twice or out of order")
        last = (kind, kept.key)
        counts[kind] += 1
        yield kept
    if manifest is None:
        raise PackError(path, 1, "there is no manifest: the file is empty or cut short")
    for kind, promised in (("answers", manifest.answers), ("embeddings", manifest.embeddings)):
        if counts[kind] != promised:
            raise PackError(path, number, f"the pack ends after {counts[kind]} {kind} of {promised}")
    if digest.hexdigest() != manifest.digest:
        raise PackError(path, 1, "the manifest's digest is not that of the lines below it: they were changed")


def _parse_line(line: bytes, backend: str) -> StoredAnswer | StoredEmbedding:
    if decode(line, _LineKind).embedding_key is not None:
        embedding = decode(line, _EmbeddingLine)
        return StoredEmbedding(embedding.embedding_key, parse_vector(embedding.vector), embedding.is_truncated)
    answer = decode(line, _AnswerLine)
    check_request(answer.request)
    if sha256_of(answer.request) != answer.key:
        raise InputError(f"key {answer.key[:12]} is not the digest of its request")
    return StoredAnswer(answer.key, answer.request, parse_response(answer.response), backend)
