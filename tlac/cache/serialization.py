"""The JSON forms of stored answers and text embeddings: rows of the store, lines of packs and of workers' logs.

Parsing is strict, since all of them come from files that anybody may have written.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import structs

from tlac.errors import InputError
from tlac.hashing import KEY_VERSION, canonical_json, request_document, response_key, sha256_of
from tlac.runtime.formatting import valid_unicode
from tlac.runtime.safe_files import parse_json
from tlac.types import Encoding, Float32Array, LMMRequest, LMMResponse, Outcome, Usage

STORED_OUTCOMES = frozenset({Outcome.ANSWERED, Outcome.REFUSED, Outcome.EMPTY, Outcome.TRUNCATED})
MAX_DIMENSIONS = 65_536
# text rows sort after all keys of answers, which are hexadecimal
TEXT_KEY_PREFIX = "text:"
LONG_CHARACTERS = 1024

# the longest row or line that is written, and so the longest that is read
MAX_TEXT_BYTES = 16 * 2**20
# even where each takes six bytes in JSON, a text of so many leaves room for the rest of its row
MAX_ANSWER_CHARACTERS = 2_500_000
_MAX_REASON_CHARACTERS = 100_000
_MAX_NAME_CHARACTERS = 1_000
_MAX_AMOUNT = 1e9

# no sum of such numbers is infinite, and each stays as it is in any JSON
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Amount = Annotated[float, msgspec.Meta(ge=0, le=_MAX_AMOUNT)]
_LogProbability = Annotated[float, msgspec.Meta(ge=-_MAX_AMOUNT, le=0)]

_OUTCOMES = {outcome.value: outcome for outcome in STORED_OUTCOMES}
# most calls use one of a few counts of tokens
_usage = lru_cache(maxsize=4096)(Usage)


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the schemas: immutable, every key needed unless it has a default, and no key that is not listed."""


class _Usage(Document, frozen=True):
    prompt: Count
    completion: Count
    cached: Count
    image: Count
    # later additions, left out where they are 0: an older tlac reads such a row too
    reasoning: Count = 0
    cache_write: Count = 0


class _Response(Document, frozen=True):
    outcome: Literal["answered", "refused", "empty", "truncated"]
    text: str
    reason: str
    model_version: str
    usage: _Usage
    cost_usd: _Amount | None
    latency_s: _Amount
    created_at: str
    # a later addition, left out where nobody asked for it
    logprob: _LogProbability | None = None


class _Part(Document, frozen=True):
    text: str | None = None
    image_sha256: Sha256 | None = None


class _Message(Document, frozen=True):
    role: Literal["system", "user"]
    parts: list[_Part]


class _Request(Document, frozen=True):
    key_version: Count
    stage: Literal["stage1", "stage2"]
    model: str
    revision: str | None
    params: dict[str, Any]
    messages: list[_Message]
    preparation: dict[str, Any] | None
    choices_by_index: Count | None
    repeat: Count
    choices_by_schema: Count | None = None


class _AnswerLine(Document, frozen=True):
    request: msgspec.Raw
    response: _Response
    # a row of the store has its key beside it, and a pack may name its backend once for all
    key: Sha256 | None = None
    backend: str | None = None


_ANSWER_LINE = msgspec.json.Decoder(_AnswerLine)


class _EmbeddingLine(Document, frozen=True):
    # base64 in JSON
    vector: bytes
    is_truncated: bool
    embedding_key: Sha256 | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it is stored: the key, the request (JSON) that it is the digest of, the response, the backend.

    `is_checked` says that the key is known to be that digest. A fresh response is stored as `storable` makes it.
    """

    key: str
    request: dict[str, Any] = field(repr=False)
    response: LMMResponse
    backend: str
    is_checked: bool = field(default=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.response.from_store:
            response = storable(self.response)
            if response.logprob is not None and not _asks_for_logprobs(self.request):
                # some providers tell it to everybody: answers to one question say the same, whoever gave them
                response = structs.replace(response, logprob=None)
            object.__setattr__(self, "response", response)

    @classmethod
    def of(cls, request: LMMRequest, response: LMMResponse, backend: str) -> StoredAnswer:
        """Make the answer to a request; its key needs no check."""
        return cls(response_key(request), request_document(request), response, backend, is_checked=True)

    def checked(self) -> StoredAnswer:
        """Check form and key of the request. Raises InputError naming what is wrong."""
        if self.is_checked:
            return self
        _check_request(self.request)
        if sha256_of(self.request) != self.key:
            raise InputError(f"key {self.key[:12]} is not the digest of its request")
        return replace(self, is_checked=True)


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """A text's embedding as it is stored: `vector` (d,) float32; `is_truncated` where the text was cut."""

    key: str
    vector: Float32Array = field(repr=False)
    is_truncated: bool


