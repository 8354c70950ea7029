"""The JSON forms of what is kept: answers and text embeddings, as the store and response packs write them.

Parsing is strict, since both come from files that anybody may have written. Does not know where they lie.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np

from tlac.errors import InputError
from tlac.hashing import KEY_VERSION, canonical_json
from tlac.types import BoolArray, Float32Array, LMMResponse, Outcome, Usage

STORED_OUTCOMES = frozenset({Outcome.ANSWERED, Outcome.REFUSED, Outcome.EMPTY, Outcome.TRUNCATED})
MAX_DIMENSIONS = 65_536
_usage = lru_cache(maxsize=4096)(Usage)
_OUTCOMES = {outcome.value: outcome for outcome in STORED_OUTCOMES}

Count = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_DocumentT = TypeVar("_DocumentT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it is kept: the key, the request it is the digest of, the response, who gave it."""

    key: str
    request: dict[str, Any] = field(repr=False)
    response: LMMResponse
    backend: str


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """A text's embedding as it is kept: `vector` (d,) float32; `is_truncated` where the text was cut."""

    key: str
    vector: Float32Array = field(repr=False)
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class EmbeddingBlock:
    """Embeddings of several texts: `vectors` (n, d) float32, `is_truncated` (n,) where a text was cut."""

    keys: tuple[str, ...]
    vectors: Float32Array = field(repr=False)
    is_truncated: BoolArray = field(repr=False)


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the schemas: immutable, every key needed, and no key that is not listed."""


class _UsageDocument(Document, frozen=True):
    prompt: Count
    completion: Count
    cached: Count
    image: Count


class _ResponseDocument(Document, frozen=True):
    outcome: Literal["answered", "refused", "empty", "truncated"]
    text: str
    reason: str
    model_version: str
    usage: _UsageDocument
    cost_usd: _Seconds | None
    latency_s: _Seconds
    created_at: str


class _PartDocument(Document, frozen=True, omit_defaults=True):
    text: str | None = None
    image_sha256: Sha256 | None = None


class _MessageDocument(Document, frozen=True):
    role: Literal["system", "user"]
    parts: list[_PartDocument]


class _RequestDocument(Document, frozen=True):
    key_version: Count
    stage: Literal["stage1", "stage2"]
    model: str
    revision: str | None
    params: dict[str, Any]
    messages: list[_MessageDocument]
    preparation: dict[str, Any] | None
    choices_by_index: Count | None
    repeat: Count


class _AnswerRow(Document, frozen=True):
    backend: str
    request: msgspec.Raw
    response: _ResponseDocument


class _EmbeddingRow(Document, frozen=True):
    # base64, decoded by the parser
    vector: bytes
    is_truncated: bool


def is_stored(response: LMMResponse) -> bool:
    """Whether a response is an answer that may be kept: neither failed nor unparsed."""
    return response.outcome in STORED_OUTCOMES


def response_document(response: LMMResponse) -> dict[str, Any]:
    """A response as JSON. Raises InputError for one that is not an answer: those are never kept."""
    if not is_stored(response):
        raise InputError(f"a response with outcome {response.outcome} is not an answer and is not kept")
    document = asdict(response)
    del document["from_store"]
    return document | {"outcome": response.outcome.value}


def parse_response(document: Any) -> LMMResponse:
    """A response from its JSON, marked as coming from the store. Raises InputError naming the field."""
    return _response(convert(document, _ResponseDocument))


def check_request(document: Any) -> None:
    """Hold a request's JSON against its schema. Raises InputError naming the field."""
    request = convert(document, _RequestDocument)
    if request.key_version != KEY_VERSION:
        raise InputError(f"a request of key version {request.key_version}; this tlac reads {KEY_VERSION}: upgrade tlac")
    for message in request.messages:
        if any((part.text is None) == (part.image_sha256 is None) for part in message.parts):
            raise InputError("a part of a message must hold either 'text' or 'image_sha256'")


def answer_text(request: dict[str, Any], response: LMMResponse, backend: str) -> str:
    """The JSON text that the store keeps for an answer."""
    return canonical_json({"backend": backend, "request": request, "response": response_document(response)})


def parse_answer(key: str, text: bytes) -> StoredAnswer:
    """An answer from the store's JSON text (UTF-8). Raises InputError saying what is wrong with it."""
    row = decode(text, _AnswerRow)
    request = decode(bytes(row.request), dict[str, Any])
    return StoredAnswer(key, request, _response(row.response), row.backend)


def parse_answer_words(text: bytes) -> LMMResponse:
    """The response from the store's JSON text as far as a matching rule looks at it: outcome, text and reason.

    Parsing is as strict as for the whole.
    """
    found: _ResponseDocument = decode(text, _AnswerRow).response
    return LMMResponse(_OUTCOMES[found.outcome], found.text, found.reason, from_store=True)


def parse_answer_response(text: bytes) -> LMMResponse:
    """The response alone from the store's JSON text; skips over the request, which may hold a long class list."""
    return _response(decode(text, _AnswerRow).response)


