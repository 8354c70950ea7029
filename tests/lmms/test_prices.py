"""Prices: where they come from, and what counted tokens cost."""

from __future__ import annotations

import pytest

from tlac.config.schemas import BackendSpec, Prices, load_backend
from tlac.lmms.prices import cost_usd, prices_of
from tlac.types import Usage


@pytest.mark.parametrize(
    ("name", "prompt", "completion", "cached"),
    [("gemini", 0.3, 2.5, 0.03), ("gpt-4o", 2.5, 10.0, 1.25), ("claude", 1.0, 5.0, 0.1)],
)
def test_the_shipped_models_have_prices_in_litellms_table(
    name: str, prompt: float, completion: float, cached: float
) -> None:
    prices = prices_of(load_backend(name).spec)
    assert prices is not None
    assert (prices.prompt, prices.completion, prices.cached) == pytest.approx((prompt, completion, cached))


def test_a_model_that_runs_on_ones_own_machine_is_free() -> None:
    assert prices_of(load_backend("ollama").spec) == Prices(prompt=0.0, completion=0.0)
    assert prices_of(load_backend("vllm").spec) == Prices(prompt=0.0, completion=0.0)


def test_a_model_that_nobody_lists_has_no_price() -> None:
    assert prices_of(BackendSpec(adapter="litellm", model="openai/of-my-own")) is None


def test_a_name_that_another_provider_uses_too_is_not_taken_for_its_model() -> None:
    assert prices_of(BackendSpec(adapter="litellm", model="hosted_vllm/gpt-4o")) is None


def test_a_file_with_prices_goes_first() -> None:
    prices = Prices(prompt=7.0, completion=9.0)
    spec = BackendSpec(adapter="litellm", model="openai/gpt-4o", prices=prices)
    assert prices_of(spec) == prices


def test_cached_tokens_cost_their_own_price() -> None:
    usage = Usage(prompt=1_000_000, completion=100_000, cached=400_000)
    assert cost_usd(usage, Prices(prompt=1.0, completion=5.0, cached=0.1)) == pytest.approx(0.6 + 0.04 + 0.5)
    assert cost_usd(usage, Prices(prompt=1.0, completion=5.0)) == pytest.approx(1.0 + 0.5)