def is_stored(response: LMMResponse) -> bool:
    """Whether a response is an answer that is stored: neither failed nor unparsed."""
    return response.outcome in STORED_OUTCOMES


def storable(response: LMMResponse) -> LMMResponse:
    """Make a fresh response fit for the store: providers say the strangest things, and the call is paid for.

    A number that can't be true (a negative or fractional count, an infinite price) becomes unknown; without sound
    counts no price is known either. A text that is too long for a row is cut, and the outcome says so; lone
    surrogates become U+FFFD.
    """
    usage = response.usage
    counts = [count if type(count) is int and 0 <= count < 2**53 else 0 for count in structs.astuple(usage)]
    sound = Usage(*counts)
    text, outcome, reason = response.text, response.outcome, response.reason
    if len(text) > MAX_ANSWER_CHARACTERS:
        reason = f"cut by tlac after {MAX_ANSWER_CHARACTERS:,} of {len(text):,} characters; {reason}".rstrip("; ")
        text = text[:MAX_ANSWER_CHARACTERS]
        outcome = Outcome.TRUNCATED if outcome is Outcome.ANSWERED else outcome
    return structs.replace(
        response,
        outcome=outcome,
        text=valid_unicode(text),
        reason=valid_unicode(reason[:_MAX_REASON_CHARACTERS]),
        model_version=valid_unicode(response.model_version[:_MAX_NAME_CHARACTERS]),
        usage=sound,
        cost_usd=response.cost_usd if sound == usage and _is_between(0, response.cost_usd, _MAX_AMOUNT) else None,
        latency_s=response.latency_s if _is_between(0, response.latency_s, _MAX_AMOUNT) else 0.0,
        created_at=valid_unicode(response.created_at[:_MAX_NAME_CHARACTERS]),
        # of the text as it was given
        logprob=response.logprob if text == response.text and _is_between(-_MAX_AMOUNT, response.logprob, 0) else None,
    )


def _asks_for_logprobs(request: dict[str, Any]) -> bool:
    params = request.get("params")
    return isinstance(params, dict) and bool(params.get("logprobs"))


def _is_between(least: float, value: object, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]


def answer_text(
    answer: StoredAnswer,
    *,
    has_key: bool = False,
    has_backend: bool = True,
    request: dict[str, Any] | None = None,
) -> str:
    """Encode an answer as JSON text, as parse_answer takes it. `request` stands in its own one's place: as `fold`
    makes it.

    Raises InputError for a response that is not an answer, which is never kept, and for what could not be read back.
    """
    response = answer.response
    if not is_stored(response):
        raise InputError(f"a response with outcome {response.outcome} is not an answer and is not kept")
    told = msgspec.to_builtins(response)
    del told["from_store"]
    if response.logprob is None:
        del told["logprob"]
    told["usage"] = {
        name: count for name, count in told["usage"].items() if count or name not in ("reasoning", "cache_write")
    }
    document: dict[str, Any] = {"request": request or answer.request, "response": told}
    if has_key:
        document["key"] = answer.key
    if has_backend:
        document["backend"] = answer.backend
    text = canonical_json(document)
    written = text.encode()
    if len(written) >= MAX_TEXT_BYTES:
        raise InputError(f"a text of {len(written):,} bytes is too long to be kept: less than {MAX_TEXT_BYTES:,} are")
    # what reading would refuse is not written
    parse_json(written, _AnswerLine)
    return text


def parse_answer(text: bytes, key: str | None = None, backend: str | None = None) -> StoredAnswer:
    """Parse an answer from its JSON text (UTF-8). `key` and `backend` are those of a text that does not name its own.

    Raises InputError saying what is wrong with it. Long texts of the request may still be folded away.
    """
    line: _AnswerLine = parse_json(text, _AnswerLine)
    if (line.key is None) == (key is None) or (line.backend is None) == (backend is None):
        raise InputError("an answer must name its key and its backend, each once")
    request = parse_json(bytes(line.request), dict[str, Any])
    return StoredAnswer(line.key or key or "", request, _response(line.response), line.backend or backend or "")


def parse_response(text: bytes) -> LMMResponse:
    """Parse the response alone from an answer's JSON text; skips the request, which may hold a long class list."""
    try:
        # no look at how deep the request is nested, which takes as long again: it is passed over
        return _response(_ANSWER_LINE.decode(text).response)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"not as expected: {error}") from error


def _response(found: _Response) -> LMMResponse:
    usage = found.usage
    return LMMResponse(
        outcome=_OUTCOMES[found.outcome],
        # answers repeat: a run over a million samples holds each once
        text=sys.intern(found.text),
        reason=found.reason,
        model_version=sys.intern(found.model_version),
        usage=_usage(usage.prompt, usage.completion, usage.cached, usage.image, usage.reasoning, usage.cache_write),
        cost_usd=found.cost_usd,
        latency_s=found.latency_s,
        created_at=sys.intern(found.created_at),
        from_store=True,
        logprob=found.logprob,
    )


