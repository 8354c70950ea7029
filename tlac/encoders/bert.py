"""Small BERT models in numpy: MiniLM and its like, read from a sentence-transformers folder.

sentence-transformers takes six seconds and a gigabyte to import, torch alone half a gigabyte, and such a model is 22
million numbers and twenty lines of arithmetic. Every other kind of model is the library's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tlac.encoders.batching import run_batches
from tlac.errors import InputError
from tlac.runtime.libraries import restored_environment
from tlac.runtime.safe_files import read_file, read_json
from tlac.types import Float32Array

_MAX_CONFIG_BYTES = 2**20
_MAX_TOKENIZER_BYTES = 2**26
_WORDS = "embeddings.word_embeddings.weight"
_HALF = np.float32(0.5)
_ROOT_HALF = np.float32(np.sqrt(0.5))
_ONE_THREAD_EACH = threading.Lock()


class _BertConfig(msgspec.Struct, frozen=True):
    """What a model folder's config.json says of a BERT with absolute positions; other kinds don't convert."""

    model_type: Literal["bert"]
    num_attention_heads: int
    num_hidden_layers: int
    max_position_embeddings: int
    layer_norm_eps: float
    hidden_act: Literal["gelu"]
    architectures: tuple[Literal["BertModel"]] = ("BertModel",)
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False


class BertModel:
    """A BERT whose vector of a text is the mean of its tokens' vectors, or the first's, in float32.

    Use `open_plain`, which makes one where a folder holds such a model. A vector depends on its text alone: each text
    is multiplied by itself, since the kernels for one tall matrix sum a row in an order that hangs on where it stands
    (measured with OpenBLAS). Such products take one thread, so batches are spread over `threads`.
    """

    def __init__(self, config: _BertConfig, weights: Any, tokenizer: Any, window: int, pools_first: bool) -> None:
        self.window = window
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._config = config
        # the largest table by far, of which a few rows are read
        self._words = weights.get_slice(_WORDS)
        self._weights: dict[str, Float32Array] = {}
        for name in weights.keys():  # noqa: SIM118 - a file and no dict
            if name != _WORDS and name.endswith((".weight", ".bias")):
                table = weights.get_tensor(name)
                # products want them as (inputs, outputs)
                self._weights[name] = np.ascontiguousarray(table.T) if ".layer." in name else table
        self._tokenizer = tokenizer
        self._pools_first = pools_first

    @property
    def is_float32(self) -> bool:
        """Whether all numbers of the model are of that type, which is what it calculates with."""
        return all(table.dtype == np.float32 for table in (self._words[:1], *self._weights.values()))

    def count_tokens(self, text: str) -> int:
        """The tokens of a text, with the two that stand around it, however many the model sees."""
        return len(self._tokenizer.encode(text).ids)

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """Texts, at least one, as (n, d) float32 of length 1."""
        # it sets a variable when it is imported, which other libraries would heed
        with restored_environment(["KMP_DUPLICATE_LIB_OK"]):
            from threadpoolctl import threadpool_limits
        encoded = (found.ids for found in self._tokenizer.encode_batch(list(texts)))
        # what is cut are a text's own tokens, not the last, which ends it
        tokens = [ids if len(ids) <= self.window else [*ids[: self.window - 1], ids[-1]] for ids in encoded]
        lengths = [len(ids) for ids in tokens]
        # a product that is shared by threads has other last bits; the lock, since who ends first sets them back
        with _ONE_THREAD_EACH, threadpool_limits(1, user_api="blas"):
            return run_batches(
                lengths, lambda batch: self._forward([tokens[row] for row in batch.rows[: batch.count]]), self.threads
            )

    def _forward(self, tokens: Sequence[Sequence[int]]) -> Float32Array:
        """Texts of one token length, (n, t) token numbers, as (n, d)."""
        states = self._embed_tokens(np.array(tokens))
        for layer in range(self._config.num_hidden_layers):
            states = self._attend(states, f"encoder.layer.{layer}.attention")
            inner = _gelu(self._linear(states, f"encoder.layer.{layer}.intermediate.dense"))
            states = self._add(states, inner, f"encoder.layer.{layer}.output")
        pooled: Float32Array = states[:, 0] if self._pools_first else states.mean(axis=1)
        return pooled

    def _embed_tokens(self, tokens: NDArray[np.int64]) -> Float32Array:
        places, kinds = (self._weights[f"embeddings.{table}_embeddings.weight"] for table in ("position", "token_type"))
        distinct, inverse = np.unique(tokens, return_inverse=True)
        words = np.concatenate([self._words[token : token + 1] for token in distinct.tolist()])[inverse]
        states = words.reshape(*tokens.shape, -1) + places[: tokens.shape[1]] + kinds[0]
        return self._normalise(states, "embeddings.LayerNorm")

    def _attend(self, states: Float32Array, name: str) -> Float32Array:
        """Self-attention over (n, t, d) states of n texts with t tokens."""
        n, t, d = states.shape
        heads = self._config.num_attention_heads
        queries, keys, values = (
            self._linear(states, f"{name}.self.{part}").reshape(n, t, heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = queries @ keys.transpose(0, 1, 3, 2)
        scores *= np.float32((d // heads) ** -0.5)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return self._add(states, (scores @ values).transpose(0, 2, 1, 3).reshape(n, t, d), f"{name}.output")

    def _add(self, states: Float32Array, update: Float32Array, name: str) -> Float32Array:
        added = self._linear(update, f"{name}.dense")
        added += states
        return self._normalise(added, f"{name}.LayerNorm")

    def _linear(self, states: Float32Array, name: str) -> Float32Array:
        product: Float32Array = states @ self._weights[f"{name}.weight"]
        product += self._weights[f"{name}.bias"]
        return product

    def _normalise(self, states: Float32Array, name: str) -> Float32Array:
        states -= states.mean(axis=-1, keepdims=True)
        variance = np.einsum("...i,...i->...", states, states)[..., None] / np.float32(states.shape[-1])
        states /= np.sqrt(variance + np.float32(self._config.layer_norm_eps))
        states *= self._weights[f"{name}.weight"]
        states += self._weights[f"{name}.bias"]
        return states


def _gelu(states: Float32Array) -> Float32Array:
    from scipy.special import erf

    found: Float32Array = erf(states * _ROOT_HALF)
    found += np.float32(1)
    found *= states
    found *= _HALF
    return found


def open_plain(folder: Path) -> BertModel | None:
    """The model of a sentence-transformers folder where it is of this kind: BERT, and mean or first-token pooling.

    None for any other kind, which includes one whose texts get a prompt, and for files that can't be used: the library,
    which reads the same files, says what is wrong with them.
    """
    pooling = _read_pooling(folder)
    config = _read(folder / "config.json", _BertConfig)
    settings = _read(folder / "sentence_bert_config.json", dict[str, Any])
    if pooling is None or config is None or settings is None or not _is_plain(settings):
        return None
    from safetensors import safe_open
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(read_file(folder / "tokenizer.json", _MAX_TOKENIZER_BYTES).decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        told = _read(folder / "tokenizer_config.json", dict[str, Any]) or {}
        limit = settings.get("max_seq_length") or told.get("model_max_length") or config.max_position_embeddings
        window = int(min(limit, config.max_position_embeddings))
        weights = safe_open(folder / "model.safetensors", framework="np")
        model = BertModel(config, weights, tokenizer, window, pooling == "cls")
        # around a text stand a first and a last token; tables that are missing, or of another type or shape, show here
        return model if model.count_tokens("") == 2 and model.is_float32 and len(model.embed(["a"])) == 1 else None
    # tokenizers raises bare exceptions
    except Exception:  # noqa: BLE001
        return None


def _is_plain(settings: dict[str, Any]) -> bool:
    """Whether sentence_bert_config.json asks for a transformer's last states, as written before version 6 or since."""
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    expected = {
        "do_lower_case": False,
        "transformer_task": "feature-extraction",
        "modality_config": {"text": forward},
        "module_output_name": "token_embeddings",
    }
    return all(settings.get(name, value) == value for name, value in expected.items())


def _read_pooling(folder: Path) -> str | None:
    """How the token vectors become one, "mean" or "cls"; None where a model does something else or something more."""
    modules = _read(folder / "modules.json", list[dict[str, Any]]) or []
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    paths = [str(module.get("path")) for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or paths[0]:
        return None
    prompts = _read(folder / "config_sentence_transformers.json", dict[str, Any]) or {}
    pooling = _read(folder / paths[1] / "config.json", dict[str, Any])
    if pooling is None or prompts.get("default_prompt_name") is not None:
        return None
    # one name since version 6, a switch for each before
    chosen = {key.removeprefix("pooling_mode_") for key, value in pooling.items() if "pooling_mode_" in key and value}
    modes = {("mean_tokens",): "mean", ("cls_token",): "cls", ("mean",): "mean", ("cls",): "cls"}
    return modes.get((str(pooling["pooling_mode"]),) if "pooling_mode" in pooling else tuple(chosen))


def _read(path: Path, schema: Any) -> Any:
    """A JSON file as this type, None where it is missing or says something else."""
    try:
        return read_json(path, schema, _MAX_CONFIG_BYTES)
    except InputError:
        return None