def vector_text(vector: Float32Array) -> str:
    """A vector (d,) as base64 of its little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def parse_vector(text: str) -> Float32Array:
    """The vector (d,) float32 that `vector_text` wrote. Raises InputError for anything else."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"a vector is not base64: {error}") from error
    return _vector(content)


def _vector(content: bytes) -> Float32Array:
    if not content or len(content) % 4 or len(content) > 4 * MAX_DIMENSIONS:
        raise InputError(f"a vector of {len(content)} bytes: expected 4 for each of 1 to {MAX_DIMENSIONS} dimensions")
    vector = np.frombuffer(content, dtype="<f4").astype(np.float32, copy=False)
    # the product is not finite where a value is not, and costs a third of looking at each
    if not math.isfinite(np.dot(vector, vector)) and not np.isfinite(vector).all():
        raise InputError("a vector holds a value that is not finite")
    return vector


def embedding_text(vector: Float32Array, is_truncated: bool) -> str:
    """The JSON text that the store keeps for an embedding."""
    return canonical_json({"vector": vector_text(vector), "is_truncated": is_truncated})


def parse_embedding(key: str, text: bytes) -> StoredEmbedding:
    """An embedding from the store's JSON text (UTF-8). Raises InputError saying what is wrong with it."""
    row = decode(text, _EmbeddingRow)
    return StoredEmbedding(key, _vector(row.vector), row.is_truncated)


def parse_embeddings(rows: Sequence[tuple[str, bytes]]) -> EmbeddingBlock:
    """Embeddings of one encoder by their keys, from the store's JSON texts (UTF-8), one or more; as strict as
    parse_embedding. Raises InputError, not saying which row is wrong."""
    found: list[_EmbeddingRow] = [decode(text, _EmbeddingRow) for _, text in rows]
    size = len(found[0].vector)
    if not 0 < size <= 4 * MAX_DIMENSIONS or size % 4 or any(len(row.vector) != size for row in found):
        raise InputError("vectors that are not of one and the same number of dimensions")
    vectors = np.frombuffer(b"".join([row.vector for row in found]), dtype="<f4").astype(np.float32, copy=False)
    # one look at all of them, where parse_embedding looks at each
    if not np.isfinite(vectors).all():
        raise InputError("a vector holds a value that is not finite")
    return EmbeddingBlock(
        tuple(key for key, _ in rows),
        vectors.reshape(len(found), -1),
        np.array([row.is_truncated for row in found], np.bool_),
    )


def decode(text: bytes, schema: type[Any]) -> Any:
    """JSON text (UTF-8) as a schema's type. Raises InputError with the parser's complaint."""
    try:
        return msgspec.json.decode(text, type=schema, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"not as expected: {error}") from error


def convert(document: Any, schema: type[_DocumentT]) -> _DocumentT:
    """A parsed JSON value as a schema's type. Raises InputError with the parser's complaint."""
    try:
        return msgspec.convert(document, schema, strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(f"not as expected: {error}") from error


def _response(document: _ResponseDocument) -> LMMResponse:
    usage = document.usage
    return LMMResponse(
        outcome=_OUTCOMES[document.outcome],
        # answers repeat: a run over a million samples holds each once
        text=sys.intern(document.text),
        reason=document.reason,
        model_version=sys.intern(document.model_version),
        usage=_usage(usage.prompt, usage.completion, usage.cached, usage.image),
        cost_usd=document.cost_usd,
        latency_s=document.latency_s,
        created_at=sys.intern(document.created_at),
        from_store=True,
    )


# after all keys of answers, which are hexadecimal
TEXT_KEY_PREFIX = "text:"
LONG_CHARACTERS = 1024


class _TextRow(Document, frozen=True):
    text: str


def text_row(text: str) -> tuple[str, str]:
    """The key of a text and the JSON text that is kept under it."""
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return TEXT_KEY_PREFIX + digest, canonical_json({"text": text})


def parse_text_row(key: str, content: bytes) -> str:
    """The text kept under a key. Raises InputError where it is not the one that the key is the digest of."""
    row: _TextRow = decode(content, _TextRow)
    if text_row(row.text)[0] != key:
        raise InputError("a text that its key is not the digest of")
    return row.text


def fold(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A request with each long text replaced by its digest, and the rows of these texts by their keys."""
    rows: dict[str, str] = {}

    def fold_part(part: dict[str, Any]) -> dict[str, Any]:
        if len(part.get("text") or "") < LONG_CHARACTERS:
            return part
        key, content = text_row(part["text"])
        rows[key] = content
        return {"text_sha256": key.removeprefix(TEXT_KEY_PREFIX)}

    return _map_parts(request, fold_part), rows


def unfold(request: dict[str, Any], text_of: Callable[[str], str]) -> dict[str, Any]:
    """The request that `fold` was given; `text_of` finds the text of a row's key.

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
