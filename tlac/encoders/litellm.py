"""Text encoders behind an embedding endpoint, hosted or local, through litellm.

The endpoint's vectors are taken as they come, scaled to length 1; whether it cut a text is not in its answer, so no
text is marked as cut.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tlac.config.schemas import EncoderConfig, check_options
from tlac.encoders.batching import encode_distinct, normalise
from tlac.encoders.weights import describe, short_reason
from tlac.errors import ConfigError, MissingAnswersError, PermanentError, TransientError
from tlac.runtime.litellm_setup import litellm_call, load_litellm
from tlac.runtime.redaction import remember_secret
from tlac.types import Encoding, Float32Array

BATCH_SIZE = 256
"""Texts in one request: below the limits of the providers that have one."""

_TIMEOUT_S = 60.0
_WAITS_S = (1.0, 4.0, 15.0)


class EndpointEncoder:
    """An embedding model behind an API; `model` is litellm's name for it, such as openai/text-embedding-3-small.

    Options: `dimensions` asks for shorter vectors, `revision` tells apart what one name means at different times.
    A request that may succeed later is sent again up to three times. Raises ConfigError for unknown options.
    """

    def __init__(self, config: EncoderConfig, sleep: Callable[[float], None] = time.sleep) -> None:
        check_options(config, {"dimensions": int, "revision": str})
        self.name = config.name
        self._config = config
        self._sleep = sleep

    @property
    def fingerprint(self) -> str:
        """Adapter, model and options; the address is no part of it."""
        return describe(self._config, self._config.spec.model)

    def encode(self, texts: Sequence[str]) -> Encoding:
        """n texts as (n, d) float32, rows of length 1; no texts give (0, 0).

        Raises MissingAnswersError offline, ConfigError where the key's variable is not set, TransientError or
        PermanentError where the endpoint gives no vectors.
        """
        return encode_distinct(texts, self._encode)

    def _encode(self, texts: list[str]) -> Encoding:
        if self._config.is_offline:
            raise MissingAnswersError(
                f"{len(texts)} text embeddings of {self.name} are not in the store, and it is asked over the network; "
                "run once with `tlac bench` and without --offline, or try --encoder minilm"
            )
        key = self._api_key()
        parts = [self._request(texts[start : start + BATCH_SIZE], key) for start in range(0, len(texts), BATCH_SIZE)]
        if len({part.shape[1] for part in parts}) > 1:
            raise PermanentError(f"encoder {self.name!r}: the endpoint changed the length of its vectors between calls")
        return Encoding(np.concatenate(parts), np.zeros(len(texts), np.bool_))

    def _api_key(self) -> str | None:
        variable = self._config.spec.api_key_env
        if variable is None:
            return None
        key = os.environ.get(variable)
        if not key:
            raise ConfigError(f"encoder {self.name!r} needs an API key: set {variable}, or use --encoder minilm")
        remember_secret(key)
        return key

    def _request(self, texts: list[str], key: str | None) -> Float32Array:
        for wait_s in _WAITS_S:
            try:
                return self._request_once(texts, key)
            except TransientError:
                self._sleep(wait_s)
        return self._request_once(texts, key)

    def _request_once(self, texts: list[str], key: str | None) -> Float32Array:
        litellm = load_litellm()
        import openai

        spec = self._config.spec
        extra = {"dimensions": spec.options["dimensions"]} if "dimensions" in spec.options else {}
        with litellm_call() as call:
            try:
                response = litellm.embedding(
                    model=spec.model,
                    input=texts,
                    api_key=key or "none",
                    api_base=spec.api_base,
                    timeout=_TIMEOUT_S,
                    num_retries=0,
                    max_retries=0,
                    **extra,
                )
            except openai.OpenAIError as error:
                raise self._translate(error, call.status) from error
        return self._read(response.data, len(texts))

    def _translate(self, error: Exception, status: int) -> TransientError | PermanentError:
        import openai

        if 300 <= status < 400:
            return PermanentError(
                f"encoder {self.name!r}: its address sends calls on to another, which would be told the key "
                f"(HTTP {status}); check api_base in {self._config.source}"
            )
        text = short_reason(error)
        status = getattr(error, "status_code", None) or 0
        if isinstance(error, openai.APIConnectionError) or status in (408, 429) or status >= 500:
            return TransientError(f"encoder {self.name!r}: the endpoint did not answer: {text}; try again later")
        variable = self._config.spec.api_key_env
        remedy = f"check {variable} and the model's name" if variable else "check the address and the model's name"
        return PermanentError(f"encoder {self.name!r}: the endpoint refused: {text}; {remedy}")

    def _read(self, rows: Sequence[Any], expected: int) -> Float32Array:
        try:
            ordered = sorted(rows, key=lambda row: int(row["index"]))
            vectors = np.array([row["embedding"] for row in ordered], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(f"encoder {self.name!r}: the endpoint's vectors can't be read: {error}") from error
        if vectors.ndim != 2 or len(vectors) != expected or not np.isfinite(vectors).all():
            raise PermanentError(
                f"encoder {self.name!r}: the endpoint gave {len(rows)} vectors of shape {vectors.shape} for "
                f"{expected} texts, or some that are not finite; check that it is an embedding model"
            )
        if not vectors.any(axis=1).all():
            raise PermanentError(f"encoder {self.name!r}: the endpoint gave a vector of zeros, which has no direction")
        return normalise(vectors)
