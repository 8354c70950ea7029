"""What each sample's answers took: calls.jsonl, beside predictions.jsonl, which stays free of times.

Does not know prices or providers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from tlac.errors import InputError
from tlac.results.folder import FOLDER
from tlac.types import Stage, Transcript, Turn

FILE_NAME = "calls.jsonl"
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class CallFacts:
    """One answer to a question about one sample. `latency_s` and `cost_usd` are those of the call that gave the
    answer, whenever it was made; `key` tells answers that several samples share."""

    stage: Stage
    key: str
    latency_s: float
    cost_usd: float | None
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
    try:
        return tuple(msgspec.json.Decoder(SampleCalls).decode_lines(path.read_bytes()))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; check that you may read it") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not what tlac writes: {error}; remove it to report without times") from error


def inherited_files(parent: Path) -> dict[str, bytes | Iterator[bytes]]:
    """What a run that is scored again takes over from its parent's folder, by path: thumbnails and what the
    answers took, so that `tlac report` shows them. Raises InputError."""
    try:
        found: dict[str, bytes | Iterator[bytes]] = {
            path.relative_to(parent).as_posix(): path.read_bytes() for path in (parent / FOLDER).glob("*.webp")
        }
    except OSError as error:
        raise InputError(f"{error.filename}: can't be read: {error.strerror}; is {parent} a run folder?") from error
    if (parent / FILE_NAME).is_file():
        found[FILE_NAME] = _pieces(parent / FILE_NAME)
    return found


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                yield piece
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}; is {path.parent} a run folder?") from error
