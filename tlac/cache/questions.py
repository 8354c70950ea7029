"""Questions that a run still lacks answers to, as a file, and their answers from whoever can look: a person, or a model
that no API serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tlac.cache.serialization import MAX_TEXT_BYTES, Document, Sha256, StoredAnswer
from tlac.errors import InputError
from tlac.hashing import request_document, response_key, sha256_of
from tlac.runtime.safe_files import numbered_lines, open_regular, parse_json, replacing
from tlac.types import LMMRequest, LMMResponse, Outcome

DocumentT = TypeVar("DocumentT", bound=Document)


class _Question(Document, frozen=True):
    """What is asked, for the one who answers (`text`, `image`: a path, or None), and what its key is the digest of."""

    key: Sha256
    stage: str
    text: str
    image: str | None
    backend: str
    request: dict[str, Any]


class _Answer(Document, frozen=True):
    key: Sha256
    answer: str


def write_questions(path: Path, requests: Iterable[LMMRequest], backend: str) -> int:
    """Write each distinct request as a line of JSON; their number. Raises OSError."""
    distinct = {response_key(request): request for request in requests}
    with replacing(path) as file:
        for key, request in distinct.items():
            text = "\n\n".join(part.text for part in request.texts)
            source = request.images[0].source if request.images else None
            image = str(source.resolve()) if isinstance(source, Path) else None
            question = _Question(key, request.stage, text, image, backend, request_document(request))
            file.write(msgspec.json.encode(question) + b"\n")
    return len(distinct)


def read_answers(questions: Path, answers: Path, by: str) -> list[StoredAnswer]:
    """The answers in a file of {"key", "answer"} lines, each to one of the questions; `by` says who gave them.

    An empty answer is one, of nothing. Raises InputError where nobody is named, and naming file and line for what
    is no line of its kind, an answer to no question, and two answers to one.
    """
    if not by.strip():
        raise InputError("it is not said who gave the answers: name them")
    asked: dict[str, _Question] = {}
    for place, question in _read_lines(questions, _Question):
        if sha256_of(question.request) != question.key:
            raise InputError(f"{place}: its key is not the digest of its request: write the questions anew")
        asked[question.key] = question
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found: dict[str, StoredAnswer] = {}
    for place, given in _read_lines(answers, _Answer):
        if given.key not in asked:
            raise InputError(f"{place}: {given.key[:12]} is the key of no question in {questions}")
        if given.key in found and found[given.key].response.text != given.answer:
            raise InputError(f"{place}: a second answer to {given.key[:12]}, and another one: leave one of them")
        question = asked[given.key]
        outcome = Outcome.ANSWERED if given.answer.strip() else Outcome.EMPTY
        response = LMMResponse(outcome, given.answer, model_version=by, created_at=now, cost_usd=0.0)
        found[given.key] = StoredAnswer(given.key, question.request, response, question.backend)
    return list(found.values())


def _read_lines(path: Path, schema: type[DocumentT]) -> Iterator[tuple[str, DocumentT]]:
    """What stands in the lines that hold something, each after the words that name its place."""
    with open_regular(path) as file:
        for number, line in numbered_lines(file, path, MAX_TEXT_BYTES):
            if not line.strip():
                continue
            try:
                yield f"{path}: line {number}", parse_json(line, schema)
            except InputError as error:
                raise InputError(f"{path}: line {number}: {error}") from error
