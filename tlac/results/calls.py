"""What lies beside predictions.jsonl, which stays free of times: calls.jsonl, what each answer took; thumbnails."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec

from tlac.errors import InputError
from tlac.results.predictions import decode_lines
from tlac.runtime.safe_files import open_regular, read_file
from tlac.types import Stage, Transcript, Turn

FILE_NAME = "calls.jsonl"
FOLDER = "thumbnails"
_BLOCK = 512
_THUMBNAIL = re.compile(r"[0-9a-f]{64}\.webp")
_MOST_THUMBNAIL_BYTES = 2**20
_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


@dataclass(frozen=True, slots=True)
class CallFacts:
    """One answer to a question about one sample. `latency_s` and `cost_usd` are those of the call that gave the
    answer, whenever it was made; `key` tells answers that several samples share."""

    stage: Stage
    key: str
    latency_s: _Amount
    cost_usd: _Amount | None
    prompt_tokens: int
    completion_tokens: int
    from_store: bool


@dataclass(frozen=True, slots=True)
class SampleCalls:
    """The answers behind one sample, in the order in which they were asked for."""

    sample: str
    calls: tuple[CallFacts, ...] = ()


def facts_of(transcripts: Iterable[Transcript]) -> Iterator[SampleCalls]:
    """One entry a transcript, in their order."""
    return (SampleCalls(transcript.sample, tuple(map(_facts, transcript.turns))) for transcript in transcripts)


def _facts(turn: Turn) -> CallFacts:
    response = turn.response
    return CallFacts(
        turn.stage,
        turn.key,
        response.latency_s,
        response.cost_usd,
        response.usage.prompt,
        response.usage.completion,
        response.from_store,
    )


def encode_calls(calls: Iterable[SampleCalls]) -> Iterator[bytes]:
    """The content of calls.jsonl, some lines at a time: one JSON object a line."""
    encoder = msgspec.json.Encoder()
    pending = iter(calls)
    while block := list(islice(pending, _BLOCK)):
        yield encoder.encode_lines(block)


def read_calls(folder: Path) -> tuple[SampleCalls, ...]:
    """The calls.jsonl of a run folder; empty where an older run has none. Raises InputError."""
    path = folder / FILE_NAME
    if not os.path.lexists(path):
        return ()
    try:
        return tuple(decode_lines(path, SampleCalls))
    except InputError as error:
        raise InputError(f"{error}; remove it to report without times") from error


def inherited_files(parent: Path) -> dict[str, bytes | Iterator[bytes]]:
    """What a run that is scored again takes over from its parent's folder, by path: thumbnails and what the
    answers took, so that `tlac report` shows them. Raises InputError."""
    found: dict[str, bytes | Iterator[bytes]] = {
        f"{FOLDER}/{path.name}": read_thumbnail(path) for path in find_thumbnails(parent).values()
    }
    if os.path.lexists(parent / FILE_NAME):
        found[FILE_NAME] = _pieces(parent / FILE_NAME)
    return found


def find_thumbnails(folder: Path) -> dict[str, Path]:
    """The thumbnail files of a run folder by the sha256 of their image; empty where there are none.

    Links, and whatever else tlac does not write, are passed over.
    """
    try:
        if (folder / FOLDER).is_symlink():
            return {}
        with os.scandir(folder / FOLDER) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:
        return {}
    return {name[:64]: folder / FOLDER / name for name in names if _THUMBNAIL.fullmatch(name)}


def read_thumbnail(path: Path) -> bytes:
    """A thumbnail of a run folder; empty for what is no small WebP picture. Raises InputError."""
    content = read_file(path, _MOST_THUMBNAIL_BYTES, within=path.parent.parent)
    return content if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else b""


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path, within=path.parent) as file:
            while piece := file.read(2**20):
                yield piece
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; is {path.parent} a run folder?") from error
