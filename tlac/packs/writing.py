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
from typing import IO

from tlac.documents import StoredAnswer, StoredEmbedding, check_request, response_document, vector_text
from tlac.errors import InputError
from tlac.keys import canonical_json, sha256_of
from tlac.packs.lines import MAX_LINE_BYTES, ZSTD_SUFFIX
from tlac.packs.manifest import Manifest, manifest_line

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
