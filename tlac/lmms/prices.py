"""Prices per model, and the cost of counted tokens.

Prices come from a backend file or else from the table inside litellm; a run keeps the digest of the one and the version
of the other.
"""

from __future__ import annotations

from tlac.config.schemas import BackendSpec, Prices
from tlac.runtime.litellm_setup import load_litellm
from tlac.types import Usage

UNPREFIXED = ("openai", "anthropic")
"""Providers whose models stand in litellm's table by their bare names; elsewhere a bare name is another's model."""

_PER_MILLION = 1_000_000


def prices_of(spec: BackendSpec) -> Prices | None:
    """Return USD per million tokens, or None where neither the backend file nor litellm's table knows the model."""
    if spec.prices or spec.adapter != "litellm":
        return spec.prices or Prices(prompt=0.0, completion=0.0)
    provider, _, model = spec.model.partition("/")
    if provider.startswith("ollama"):
        return Prices(prompt=0.0, completion=0.0)
    table = load_litellm().model_cost
    entry = table.get(spec.model) or (table.get(model) if provider in UNPREFIXED else None)
    if not entry or entry.get("input_cost_per_token") is None:
        return None
    cached = entry.get("cache_read_input_token_cost")
    return Prices(
        prompt=entry["input_cost_per_token"] * _PER_MILLION,
        completion=(entry.get("output_cost_per_token") or 0.0) * _PER_MILLION,
        cached=None if cached is None else cached * _PER_MILLION,
    )


def cost_usd(usage: Usage, prices: Prices) -> float:
    """Return the cost of one call in USD. Cached prompt tokens cost `prices.cached`, where that is given."""
    cached_price = prices.prompt if prices.cached is None else prices.cached
    fresh = max(0, usage.prompt - usage.cached)
    total = fresh * prices.prompt + usage.cached * cached_price + usage.completion * prices.completion
    return total / _PER_MILLION
