"""Reads a response pack, believing nothing: schema, keys, order, counts and digest are checked.

Does not know the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tlac.documents import (
    Document,
    Sha256,
    StoredAnswer,
    StoredEmbedding,
    check_request,
    decode,
    parse_response,
    parse_vector,
)
from tlac.errors import InputError, UsageError
from tlac.keys import sha256_of
from tlac.packs.lines import PackError, numbered_lines
from tlac.packs.manifest import Manifest, parse_manifest


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
