"""Prices per model, and the cost of counted tokens: the one place that both come from.

Prices come from a backend file or else from the table inside litellm; a run keeps the digest of the one and the version
of the other. A model that neither knows has no price, and what it costs is unknown: never nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tlac.config.schemas import BackendSpec, Prices
from tlac.runtime.litellm_setup import load_litellm
from tlac.types import Usage

_PER_MILLION = 1_000_000
_FREE = Prices(prompt=0.0, completion=0.0)
# Anthropic's for five minutes, and nobody else reports tokens written to a cache apart
_CACHE_WRITE_FACTOR = 1.25


def prices_of(spec: BackendSpec) -> Prices | None:
    """Return USD per million tokens, or None where neither the backend file nor litellm's table knows the model."""
    if spec.prices:
        return spec.prices
    if spec.adapter in ("embedded", "pack"):
        return _FREE
    return _table_prices(spec.model) if spec.adapter == "litellm" else None


def is_free(spec: BackendSpec) -> bool:
    """Whether the model is known to cost nothing."""
    prices = prices_of(spec)
    return prices is not None and not any((prices.prompt, prices.completion, prices.cached, prices.cache_write))


def model_entry(model: str) -> Mapping[str, Any]:
    """Return what litellm's table says of a model; empty where it does not know it."""
    litellm = load_litellm()
    try:
        # resolves regions and prefixes, and takes no other provider's model of the same name
        key = litellm.get_model_info(model)["key"]
    except Exception:  # noqa: BLE001 - a plain Exception is what litellm raises for a model that it does not know
        return {}
    # for some that it does not know litellm invents an entry, at a price of 0
    return litellm.model_cost.get(key) or {}


@lru_cache
def _table_prices(model: str) -> Prices | None:
    if model.startswith(("ollama/", "ollama_chat/")):
        return _FREE
    entry = model_entry(model)
    # a price for each image or call comes on top of the tokens, and no usage says how many
    is_by_token = not any(entry.get(f"input_cost_per_{unit}") for unit in ("image", "request", "second", "character"))
    if entry.get("input_cost_per_token") is None or not is_by_token:
        return None

    def per_million(name: str) -> float | None:
        price = entry.get(name)
        return None if price is None else price * _PER_MILLION

    return Prices(
        prompt=per_million("input_cost_per_token") or 0.0,
        completion=per_million("output_cost_per_token") or 0.0,
        cached=per_million("cache_read_input_token_cost"),
        cache_write=per_million("cache_creation_input_token_cost"),
    )


def cost_usd(usage: Usage, prices: Prices) -> float:
    """Return the cost of one call in USD.

    Prompt tokens read from a cache cost `prices.cached` where that is given, those written to one `prices.cache_write`,
    or a quarter more than others.
    """
    cached_price = prices.prompt if prices.cached is None else prices.cached
    write_price = prices.prompt * _CACHE_WRITE_FACTOR if prices.cache_write is None else prices.cache_write
    fresh = max(0, usage.prompt - usage.cached - usage.cache_write)
    prompt = fresh * prices.prompt + usage.cached * cached_price + usage.cache_write * write_price
    return (prompt + usage.completion * prices.completion) / _PER_MILLION
