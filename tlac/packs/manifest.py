"""The first line of a response pack: where its answers come from, and how their requests were formed.

Does not know the answers, nor the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tlac.documents import Count, Document, Sha256, decode
from tlac.errors import InputError
from tlac.keys import canonical_json
from tlac.packs.lines import PackError, numbered_lines

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
