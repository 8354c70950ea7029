"""Replay a response pack: the LMM of `--backend pack:FILE`. Nothing is written to the store."""

from __future__ import annotations

from pathlib import Path

from tlac.cache.pack import read_pack
from tlac.cache.serialization import StoredAnswer
from tlac.config.schemas import Backend
from tlac.errors import ConfigError, InputError, MissingAnswersError
from tlac.hashing import response_key
from tlac.images import name_of
from tlac.runtime.formatting import printable
from tlac.types import LMMRequest, LMMResponse

_MAX_TEXT_BYTES = 2**30
_MAX_SHOWN_CHARS = 60


class PackReplay:
    """Answers each request with the pack's answer to that very request."""

    def __init__(self, backend: Backend) -> None:
        """Read the whole pack and check it. Raises InputError naming file and line, ConfigError without a path."""
        path = backend.spec.options.get("path")
        if not isinstance(path, str):
            raise ConfigError(f"{backend.source}: a backend with adapter 'pack' needs options: path: FILE.jsonl.zst")
        self._path = Path(path)
        self._responses: dict[str, LMMResponse] = {}
        text_bytes = 0
        for kept in read_pack(self._path):
            if isinstance(kept, StoredAnswer):
                self._responses[kept.key] = kept.response
                text_bytes += len(kept.response.text) + len(kept.response.reason)
                if text_bytes > _MAX_TEXT_BYTES:
                    raise InputError(f"{self._path}: over {_MAX_TEXT_BYTES:,} characters of answers to hold in memory")

    async def ask(self, request: LMMRequest) -> LMMResponse:
        """The pack's answer. Raises MissingAnswersError naming what the pack has no answer about."""
        response = self._responses.get(response_key(request))
        if response is None:
            raise MissingAnswersError(
                f"{self._path}: no {request.stage} answer about {_subject(request)}; where the pack does hold one, it"
                " was asked with other prompts, parameters or classes than these"
            )
        return response


def _subject(request: LMMRequest) -> str:
    if request.choice is not None:
        return repr(printable(" ".join(request.choice.answer.split()), _MAX_SHOWN_CHARS))
    return name_of(request.images[0]) if request.images else "this text"
