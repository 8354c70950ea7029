"""Canonical JSON, and the keys under which responses and text embeddings are stored: digests of it.

A change in what goes into a key needs a new KEY_VERSION and a migration: old answers are paid for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from tlac.errors import UsageError
from tlac.interfaces import Dataset
from tlac.types import Image, LMMRequest, Message, Preparation

KEY_VERSION = 1
# one for all: json.dumps would make a new one for each value
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical_json(document: Any) -> str:
    """Encode a value as JSON, equal values as equal text: sorted keys, no spaces, 1.0 written as 1, and characters as
    they are.

    Raises UsageError for NaN, infinities, lone surrogates and what JSON can't hold.
    """
    return _encode(_plain(document))


def _encode(plain: Any) -> str:
    try:
        text = _ENCODER.encode(plain)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"text holds a lone surrogate at position {error.start}: it is not valid Unicode") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"a value can't be written as JSON: {error}") from error
    return text


def _plain(value: Any) -> Any:
    try:
        return _plain_parts(value)
    except RecursionError as error:
        raise UsageError("a value is nested too deeply to be written as JSON") from error


def _plain_parts(value: Any) -> Any:
    # most parts are text, and a look at each by itself took half of the time
    if isinstance(value, dict):
        return {str(key): item if type(item) is str else _plain_parts(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) is str else _plain_parts(item) for item in value]
    # temperature 0 and 0.0 ask for the same thing, but their JSON differs
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def sha256_of(document: Any) -> str:
    """Compute the sha256 (hex) of a value's canonical JSON."""
    return _digest(canonical_json(document))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def request_document(request: LMMRequest) -> dict[str, Any]:
    """Encode a request as JSON without image bytes: what its key is the digest of, and what packs carry."""
    choice = request.choice
    # absent in all that was asked before there was this form
    in_schema = {"choices_by_schema": len(choice.names)} if choice and choice.by_schema else {}
    return {
        **in_schema,
        "key_version": KEY_VERSION,
        "stage": request.stage,
        "model": request.model,
        "revision": request.revision,
        "params": _plain(dict(request.params)),
        "messages": [_message_document(message) for message in request.messages],
        "preparation": dict(_preparation_document(request.preparation)) if request.images else None,
        "choices_by_index": len(choice.classes) if choice and choice.by_index else None,
        "repeat": request.repeat,
    }


@cache
def _preparation_document(preparation: Preparation) -> dict[str, Any]:
    # to ask for its fields takes a third of the time of a whole key
    plain: dict[str, Any] = _plain(msgspec.structs.asdict(preparation))
    return plain


def _message_document(message: Message) -> dict[str, Any]:
    parts = [
        {"image_sha256": part.sha256} if isinstance(part, Image) else {"text": part.text} for part in message.parts
    ]
    return {"role": message.role, "parts": parts}


def response_key(request: LMMRequest) -> str:
    """Return the key (sha256, hex) under which the response to this request is stored.

    Computed at the first call, and kept by the request: a question that lists a thousand classes takes long to digest.
    """
    key = request.cached_key
    if key is None:
        document = request_document(request)
        key = _key_about_one_image(document) if len(request.images) == 1 else _digest(_encode(document))
        object.__setattr__(request, "cached_key", key)
    return key


# by a question about one image, without the image: the digest of its JSON up to there, to be gone on from, and the rest
_AROUND_IMAGE: dict[str, tuple[hashlib._Hash, str]] = {}
_MAX_QUESTIONS = 256
_SHOWN = '{"image_sha256":'


def _key_about_one_image(document: dict[str, Any]) -> str:
    """The key of a request that shows one image.

    A run asks the same question about many images: what stands around the image's digest is encoded once. Encoding it
    each time was a tenth of what a sample takes whose answer is stored.
    """
    (shown,) = (part for message in document["messages"] for part in message["parts"] if "image_sha256" in part)
    sha256, shown["image_sha256"] = shown["image_sha256"], None
    # differs wherever the JSON does: True is not 1 in it
    question = repr(document)
    around = _AROUND_IMAGE.get(question)
    if around is None:
        # no text holds these signs, since a quote in it is escaped, and messages are sorted before params
        before, _, after = _encode(document).partition(_SHOWN + "null")
        around = hashlib.sha256((before + _SHOWN).encode()), after
        if len(_AROUND_IMAGE) >= _MAX_QUESTIONS:
            _AROUND_IMAGE.clear()
        _AROUND_IMAGE[question] = around
    begun, after = around
    digest = begun.copy()
    digest.update(f"{_encode(sha256)}{after}".encode())
    return digest.hexdigest()


def embedding_key(fingerprint: str, text: str) -> str:
    """Compute the key (sha256, hex) of a text's embedding; `text` has its prompt template applied."""
    return embedding_keys(fingerprint, [text])[0]


def embedding_keys(fingerprint: str, texts: Iterable[str]) -> list[str]:
    """Compute the keys of many texts' embeddings: digests of the canonical JSON of [key version, fingerprint, text]."""
    head = _encode([KEY_VERSION, fingerprint])[:-1]
    # the encoder itself takes three times as long to look at a list as to quote its only text
    return [_digest(f"{head},{_encode(text)}]") for text in texts]


def dataset_digest(dataset: Dataset) -> str:
    """Compute the sha256 (hex) of split, protocol, class names and, in order, each sample's id and label."""
    digest = hashlib.sha256()
    head = {"split": dataset.split, "protocol": dataset.protocol, "classes": dataset.classes}
    digest.update(canonical_json(head).encode())
    for sample in dataset:
        # the canonical JSON of both in a list, of which a million are written
        label = "null" if sample.label is None else int(sample.label)
        digest.update(f"\n[{_encode(sample.id)},{label}]".encode())
    return digest.hexdigest()
