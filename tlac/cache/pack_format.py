"""The first line of a response pack: where its answers come from, and how their requests were formed.

Does not know the answers, nor the store.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import msgspec

from tlac.cache.serialization import Count, Document, Sha256, decode
from tlac.errors import InputError
from tlac.hashing import canonical_json

MAX_LINE_BYTES = 16 * 2**20
MAX_PACK_BYTES = 8 * 2**30
ZSTD_SUFFIX = ".zst"
_MAX_WINDOW_BYTES = 128 * 2**20


class PackError(InputError):
    """A response pack that can't be used; names the file and the line."""

    def __init__(self, path: Path, number: int, problem: str) -> None:
        super().__init__(f"{path}: line {number}: {problem}")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a pack with their numbers from 1, line ends included.

    Raises InputError naming file and line for a file that can't be read, a line without an end or over
    MAX_LINE_BYTES, and more than MAX_PACK_BYTES in all (uncompressed).
    """
    try:
        with _opened(path) as file:
            total_bytes = 0
            number = 1
            while line := _read_line(file, path, number):
                total_bytes += len(line)
                if total_bytes > MAX_PACK_BYTES:
                    raise PackError(path, number, f"the pack holds more than {MAX_PACK_BYTES:,} bytes")
                yield number, line
                number += 1
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.suffix == ZSTD_SUFFIX:
            # plain packs do without this import
            import zstandard

            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
            stream = stack.enter_context(decompressor.stream_reader(file, read_across_frames=True))
            file = stack.enter_context(io.BufferedReader(stream, 2**20))
        yield file


def _read_line(file: IO[bytes], path: Path, number: int) -> bytes:
    try:
        line = file.readline(MAX_LINE_BYTES + 1)
    except _decompression_error() as error:
        raise PackError(path, number, f"can't be decompressed: {error}") from error
    if len(line) > MAX_LINE_BYTES:
        raise PackError(path, number, f"is longer than {MAX_LINE_BYTES:,} bytes")
    if line and not line.endswith(b"\n"):
        raise PackError(path, number, "has no end: the file is cut short")
    return line


def _decompression_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


PACK_VERSION = 1

# names are shown in terminals and tables: no control characters
_Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=1000)]


@dataclass(frozen=True, slots=True)
class PackSpec:
    """What a backend file says that changes its requests, so that a replay forms the very same ones.

    `image` holds the keys of a backend file's `image` section.
    """

    model: str
    revision: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    stage1_params: Mapping[str, Any] = field(default_factory=dict)
    stage2_params: Mapping[str, Any] = field(default_factory=dict)
    choice_by_index: bool = False
    image: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptsRecord:
    """The prompt set that the questions were asked with: its name and sha256 (hex)."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a pack says of itself. `answers`, `embeddings` and `digest` are filled in when it is written.

    `created_at` is ISO 8601; `provenance` says in words where the answers come from; `digest` is the sha256
    (hex) over all bytes after the manifest's line, uncompressed.
    """

    created_at: str
    provenance: str
    backend: str
    spec: PackSpec
    prompts: PromptsRecord | None = None
    answers: int = 0
    embeddings: int = 0
    digest: str = ""


class _SpecDocument(Document, frozen=True):
    model: _Name
    revision: _Name | None
    params: dict[str, Any]
    stage1_params: dict[str, Any]
    stage2_params: dict[str, Any]
    choice_by_index: bool
    image: dict[str, Any]


class _PromptsDocument(Document, frozen=True):
    name: _Name
    digest: _Name


class _ManifestDocument(Document, frozen=True):
    tlac_pack: Literal[1]
    created_at: _Name
    provenance: _Name
    backend: _Name
    spec: _SpecDocument
    prompts: _PromptsDocument | None
    answers: Count
    embeddings: Count
    digest: Sha256


class _Version(msgspec.Struct, frozen=True):
    tlac_pack: int


def manifest_line(manifest: Manifest) -> bytes:
    """The manifest as a pack's first line, with its line end. Raises InputError for what could not be read back."""
    line = canonical_json({"tlac_pack": PACK_VERSION, **asdict(manifest)}).encode("utf-8") + b"\n"
    parse_manifest(line)
    return line


def parse_manifest(line: bytes) -> Manifest:
    """The manifest in a pack's first line. Raises InputError saying what is wrong with it."""
    version = decode(line, _Version).tlac_pack
    if version != PACK_VERSION:
        raise InputError(f"a pack of version {version}, and this tlac reads {PACK_VERSION}: upgrade tlac")
    document = decode(line, _ManifestDocument)
    fields = msgspec.structs.asdict(document)
    del fields["tlac_pack"]
    fields["spec"] = PackSpec(**msgspec.structs.asdict(document.spec))
    if document.prompts is not None:
        fields["prompts"] = PromptsRecord(**msgspec.structs.asdict(document.prompts))
    return Manifest(**fields)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a pack; reads the first line only. Raises InputError naming the file."""
    for number, line in numbered_lines(path):
        try:
            return parse_manifest(line)
        except InputError as error:
            raise PackError(path, number, f"is not a manifest: {error}") from error
    raise PackError(path, 1, "there is no manifest: the file is empty or cut short")