def _check_request(document: Any) -> None:
    """Validate a request's JSON. Raises InputError naming the field."""
    try:
        request = msgspec.convert(document, _Request, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"not as expected: {error}") from error
    if request.key_version != KEY_VERSION:
        raise InputError(f"a request of key version {request.key_version}; this tlac reads {KEY_VERSION}: upgrade tlac")
    for message in request.messages:
        if any((part.text is None) == (part.image_sha256 is None) for part in message.parts):
            raise InputError("a part of a message must hold either 'text' or 'image_sha256'")


def embedding_text(embedding: StoredEmbedding, *, has_key: bool = False) -> str:
    """Encode an embedding as JSON text, its vector as base64 of little-endian float32.

    Raises InputError for what could not be read back, such as a vector that is not finite.
    """
    vector = base64.b64encode(np.ascontiguousarray(embedding.vector, dtype="<f4").tobytes()).decode("ascii")
    document: dict[str, Any] = {"vector": vector, "is_truncated": embedding.is_truncated}
    text = canonical_json(document | {"embedding_key": embedding.key} if has_key else document)
    parse_embedding(text.encode(), None if has_key else embedding.key)
    return text


def parse_embedding(text: bytes, key: str | None = None) -> StoredEmbedding:
    """Parse an embedding from its JSON text (UTF-8); `key` is that of a text that does not name its own.

    Raises InputError saying what is wrong with it.
    """
    line: _EmbeddingLine = parse_json(text, _EmbeddingLine)
    if (line.embedding_key is None) == (key is None):
        raise InputError("an embedding must name its key once")
    return StoredEmbedding(line.embedding_key or key or "", _vectors([line])[0], line.is_truncated)


def parse_embeddings(texts: Sequence[bytes]) -> Encoding:
    """Parse embeddings of one encoder from the store's JSON texts (UTF-8), one or more, in their order; as strict as
    parse_embedding. Raises InputError, not saying which text is wrong."""
    lines: list[_EmbeddingLine] = [parse_json(text, _EmbeddingLine) for text in texts]
    return Encoding(_vectors(lines), np.array([line.is_truncated for line in lines], np.bool_))


def _vectors(lines: Sequence[_EmbeddingLine]) -> Float32Array:
    size = len(lines[0].vector)
    if not size or size % 4 or size > 4 * MAX_DIMENSIONS:
        raise InputError(f"a vector of {size} bytes: expected 4 for each of 1 to {MAX_DIMENSIONS} dimensions")
    if any(len(line.vector) != size for line in lines):
        raise InputError("vectors that are not of one and the same number of dimensions")
    vectors = np.frombuffer(b"".join([line.vector for line in lines]), dtype="<f4").astype(np.float32, copy=False)
    if not np.isfinite(vectors).all():
        raise InputError("a vector holds a value that is not finite")
    return vectors.reshape(len(lines), -1)


def text_key(text: str) -> str:
    """Make the key of the row of a text that many requests share."""
    return TEXT_KEY_PREFIX + hashlib.sha256(text.encode("utf-8")).hexdigest()


def parse_text_row(key: str, content: bytes) -> str:
    """Parse the row of a shared text. Raises InputError where the key is not its digest."""
    text: str | None = parse_json(content, dict[Literal["text"], str]).get("text")
    if text is None or text_key(text) != key:
        raise InputError("a text that its key is not the digest of")
    return text


def fold(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Replace each long text of a request by its digest; returns also the rows of these texts by their keys."""
    rows: dict[str, str] = {}

    def fold_part(part: dict[str, Any]) -> dict[str, Any]:
        if len(part.get("text") or "") < LONG_CHARACTERS:
            return part
        key = text_key(part["text"])
        rows[key] = canonical_json({"text": part["text"]})
        return {"text_sha256": key.removeprefix(TEXT_KEY_PREFIX)}

    return _map_parts(request, fold_part), rows


def unfold(request: dict[str, Any], text_of: Callable[[str], str]) -> dict[str, Any]:
    """Undo `fold`; `text_of` finds the text of a row's key.

    Raises InputError for a request that has no messages with parts, and what `text_of` raises.
    """

    def unfold_part(part: dict[str, Any]) -> dict[str, Any]:
        if "text_sha256" not in part:
            return part
        return {"text": text_of(TEXT_KEY_PREFIX + str(part["text_sha256"]))}

    try:
        return _map_parts(request, unfold_part)
    except (KeyError, TypeError) as error:
        raise InputError("a request without messages of parts") from error


def _map_parts(request: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    messages = [{**message, "parts": [change(part) for part in message["parts"]]} for message in request["messages"]]
    return {**request, "messages": messages}
